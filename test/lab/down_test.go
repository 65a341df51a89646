package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spidernet-io/spiderpool/test/lab"
)

const base = "/var/lib/spiderpool-lab/"

// up starts a lab that ends with the test at the latest.
func up(t *testing.T, c lab.Config) *lab.Lab {
	t.Helper()
	l, err := lab.Up(t.Context(), c)
	must(t, err)
	t.Cleanup(func() {
		if err := lab.Down(context.Background(), c.Name); err != nil {
			t.Error(err)
		}
	})
	return l
}

// down ends a lab and proves that nothing of it is left.
func down(t *testing.T, l *lab.Lab) {
	t.Helper()
	name := l.Config().Name
	processes := processesOf(t, name)
	if len(processes) < 8 { // etcd, four of Kubernetes, the forwarder, keeper, containerd, kubelet
		t.Errorf("the lab has %d processes: %v", len(processes), processes)
	}
	must(t, l.Down(t.Context()))
	leftNothing(t, name, processes)
}

// leftNothing waits until no trace of a lab is found, of the processes that it
// had neither: the kernel takes its time to end some.
func leftNothing(t *testing.T, name string, processes map[string]string) {
	t.Helper()
	eventually(t, "nothing of "+name+" is left", func() error {
		for dir, started := range processes {
			if startTime(dir) == started {
				return fmt.Errorf("%s runs", dir)
			}
		}
		return errors.Join(leftInProcesses(name), leftInFiles(name))
	})
}

// leftInProcesses looks at every process of the machine: its cgroups, its
// command line, and the mounts that it sees, which keep namespaces alive.
func leftInProcesses(name string) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var left []error
	for _, dir := range dirs {
		for file, trace := range map[string]string{
			"cgroup": "/spiderpool-lab/" + name, "cmdline": base + name + "/", "mountinfo": base + name + "/",
		} {
			data, _ := os.ReadFile(filepath.Join(dir, file)) // a process that just ended has none
			if strings.Contains(string(data), trace) {
				left = append(left, fmt.Errorf("%s/%s: %s", dir, file, trace))
			}
		}
	}
	return errors.Join(left...)
}

func leftInFiles(name string) error {
	files, err := filepath.Glob(base + name + "*")
	if err != nil {
		return err
	}
	for _, pattern := range []string{"/sys/fs/cgroup/spiderpool-lab/", "/sys/fs/cgroup/*/spiderpool-lab/"} {
		groups, err := filepath.Glob(pattern + name)
		if err != nil {
			return err
		}
		files = append(files, groups...)
	}
	if len(files) > 0 {
		return fmt.Errorf("left are %q", files)
	}
	return nil
}

// processesOf are the processes of a lab by their start times: those in its
// cgroups, and those in any network namespace of these but this test's own.
func processesOf(t *testing.T, name string) map[string]string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	found, namespaces := map[string]string{}, map[string]bool{}
	for _, dir := range dirs {
		if data, _ := os.ReadFile(dir + "/cgroup"); strings.Contains(string(data), "/spiderpool-lab/"+name+"/") {
			ns, _ := os.Readlink(dir + "/ns/net")
			found[dir], namespaces[ns] = startTime(dir), true
		}
	}
	for _, dir := range dirs {
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil && ns != own && namespaces[ns] {
			found[dir] = startTime(dir)
		}
	}
	return found
}

// startTime is field 22 of /proc/PID/stat; empty if the process is gone.
func startTime(dir string) string {
	data, _ := os.ReadFile(dir + "/stat")
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// What exists on the machine before a lab exists after it, and nothing more.
func TestMachineIsUntouched(t *testing.T) {
	traces := func() (found []string) {
		for _, pattern := range []string{
			"/run/netns", "/run/containerd", "/run/kubernetes", "/run/flannel", "/etc/cni", "/etc/kubernetes", "/etc/containerd",
			"/opt/cni", "/opt/lab", "/opt/containerd", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes",
		} {
			if _, err := os.Stat(pattern); err == nil {
				found = append(found, pattern)
			}
		}
		return found
	}
	before := traces()
	l := up(t, lab.Config{Name: "test-untouched", Nodes: 1, Families: lab.IPv4})
	during := traces()
	down(t, l)
	if got, want := fmt.Sprint(during, traces()), fmt.Sprint(before, before); got != want {
		t.Errorf("during and after the lab there are %s, before %v", got, before)
	}
}

// This test starts itself as the process that is killed while it starts a lab.
func TestKilledUp(t *testing.T) {
	const name = "test-killed"
	if os.Getenv("KILLED_UP") != "" {
		_, err := lab.Up(t.Context(), lab.Config{Name: name})
		must(t, err)
		select {} // until killed
	}
	_, err := lab.Build(t.Context(), os.Stderr, false)
	must(t, err)
	dir := base + name
	for _, reached := range []string{"netns/control-plane", "nodes/node1/keeper.json", "control-plane/kube-apiserver.json", "nodes/node2/kubelet.json"} {
		killUp(t, filepath.Join(dir, reached))
		if _, err := lab.Open(name); err == nil {
			t.Errorf("killed at %s: a lab that is not complete can be opened", reached)
		}
		if reached == "nodes/node1/keeper.json" {
			continue // the next Up has to deal with it
		}
		processes := processesOf(t, name)
		must(t, os.WriteFile(filepath.Join(dir, "lab.json"), []byte(`{"config": {"na`), 0o600)) // half written
		must(t, lab.Down(t.Context(), name))
		leftNothing(t, name, processes)
	}
	killUp(t, filepath.Join(dir, "nodes/node1/kubelet.json"))
	l := up(t, lab.Config{Name: name})
	kubectl(t, l, "get", "nodes", "node1", "node2")
	down(t, l)
	must(t, lab.Down(t.Context(), name)) // of what does not exist
}

// killUp kills a process that starts a lab as soon as a file is there.
func killUp(t *testing.T, file string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledUp$")
	cmd.Env = append(os.Environ(), "KILLED_UP=yes")
	must(t, cmd.Start())
	eventually(t, file+" exists", func() error { _, err := os.Stat(file); return err })
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

func TestWrongConfig(t *testing.T) {
	for want, c := range map[string]lab.Config{
		`name of a lab is "../x"`: {Name: "../x"},
		`families "ipv5"`:         {Name: "test-wrong", Families: "ipv5"},
		"101 nodes":               {Name: "test-wrong", Nodes: 101},
	} {
		if _, err := lab.Up(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
	if _, err := lab.Open("test-absent"); err == nil || !strings.Contains(err.Error(), "lab up --name test-absent") {
		t.Errorf("opening an absent lab: %v", err)
	}
}

func writeArchive(file, content string) error { return os.WriteFile(file, []byte(content), 0o600) }
