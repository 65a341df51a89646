package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A sandbox is what a container runtime makes for a pod: the plugin is executed
// once to connect it and once to disconnect it.
type sandbox struct {
	id        string // of the container; never used again
	namespace string
	pod, uid  string
	conf      []byte // network configuration of the sandbox's node
}

// containerID is as container runtimes make them.
func containerID() string {
	var id [32]byte
	rand.Read(id[:]) //nolint:errcheck // it never fails
	return hex.EncodeToString(id[:])
}

// plugin is a CNI plugin that is executed as container runtimes do it.
type plugin struct {
	path  string
	netns string // CNI_NETNS of every sandbox
}

// outcome is what became of one call.
type outcome struct {
	address string // with prefix length; of an ADD that succeeded
	took    time.Duration
	err     error
}

// drive makes one call for each sandbox; of those of a node inFlight at a time.
// It returns the outcomes in the order of the sandboxes, and how long all took.
func (p plugin) drive(ctx context.Context, verb string, nodes [][]sandbox, inFlight int) (outcomes [][]outcome, took time.Duration) {
	outcomes = make([][]outcome, len(nodes))
	var workers sync.WaitGroup
	began := time.Now()
	for n, sandboxes := range nodes {
		outcomes[n] = make([]outcome, len(sandboxes))
		next := make(chan int, len(sandboxes))
		for i := range sandboxes {
			next <- i
		}
		close(next)
		for range inFlight {
			workers.Go(func() {
				for i := range next {
					outcomes[n][i] = p.call(ctx, verb, sandboxes[i])
				}
			})
		}
	}
	workers.Wait()
	return outcomes, time.Since(began)
}

func (p plugin) call(ctx context.Context, verb string, s sandbox) outcome {
	began := time.Now()
	out, err := p.execute(ctx, verb, s)
	o := outcome{took: time.Since(began), err: err}
	if err == nil && verb == "ADD" {
		o.address, o.err = addressIn(out)
	}
	return o
}

// execute runs the plugin (CNI specification 1.0.0, section 2).
func (p plugin) execute(ctx context.Context, verb string, s sandbox) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.path)
	cmd.Stdin = bytes.NewReader(s.conf)
	cmd.Env = append(os.Environ(),
		"CNI_COMMAND="+verb, "CNI_CONTAINERID="+s.id, "CNI_NETNS="+p.netns, "CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(p.path),
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s", s.namespace, s.pod, s.id, s.uid))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s of pod %s/%s: %w: %s", verb, s.namespace, s.pod, err, strings.Join(strings.Fields(stdout.String()+stderr.String()), " "))
	}
	return stdout.Bytes(), nil
}

// addressIn returns the one address of a CNI result.
func addressIn(result []byte) (string, error) {
	var v struct {
		IPs []struct {
			Address string `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(result, &v); err != nil {
		return "", fmt.Errorf("the result is no JSON: %w: %q", err, result)
	}
	if len(v.IPs) != 1 || v.IPs[0].Address == "" {
		return "", errors.New("the result has not one address: " + strings.Join(strings.Fields(string(result)), " "))
	}
	return v.IPs[0].Address, nil
}
