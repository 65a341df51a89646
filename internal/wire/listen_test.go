package wire

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// eventually fails the test if what is not true before the deadline.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestListenerMakesItsFilesAgain: whatever removes the socket, clients find it again, a second agent is kept out, and the
// call that was in progress is answered.
func TestListenerMakesItsFilesAgain(t *testing.T) {
	stale := newSocket(t)
	leaveStale(t, stale)
	for name, remove := range map[string]func(socket string) error{
		"the socket":             os.Remove,
		"the lock":               func(socket string) error { return os.Remove(socket + ".lock") },
		"the directory":          func(socket string) error { return os.RemoveAll(filepath.Dir(socket)) },
		"another in its place":   func(socket string) error { return os.Rename(stale, socket) },
		"another lock's file":    func(socket string) error { return os.Rename(stale+".lock", socket+".lock") },
		"the directory is moved": func(socket string) error { return os.Rename(filepath.Dir(socket), filepath.Dir(stale)+"/moved") },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another lock's file" {
				must(t, os.WriteFile(stale+".lock", nil, 0o600))
			}
			begun, finish := make(chan struct{}), make(chan struct{})
			socket, stop := serve(t, func(_ context.Context, req *Request) *Reply {
				if req.Verb == VerbAdd {
					close(begun)
					<-finish
				}
				return fullReply()
			})
			called := make(chan error, 1)
			go func() {
				_, err := Call(testContext(t), socket, fullRequest())
				called <- err
			}()
			await(t, begun)
			must(t, remove(socket))
			eventually(t, "socket and lock are back and served", func() bool {
				_, err := Call(testContext(t), socket, &Request{Verb: VerbStatus})
				second, lockErr := takeLock(socket)
				if lockErr == nil {
					_ = second.Close()
				}
				return err == nil && lockErr != nil
			})
			close(finish)
			if err := await(t, called); err != nil {
				t.Errorf("the call that was in progress: %v", err)
			}
			stop()
			if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is still there after Serve: %v", err)
			}
			next, err := Listen(socket)
			must(t, err)
			must(t, next.Close())
		})
	}
}

// TestListenerThatCannotMakeItsFilesAgain says why, and gets over it when the reason is gone.
func TestListenerThatCannotMakeItsFilesAgain(t *testing.T) {
	var second *os.File
	for name, test := range map[string]struct {
		hinder, yield func(socket string) error
		problem       string
	}{
		"a file of another kind": {
			func(socket string) error {
				return errors.Join(os.Remove(socket), os.WriteFile(socket, []byte("precious"), 0o600))
			},
			os.Remove, "is no socket"},
		"a directory that is a file": {
			func(socket string) error {
				dir := filepath.Dir(socket)
				return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
			},
			func(socket string) error { return os.Remove(filepath.Dir(socket)) }, "not a directory"},
		"a second agent": {
			func(socket string) (err error) {
				err = os.Remove(socket + ".lock")
				if err == nil {
					second, err = takeLock(socket)
				}
				return err
			},
			func(string) error { return second.Close() }, "another agent serves"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := newSocket(t)
			l, err := Listen(socket)
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- Serve(ctx, l, 0, func(context.Context, *Request) *Reply { return &Reply{} }) }()
			must(t, test.hinder(socket))
			eventually(t, "a problem", func() bool { return l.Problem() != "" })
			if got := l.Problem(); !strings.Contains(got, test.problem) || !strings.Contains(got, socket) {
				t.Errorf("problem %q, want %q and the path in it", got, test.problem)
			}
			must(t, test.yield(socket))
			eventually(t, "no problem", func() bool { return l.Problem() == "" })
			if _, err := Call(testContext(t), socket, &Request{Verb: VerbStatus}); err != nil {
				t.Error(err)
			}
			cancel()
			must(t, await(t, served))
		})
	}
}
