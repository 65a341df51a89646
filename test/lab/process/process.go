// Package process starts the lab's programs, records them, and ends exactly
// those that it started.
//
// A process is known by its id, its start time and the boot of the machine,
// so that an id used again by another program is never taken for it.
package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program that runs or ran. It can be stored as JSON and used by
// another process than the one that started it.
type Process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
	Boot  string `json:"boot"`
	Log   string `json:"log"`
}

// Options say what to start and where.
type Options struct {
	Name   string     // for messages; default: the name of the program
	Args   []string   // the program and its arguments
	Env    []string   // added to the environment
	Enter  Namespaces // to be entered before
	Cgroup string     // the cgroup.procs file to join first; empty: stay
	Log    string     // file to which stdout and stderr are appended
	Files  []*os.File // inherited as descriptors 3 and up
	// Detached processes outlive this one. Others are killed when it ends, in
	// whatever way it ends.
	Detached bool
}

// Namespaces are entered by the command Args.
type Namespaces struct {
	Net string // a file; empty: stay
	Of  int    // a process whose mount, UTS and IPC namespaces are entered; 0: stay
}

// Args is the command line that runs args inside the namespaces. It changes
// its program by exec only, so the process id stays the same.
func (n Namespaces) Args(args ...string) []string {
	if n == (Namespaces{}) {
		return args
	}
	enter := []string{"nsenter"}
	if n.Net != "" {
		enter = append(enter, "--net="+n.Net)
	}
	if n.Of != 0 {
		of := fmt.Sprintf("/proc/%d/ns/", n.Of)
		enter = append(enter, "--mount="+of+"mnt", "--uts="+of+"uts", "--ipc="+of+"ipc")
	}
	return append(append(enter, "--"), args...)
}

// Start starts a program.
func Start(o Options) (Process, error) {
	args := o.Enter.Args(o.Args...)
	if o.Cgroup != "" {
		args = append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, o.Cgroup}, args...)
	}
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return Process{}, err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, o.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: o.Detached}
	if !o.Detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	p := Process{Name: o.Name, Log: o.Log}
	if p.Name == "" {
		p.Name = filepath.Base(o.Args[0])
	}
	started := make(chan error)
	go run(cmd, &p, started)
	return p, <-started
}

// run holds on to one thread for the life of the child, because the kernel
// sends the signal of a parent's death when the thread that forked ends.
func run(cmd *exec.Cmd, p *Process, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- fmt.Errorf("starting %s: %w", p.Name, err)
		return
	}
	p.PID = cmd.Process.Pid
	s, err := readStat(p.PID)
	if err == nil {
		p.Start = s.start
		p.Boot, err = bootID()
	}
	started <- err
	_ = cmd.Wait() // how it ended is in its log; here it is only reaped
}

// Alive reports whether the very process still runs. One whose first thread
// has ended does while another has not: its files and ports are still held.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	boot, err := bootID()
	if err != nil || boot != p.Boot {
		return false
	}
	s, err := readStat(p.PID)
	return err == nil && s.start == p.Start && s.state != "X" && (s.state != "Z" || s.threads > 1)
}

// Stop asks the process to end, kills it after the grace, and returns when it
// is gone. A grace of 0 kills at once. A process that is gone is no error.
func (p Process) Stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if err := p.Signal(unix.SIGTERM); err != nil {
			return err
		}
		asked, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if p.wait(asked) == nil {
			return nil
		}
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.wait(ctx)
}

// Signal sends a signal to the very process; to one that is gone it sends
// nothing and returns nil.
func (p Process) Signal(s unix.Signal) error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d (%s): %w", p.PID, p.Name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.Alive() { // the descriptor may be of another process with this id
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signalling process %d (%s): %w", p.PID, p.Name, err)
	}
	return nil
}

func (p Process) wait(ctx context.Context) error {
	for p.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d (%s) has not ended: %w", p.PID, p.Name, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// longestLine bounds a line of a log that is quoted: some hold stack traces.
const longestLine = 500

// Tail returns the last lines of the process's log, for error messages.
func (p Process) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[:min(len(line), longestLine)]
	}
	return p.Log + ":\n" + strings.Join(all, "\n")
}

// Save stores the record in a file, whole or not at all.
func (p Process) Save(file string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Load reads a record. A file that is absent or damaged is a process that does
// not run.
func Load(file string) Process {
	var p Process
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &p) != nil {
		return Process{}
	}
	return p
}

type stat struct {
	state   string
	threads int
	start   uint64
}

// readStat reads fields 3, 20 and 22 of /proc/PID/stat (proc_pid_stat(5)). The
// program's name in field 2 may hold anything, so the fields are counted
// behind its last parenthesis.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat is cut off: %q", pid, data)
	}
	threads, err := strconv.Atoi(fields[17])
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return stat{state: fields[0], threads: threads, start: start}, err
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}
