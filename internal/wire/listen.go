package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Listen makes the socket with mode 0600 and its directory if that is missing. A socket file that a dead agent left is
// replaced; a file of another kind is not.
//
// Two agents never serve one socket: the listener holds a lock on the file socket+".lock" from now until [Serve] has
// returned, or until Close for a listener that is not served; the kernel frees it if the process dies. The file stays.
// If the lock is taken the error names its holder. Called by the agent, once, before it reads what its predecessor
// left.
func Listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	lock, err := takeLock(socket)
	if err != nil {
		return nil, err
	}
	l, err := bind(socket)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return &listener{UnixListener: l, lock: lock}, nil
}

// listener is a socket and the lock that guards it. The lock outlives the socket, so that a successor cannot begin
// while the last calls of its predecessor are still being carried out.
type listener struct {
	*net.UnixListener
	lock *os.File
	once sync.Once
}

// Close removes the socket and gives the lock up.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() { _ = l.lock.Close() })
	return err
}

// stopListening makes Accept fail and new clients see that nobody listens, but keeps the lock.
func stopListening(l net.Listener) {
	if guarded, ok := l.(*listener); ok {
		l = guarded.UnixListener
	}
	_ = l.Close()
}

// takeLock locks the file beside the socket and writes the holder into it.
func takeLock(socket string) (*os.File, error) {
	lock, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the socket: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		holder := fmt.Sprintf("process %d (%s)\n", os.Getpid(), filepath.Base(os.Args[0]))
		if err = lock.Truncate(0); err == nil {
			_, err = lock.WriteAt([]byte(holder), 0)
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := os.ReadFile(lock.Name())
		err = fmt.Errorf("another agent serves %s: %s holds the lock %s", socket,
			strings.TrimSpace(string(holder)), lock.Name())
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

// bind replaces a socket file that nobody serves, which the lock has proven.
func bind(socket string) (*net.UnixListener, error) {
	switch info, err := os.Lstat(socket); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at the socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is no socket but %s: move it away", socket, info.Mode())
	default:
		if err := os.Remove(socket); err != nil {
			return nil, fmt.Errorf("remove the stale socket: %w", err)
		}
	}
	config := net.ListenConfig{Control: ownerOnly}
	l, err := config.Listen(context.Background(), "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l.(*net.UnixListener), nil
}

// ownerOnly gives the socket its mode before it has a name: bind(2) makes the file with the mode of the descriptor
// (unix(7)), so there is no moment at which others could connect.
func ownerOnly(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) })
	return errors.Join(err, failed)
}
