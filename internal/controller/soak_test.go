package controller

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// soak makes tests large: 500 pools, 10,000 SpiderIPs and pods, 500 watches.
var soak = flag.Bool("soak", false, "run TestSize, TestStatusCost and TestCollectionSize at full size")

// parallel does n things, some at a time.
func parallel(n int, do func(i int)) {
	var group sync.WaitGroup
	var at atomic.Int64
	for range 16 {
		group.Go(func() {
			for i := int(at.Add(1)) - 1; i < n; i = int(at.Add(1)) - 1 {
				do(i)
			}
		})
	}
	group.Wait()
}

// fill makes pools of 100 addresses, each with so many in use.
func (c *cluster) fill(pools, used int) {
	c.t.Helper()
	parallel(pools, func(i int) {
		c.pool(poolName(i), fmt.Sprintf("%s-%s", nth(i*100+1), nth(i*100+100)))
	})
	parallel(pools*used, func(i int) { c.claim(poolName(i/used), nth(i/used*100+1+i%used)) })
}

func poolName(i int) string { return fmt.Sprintf("pool-%03d", i) }

// TestSize: one change costs the same however much there is, and the process is
// small.
func TestSize(t *testing.T) {
	if beProcess(t) {
		return
	}
	pools, used := 20, 5
	if *soak {
		pools, used = 500, 20
	}
	c := newCluster(t)
	c.fill(pools, used)
	l := c.lead()
	begin := time.Now()
	parallel(pools, func(i int) { c.status(poolName(i), inUse(used, 100)) })
	t.Logf("%d pools are judged after %s", pools, time.Since(begin))
	l.quiet()
	first := l.requests.take()
	pages := pools*used/1000 + pools/500 + 5 // of the first lists
	if most := 2*pools + pages; len(first) > most {
		slices.Sort(first)
		t.Errorf("%d requests at the start, want %d at most: %.2000q", len(first), most, first)
	}
	c.claim(poolName(1), nth(100+used+1))
	c.status(poolName(1), inUse(used+1, 100))
	c.edit(poolName(2), func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = append(p.Spec.IPs, "10.6.255.1") })
	c.status(poolName(2), inUse(used, 101))
	c.reserve("r", nth(301))
	c.reservedIs(poolName(3), nth(301))
	l.quiet()
	got := l.requests.take()
	slices.Sort(got)
	want := []string{"GET spiderips?spec.pool=pool-002", "GET spiderips?spec.pool=pool-003", "PATCH spiderippools/pool-003",
		"PUT spiderippools/pool-001/status", "PUT spiderippools/pool-002/status", "PUT spiderippools/pool-003/status"}
	if !slices.Equal(got, want) {
		t.Errorf("three changes cost %q, want %q", got, want)
	}
	l.stop()
	dry := collectAll // no address has a pod, so all are suspect
	dry.DryRun = true
	peak, _ := c.process(dry, func() {
		parallel(pools, func(i int) { c.editStatus(poolName(i), func(s *v2beta1.IPPoolStatus) { *s.AllocatedIPCount = 77 }) })
		parallel(pools, func(i int) {
			if i != 1 && i != 2 {
				c.status(poolName(i), inUse(used, 100))
			}
		})
	})
	t.Logf("a controller of its own had at most %d MiB", peak>>20)
	if peak > 150<<20 {
		t.Errorf("more than 150 MiB")
	}
}

// setupVariable tells a process of its own its setup, in JSON.
const setupVariable = "SPIDERPOOL_TEST_SETUP"

// setup is where the API server is, and what is collected.
type setup struct {
	Host, Token string
	CA          []byte
	GC          config.GC
}

// process runs a controller as a process of its own while do runs, and returns the most memory it had, in bytes, and what it
// asked of the API server.
func (c *cluster) process(gc config.GC, do func()) (peak int, asked []string) {
	c.t.Helper()
	cfg := apiserver.ControllerConfig(c.t, c.server)
	text, err := json.Marshal(setup{cfg.Host, cfg.BearerToken, cfg.CAData, gc})
	if err != nil {
		c.t.Fatal(err)
	}
	answer, end, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSize$")
	cmd.Env = append(os.Environ(), setupVariable+"="+string(text))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{end}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	end.Close()
	if err != nil {
		c.t.Fatal(err)
	}
	do()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	stdin.Close()
	if err := errors.Join(err, json.NewDecoder(answer).Decode(&asked), cmd.Wait()); err != nil {
		c.t.Fatal(err)
	}
	return kib << 10, asked
}

