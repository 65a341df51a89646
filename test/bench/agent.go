package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
	"github.com/spidernet-io/spiderpool/test/lab/process"
)

const (
	readyTimeout = time.Minute // generous: the machine may be compiling
	stopGrace    = 5 * time.Second
)

// agent is the process spiderpool-agent of one node.
type agent struct {
	process.Process
	node, dir, socket string
	health            int // port
}

// start starts the agent with its files in dir and ports of its own, and with
// the chart's configuration but for the place of the socket. It ends with this
// process at the latest.
func (a *agent) start(program string, cfg *rest.Config, chart map[string]any) error {
	settings := maps.Clone(chart)
	settings["ipamUnixSocketPath"] = a.socket
	args, err := daemon(a.dir, cfg, settings)
	if err != nil {
		return err
	}
	ports, err := freePorts()
	if err != nil {
		return err
	}
	a.health = ports[0]
	a.Process, err = process.Start(process.Options{
		Args: append([]string{program}, args...),
		Env: []string{"SPIDERPOOL_NODE_NAME=" + a.node, "SPIDERPOOL_HEALTH_PORT=" + strconv.Itoa(ports[0]),
			"SPIDERPOOL_METRIC_HTTP_PORT=" + strconv.Itoa(ports[1]), "SPIDERPOOL_GOPS_LISTEN_PORT=" + strconv.Itoa(ports[2])},
		Log: filepath.Join(a.dir, "agent.log"),
	})
	return err
}

// daemon writes the files that one of our daemons reads to dir, and returns its arguments.
func daemon(dir string, cfg *rest.Config, settings map[string]any) (args []string, err error) {
	kubeconfig, err := apiserver.Kubeconfig(cfg)
	if err != nil {
		return nil, err
	}
	conf, err := yaml.Marshal(settings)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{"kubeconfig": kubeconfig, "conf.yml": conf} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	return []string{"daemon", "--kubeconfig=" + filepath.Join(dir, "kubeconfig"), "--config-path=" + filepath.Join(dir, "conf.yml")}, nil
}

// freePorts finds ports below the range from which the kernel gives ports to
// outgoing connections, so that they are still free when an agent listens.
func freePorts() (ports [3]int, err error) {
	found := 0
	for range 1000 {
		port := 10000 + rand.IntN(10000)
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		defer l.Close() // keeps it from being found twice
		ports[found] = port
		if found++; found == len(ports) {
			return ports, nil
		}
	}
	return ports, errors.New("no 3 free ports between 10000 and 20000")
}

// waitReady returns when the agent serves ADDs, or says what its log says.
func (a *agent) waitReady(ctx context.Context) error {
	left, _, err := eventually(ctx, readyTimeout, soon, func() (int, error) {
		if !a.Alive() {
			return 0, fmt.Errorf("the agent of %s ended: %s", a.node, a.Tail(8))
		}
		if a.ready(ctx) {
			return 0, nil
		}
		return 1, nil
	})
	if left > 0 {
		return fmt.Errorf("the agent of %s is not ready after %s: %s", a.node, readyTimeout, a.Tail(8))
	}
	return err
}

// ready asks as the kubelet does.
func (a *agent) ready(ctx context.Context) bool {
	url := fmt.Sprintf("http://127.0.0.1:%d/v1/runtime/readiness", a.health)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// memory is a figure in KiB of /proc/PID/status (proc_pid_status(5)): VmRSS is what a process has, VmHWM the most that it had.
func memory(p process.Process, figure string) (kib int, err error) {
	file := fmt.Sprintf("/proc/%d/status", p.PID)
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, figure)
}
