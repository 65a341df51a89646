package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spidernet-io/spiderpool/test/lab/process"
)

func start(t *testing.T, args ...string) process.Process {
	t.Helper()
	p, err := process.Start(process.Options{Args: args, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(t.Context(), 0) })
	return p
}

func TestStop(t *testing.T) {
	obeys := start(t, "sleep", "600")
	deaf := start(t, "sh", "-c", `trap "" TERM; while :; do sleep 600; done`)
	for _, p := range []process.Process{obeys, deaf} {
		if !p.Alive() {
			t.Errorf("%s does not run: %s", p.Name, p.Tail(3))
		}
		if err := p.Stop(t.Context(), 300*time.Millisecond); err != nil {
			t.Error(err)
		}
		if p.Alive() {
			t.Errorf("%s still runs", p.Name)
		}
		if err := p.Stop(t.Context(), time.Second); err != nil {
			t.Errorf("stopping what is gone: %v", err)
		}
	}
}

// endsFirstThread in the environment makes this test's program end the first
// of its threads and stay.
const endsFirstThread = "PROCESS_TEST_ENDS_FIRST_THREAD"

func TestMain(m *testing.M) {
	if os.Getenv(endsFirstThread) != "" {
		go func() { time.Sleep(10 * time.Minute) }()
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // TestMain runs on the thread that init locked
	}
	os.Exit(m.Run())
}

func init() { runtime.LockOSThread() }

// A killed process shows as a zombie while its other threads still hold its
// ports: who starts the next one then finds them taken.
func TestFirstThreadEnded(t *testing.T) {
	p, err := process.Start(process.Options{Args: []string{os.Args[0]}, Env: []string{endsFirstThread + "=1"}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its first thread has ended", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		return err == nil && strings.Contains(string(status), "State:\tZ")
	})
	if !p.Alive() {
		t.Error("a process with living threads is taken for gone")
	}
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if p.Alive() {
		t.Error("it is still alive")
	}
}

// A record whose id is used again by another program must not harm that one.
func TestAnotherProgramWithTheSameIDIsLeftAlone(t *testing.T) {
	p := start(t, "sleep", "600")
	for name, old := range map[string]process.Process{
		"another start":       {PID: p.PID, Start: p.Start - 1, Boot: p.Boot},
		"another boot":        {PID: p.PID, Start: p.Start, Boot: "another"},
		"nothing was started": {},
	} {
		if old.Alive() {
			t.Errorf("%s: taken for alive", name)
		}
		if err := old.Stop(t.Context(), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !p.Alive() {
		t.Error("the other program was ended")
	}
}

func TestRecord(t *testing.T) {
	p := start(t, "sleep", "600")
	file := filepath.Join(t.TempDir(), "record.json")
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	if got := process.Load(file); got != p {
		t.Errorf("loaded %+v, want %+v", got, p)
	}
	data, _ := os.ReadFile(file)
	if err := os.WriteFile(file, data[:len(data)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{file, filepath.Join(t.TempDir(), "absent")} {
		if got := process.Load(f); got.Alive() {
			t.Errorf("a damaged or absent record is %+v", got)
		}
	}
}

// This test starts itself as a parent that starts one attached and one
// detached child and is then killed.
func TestChildrenOfAKilledParent(t *testing.T) {
	if dir := os.Getenv("PARENT_DIR"); dir != "" {
		parent(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildrenOfAKilledParent$")
	cmd.Env = append(os.Environ(), "PARENT_DIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	attached, detached := filepath.Join(dir, "attached"), filepath.Join(dir, "detached")
	eventually(t, "children run", func() bool { return process.Load(attached).Alive() && process.Load(detached).Alive() })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "attached child is gone", func() bool { return !process.Load(attached).Alive() })
	p := process.Load(detached)
	if !p.Alive() {
		t.Error("the detached child is gone")
	}
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

func parent(t *testing.T, dir string) {
	for _, name := range []string{"attached", "detached"} {
		p, err := process.Start(process.Options{
			Args: []string{"sleep", "600"}, Log: filepath.Join(dir, "log"), Detached: name == "detached",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Save(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	select {} // until killed
}

func TestLogAndSignal(t *testing.T) {
	p := start(t, "sh", "-c", `trap "echo got it; exit" USR1; echo ready; while :; do sleep 0.05; done`)
	eventually(t, "ready", func() bool { return strings.Contains(p.Tail(1), "ready") })
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ended", func() bool { return !p.Alive() })
	if got := p.Tail(1); !strings.HasSuffix(got, "\ngot it") {
		t.Errorf("last line of the log is %q", got)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