// beProcess is the process of its own, until its standard input ends; false in every other.
func beProcess(t *testing.T) bool {
	text, ok := os.LookupEnv(setupVariable)
	if !ok {
		return false
	}
	var at setup
	if err := json.Unmarshal([]byte(text), &at); err != nil {
		t.Fatal(err)
	}
	cfg := &rest.Config{Host: at.Host, BearerToken: at.Token, TLSClientConfig: rest.TLSClientConfig{CAData: at.CA}}
	l := leadAs(t, cfg, func(_ *manager.Options, o *Options) { o.GC = at.GC })
	_, _ = io.Copy(io.Discard, os.Stdin)
	l.stop()
	if err := json.NewEncoder(os.NewFile(3, "answer")).Encode(l.requests.take()); err != nil {
		t.Fatal(err)
	}
	return true
}

// TestStatusCost measures what a status write costs the API server with many who
// watch. It asserts only that all hear of each.
func TestStatusCost(t *testing.T) {
	watches, writes := 20, 5
	if *soak {
		watches, writes = 500, 100
	}
	c := newCluster(t)
	c.pool("a", "10.6.0.1-10.6.1.200")
	for i := range 100 {
		c.claim("a", nth(i+1))
	}
	held := []Entry{}
	for _, e := range entries("10.6.0.1", 100) {
		e.UID = "01234567-0123-0123-0123-0123456789ab"
		held = append(held, e)
	}
	pid := apiServerPID(t)
	for _, n := range []int{0, watches} {
		for _, shown := range []int{0, 100} {
			p := &v2beta1.SpiderIPPool{}
			c.get("a", p)
			bytes, stop := c.watchers(n)
			received, cpu, begin := bytes(), cpuOf(t, pid), time.Now()
			for i := range writes {
				before := p.DeepCopy().Status
				p.Status = Judge(p, held[:shown], Circumstances{Nodes: 1, Now: metav1.Now()})
				total := int64(1000 + i)
				p.Status.TotalIPCount = &total
				if before.TotalIPCount != nil && *before.TotalIPCount == total {
					t.Fatal("nothing changes")
				}
				if err := c.Status().Update(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			last := time.Since(begin)
			c.eventually("all have heard", func() bool { return bytes()-received >= int64(n*writes*500) })
			time.Sleep(500 * time.Millisecond) // what is left of the work
			t.Logf("%d watches, %d addresses shown: %v of the API server's CPU, %v until answered, %d bytes to each watch, for each write",
				n, shown, (cpuOf(t, pid)-cpu)/time.Duration(writes), last/time.Duration(writes), (bytes()-received)/int64(max(n*writes, 1)))
			stop()
		}
	}
}

// watchers are agents that watch pools, each on a connection of its own. bytes is
// what they have received.
func (c *cluster) watchers(n int) (bytes func() int64, stop func()) {
	c.t.Helper()
	var total atomic.Int64
	var group, ready sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for range n {
		cfg := c.server.Config()
		cfg.Dial = (&net.Dialer{}).DialContext // or they would share connections
		ready.Add(1)
		group.Go(func() {
			transport, err := rest.TransportFor(cfg)
			if err != nil {
				c.t.Error(err)
				return
			}
			q, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Host+"/apis/spiderpool.spidernet.io/v2beta1/spiderippools?watch=1&resourceVersion=0", nil)
			if err != nil {
				c.t.Error(err)
				return
			}
			resp, err := transport.RoundTrip(q)
			ready.Done()
			if err != nil {
				c.t.Error(err)
				return
			}
			defer resp.Body.Close()
			buffer := make([]byte, 64<<10)
			for {
				n, err := resp.Body.Read(buffer)
				total.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	ready.Wait()
	time.Sleep(time.Second) // the first events, which are of before
	return total.Load, func() { cancel(); group.Wait() }
}

// apiServerPID finds the API server among the children of this process.
func apiServerPID(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, _ := os.ReadFile(name)
		fields := strings.Fields(string(text))
		if len(fields) > 3 && fields[1] == "(kube-apiserver)" && fields[3] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(fields[0])
			return pid
		}
	}
	t.Fatal("the API server is not a child of this process: nobody can tell what it costs")
	return 0
}

// cpuOf is the CPU time that a process has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	user, _ := strconv.Atoi(fields[13])
	system, _ := strconv.Atoi(fields[14])
	return time.Duration(user+system) * 10 * time.Millisecond // clock ticks, 100 a second (proc(5))
}
