package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// watchEvery is how often a listener looks for its files.
const watchEvery = time.Second

// Listener is a socket and the lock that guards it. The lock outlives the socket, so that a successor cannot begin while
// the last calls of its predecessor are still being carried out.
type Listener struct {
	socket  string
	current atomic.Pointer[bound]
	problem atomic.Pointer[string]
	// lock belongs to watch until stopListening has returned, and then to Close.
	lock *os.File
	// stopListening makes Accept fail and new clients see that nobody listens, but keeps the lock.
	stopListening func() error
}

// bound is a socket and the file by which clients find it.
type bound struct {
	*net.UnixListener
	file fs.FileInfo
}

// Listen makes the socket with mode 0600 and its directory if that is missing. A socket file that a dead agent left is
// replaced; a file of another kind is not. If socket, lock or directory are removed or replaced later, the listener makes
// them again within 2 s, without a word to the calls in progress; see [Listener.Problem].
//
// Two agents never serve one socket: the listener holds a lock on the file socket+".lock" from now until [Serve] has
// returned, or until Close for a listener that is not served; the kernel frees it if the process dies. The file stays.
// If the lock is taken the error names its holder. Called by the agent, once, before it reads what its predecessor
// left.
func Listen(socket string) (*Listener, error) {
	lock, err := takeLock(socket)
	if err != nil {
		return nil, err
	}
	first, err := bind(socket)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	l := &Listener{socket: socket, lock: lock}
	l.current.Store(first)
	l.problem.Store(new(string))
	ctx, end := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(ctx) })
	l.stopListening = sync.OnceValue(func() error {
		end()
		watching.Wait()
		at := l.current.Load()
		if names(l.socket, at.file) {
			_ = os.Remove(l.socket)
		}
		return at.Close()
	})
	return l, nil
}

// Problem says why clients cannot reach the listener, or returns an empty text if they can. For the agent's readiness.
func (l *Listener) Problem() string { return *l.problem.Load() }

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		at := l.current.Load()
		conn, err := at.Accept()
		if replaced := at != l.current.Load(); err == nil || !replaced || !errors.Is(err, net.ErrClosed) {
			return conn, err
		}
	}
}

// Close removes the socket and gives the lock up.
func (l *Listener) Close() error {
	err := l.stopListening()
	_ = l.lock.Close() // for the second time without effect
	return err
}

// watch keeps the files in place until the listener stops.
func (l *Listener) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		problem := ""
		if err := l.restore(); err != nil {
			problem = fmt.Sprintf("the CNI plugin cannot reach %s, which was removed, and it cannot be made again: %v", l.socket, err)
		}
		if before := l.problem.Swap(&problem); problem != "" && problem != *before {
			slog.Error(problem)
		}
	}
}

// restore makes again what is missing. The lock goes first: whoever holds it at its path may have made the socket.
func (l *Listener) restore() error {
	held, err := l.lock.Stat()
	if err != nil {
		return err
	}
	if !names(l.lock.Name(), held) {
		lock, err := takeLock(l.socket)
		if err != nil {
			return err
		}
		_ = l.lock.Close()
		l.lock = lock
	}
	old := l.current.Load()
	if names(l.socket, old.file) {
		return nil
	}
	fresh, err := bind(l.socket)
	if err != nil {
		return err
	}
	l.current.Store(fresh)
	_ = old.Close() // Accept goes on with the fresh one
	slog.Warn("the socket was removed and is made again", "socket", l.socket)
	return nil
}

// names says whether path is a name of file.
func names(path string, file fs.FileInfo) bool {
	seen, err := os.Lstat(path)
	return err == nil && os.SameFile(seen, file)
}

// takeLock makes the directory of the socket, locks the file beside the socket and writes the holder into it.
func takeLock(socket string) (*os.File, error) {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	lock, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil && unlinked(dir) {
		return nil, fmt.Errorf("lock the socket: %s was removed on the host and is mounted here: restart this pod, "+
			"or mount the directory above it", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the socket: %w", err)
	}
	if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		if err = lock.Truncate(0); err == nil {
			_, err = fmt.Fprintf(lock, "process %d (%s)\n", os.Getpid(), filepath.Base(os.Args[0]))
		}
	} else if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := os.ReadFile(lock.Name())
		err = fmt.Errorf("another agent serves %s: %s holds the lock %s", socket, strings.TrimSpace(string(holder)), lock.Name())
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

// unlinked says whether a directory exists but has no name any more, as a mount of one that was removed.
func unlinked(dir string) bool {
	var stat syscall.Stat_t
	return syscall.Stat(dir, &stat) == nil && stat.Nlink == 0
}

// bind replaces a socket file that nobody serves, which the lock has proven.
func bind(socket string) (*bound, error) {
	info, err := os.Lstat(socket)
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is no socket but %s: move it away", socket, info.Mode())
	}
	if err == nil {
		err = os.Remove(socket)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the stale socket: %w", err)
	}
	config := net.ListenConfig{Control: ownerOnly}
	l, err := config.Listen(context.Background(), "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	at := &bound{UnixListener: l.(*net.UnixListener)}
	at.SetUnlinkOnClose(false) // by then the name may be that of the next one
	if at.file, err = os.Lstat(socket); err != nil {
		_ = at.Close()
		return nil, fmt.Errorf("look at the new socket: %w", err)
	}
	return at, nil
}

// ownerOnly gives the socket its mode before it has a name: bind(2) makes the file with the mode of the descriptor
// (unix(7)), so there is no moment at which others could connect.
func ownerOnly(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) })
	return errors.Join(err, failed)
}
