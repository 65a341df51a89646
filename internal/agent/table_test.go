package agent

import (
	"errors"
	"testing"
	"time"
)

// enters begins an ADD of c that was asked for now, and reports whether it is
// let in at once.
func enters(t *testing.T, table *table, c container) bool {
	t.Helper()
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		_, leave, err := table.enter(t.Context(), c, began)
		if err == nil {
			defer leave()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err == nil
	case <-time.After(100 * time.Millisecond):
		return false
	}
}

// TestSecondDelWhileTheFirstIsDone: a container is not let in again before the
// notes of all its DELs are written and obeyed, whatever their order.
func TestSecondDelWhileTheFirstIsDone(t *testing.T) {
	c := container{"c", "eth0"}
	for _, tc := range []struct {
		name  string
		steps func(table *table, end func(bool) bool)
		ends  bool // with the first disposal
	}{
		{"the second comes after it", func(_ *table, end func(bool) bool) { end(true) }, true},
		{"it fails", func(_ *table, end func(bool) bool) { end(false) }, false},
		{"the second's note is being written", func(table *table, end func(bool) bool) {
			table.kill(c)
			if end(true) {
				t.Error("it is done again, before there is a note")
			}
			table.noted(c)
		}, false},
		{"the second's note is written", func(table *table, end func(bool) bool) {
			table.kill(c)
			table.noted(c)
			if !end(true) {
				t.Error("it is not done again")
			}
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := newTable()
			table.kill(c)
			table.noted(c)
			end, ok := table.disposing(c)
			if !ok || enters(t, table, c) {
				t.Fatal("a container that is being disposed of is let in")
			}
			tc.steps(table, end)
			if got := enters(t, table, c); got != tc.ends {
				t.Fatalf("let in: %t", got)
			}
			if tc.ends {
				return
			}
			end, ok = table.disposing(c)
			if !ok || end(true) || !enters(t, table, c) {
				t.Error("it is not let in when all is done")
			}
		})
	}
}

// TestObey: a note that was there before the last ADD of its container was let
// in asks for nothing any more; one that came later does.
func TestObey(t *testing.T) {
	c, key := container{"c", "eth0"}, attachmentKey{"p", "eth0"}
	table := newTable()
	before := time.Now()
	ctx, leave, err := table.enter(t.Context(), c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	table.obey(c, before)
	if ctx.Err() != nil || table.dead[c] != nil {
		t.Error("a note from before ended an ADD in progress")
	}
	table.bind(c, key)
	leave()
	if table.obey(c, before); table.dead[c] != nil {
		t.Error("a note from before killed a container that was served")
	}
	if table.obey(c, time.Now()); table.dead[c] == nil {
		t.Error("a new note is not obeyed")
	}
	if _, _, err := table.enter(t.Context(), c, before); !errors.Is(err, errDeleted) {
		t.Errorf("an ADD that began before: %v", err)
	}
}
