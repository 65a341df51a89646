package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
)

const hostLocalName = "host-local"

// hostLocal is the host-local plugin as clusters use it: every node has a range
// and a directory of its own.
type hostLocal struct {
	plugin
	dir string
}

func (h *hostLocal) name() string              { return hostLocalName }
func (h *hostLocal) takesPart(s scenario) bool { return s.name != exact }

func (h *hostLocal) round(ctx context.Context, s scenario, r *row) error {
	nodes := make([][]sandbox, s.nodes)
	for n := range nodes {
		conf, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "bench", "ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(h.dir, fmt.Sprint(n)),
			"ranges": [][]map[string]string{{{"subnet": fmt.Sprintf("10.%d.0.0/16", n)}}},
		}})
		if err != nil {
			return err
		}
		for i := range s.pods {
			id := containerID() // it knows no pods, so there are none
			nodes[n] = append(nodes[n], sandbox{id: id, namespace: namespace, pod: fmt.Sprintf("pod-%d-%d", n, i), uid: id, conf: conf})
		}
	}
	outcomes, took := h.drive(ctx, "ADD", nodes, s.inFlight)
	r.added(outcomes, took)
	outcomes, _ = h.drive(ctx, "DEL", nodes, s.inFlight)
	r.deleted(outcomes)
	return nil
}
