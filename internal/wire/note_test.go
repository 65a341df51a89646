package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readNotes returns the notes of dir in the order of their identity.
func readNotes(t *testing.T, dir string) []Note {
	t.Helper()
	notes, err := ReadNotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(notes, func(a, b Note) int {
		return strings.Compare(a.ContainerID+"\x00"+a.Interface, b.ContainerID+"\x00"+b.Interface)
	})
	return notes
}

func TestNotesOfAnyNameComeBack(t *testing.T) {
	dir := NotesDir(newSocket(t))
	pod := Pod{Namespace: "default", Name: "web-0", UID: "u"}
	notes := []Note{
		{Network: "macvlan", ContainerID: strings.Repeat("0123456789abcdef", 4), Interface: "eth0", Netns: "/run/netns/x", Pod: pod},
		{ContainerID: "", Interface: ""},
		{ContainerID: "../../../etc/passwd", Interface: "net/1"},
		{ContainerID: "..", Interface: "."},
		{ContainerID: ".note-1", Interface: "eth0"},
		{ContainerID: "a\x00b\nc\\d\"e", Interface: "\t"},
		{ContainerID: "ünïcødé 容器", Interface: "🕷"},
		{ContainerID: strings.Repeat("x", 100_000), Interface: "eth0"},
		// Run together these are the same.
		{ContainerID: "a", Interface: "bc"},
		{ContainerID: "ab", Interface: "c"},
		{ContainerID: `a","b`, Interface: "c"},
		{ContainerID: "a", Interface: `b","c`},
	}
	for range 2 { // the second round replaces
		for _, note := range notes {
			if err := WriteNote(dir, note); err != nil {
				t.Fatalf("%.40q: %v", note.ContainerID, err)
			}
		}
	}
	slices.SortFunc(notes, func(a, b Note) int {
		return strings.Compare(a.ContainerID+"\x00"+a.Interface, b.ContainerID+"\x00"+b.Interface)
	})
	if diff := cmp.Diff(notes, readNotes(t, dir)); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	if outside, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(outside) != 1 {
		t.Errorf("beside the directory of notes: %v, %v", outside, err)
	}
	for _, note := range notes {
		for range 2 { // the second time it is absent
			if err := RemoveNote(dir, note); err != nil {
				t.Errorf("%.40q: %v", note.ContainerID, err)
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestNoteWithBytesThatAreNoText(t *testing.T) {
	dir := NotesDir(newSocket(t))
	if err := WriteNote(dir, Note{ContainerID: "c", Interface: "\xff\xfe"}); err != nil {
		t.Fatal(err)
	}
	notes := readNotes(t, dir)
	if len(notes) != 1 {
		t.Fatalf("%d notes", len(notes))
	}
	if err := RemoveNote(dir, notes[0]); err != nil {
		t.Error(err)
	}
	if notes := readNotes(t, dir); len(notes) != 0 {
		t.Errorf("not removed: %q", notes)
	}
}

func TestTheLastNoteOfAnAttachmentStands(t *testing.T) {
	dir := NotesDir(newSocket(t))
	last := Note{ContainerID: "c", Interface: "eth0", Netns: "/run/netns/x"}
	for _, note := range []Note{{ContainerID: "c", Interface: "eth0"}, last} {
		if err := WriteNote(dir, note); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]Note{last}, readNotes(t, dir)); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func TestNotesOfADirectoryThatIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	if notes, err := ReadNotes(dir); err != nil || len(notes) != 0 {
		t.Errorf("ReadNotes: %v, %v", notes, err)
	}
	if err := RemoveNote(dir, Note{ContainerID: "c", Interface: "eth0"}); err != nil {
		t.Errorf("RemoveNote: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteNote(file, Note{ContainerID: "c"}); err == nil {
		t.Error("WriteNote into a file succeeds")
	}
	if _, err := ReadNotes(file); err == nil {
		t.Error("ReadNotes of a file succeeds")
	}
}

func TestFilesThatAreNoNotesHideNone(t *testing.T) {
	dir := t.TempDir()
	good := []Note{{ContainerID: "a", Interface: "eth0"}, {ContainerID: "b", Interface: "eth0"}}
	for _, note := range good {
		if err := WriteNote(dir, note); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(unfinished+"123", `{"containerID":"half`)
	if diff := cmp.Diff(good, readNotes(t, dir)); diff != "" {
		t.Errorf("with an unfinished note (-want +read):\n%s", diff)
	}

	half := Note{ContainerID: "c", Interface: "eth0"}.file()
	write(half, `{"containerID":"c","interf`)
	write(Note{ContainerID: "d", Interface: "eth0"}.file(), "")
	write(Note{ContainerID: "e", Interface: "eth0"}.file(), `{"containerID":"f","interface":"eth0"}`)
	write("README", "hello")
	if err := os.Mkdir(filepath.Join(dir, "sub.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "0-fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "0-link.json")); err != nil {
		t.Fatal(err)
	}
	notes, err := ReadNotes(dir)
	if diff := cmp.Diff(good, notes, cmp.Transformer("sorted", func(in []Note) []string {
		var ids []string
		for _, note := range in {
			ids = append(ids, note.ContainerID+note.Interface)
		}
		slices.Sort(ids)
		return ids
	})); diff != "" {
		t.Errorf("(-want +read):\n%s", diff)
	}
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{half, "README", "sub.json", "0-fifo.json", "0-link.json"} {
		if !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	if n := strings.Count(err.Error(), dir); n != 7 {
		t.Errorf("the error names %d files, want 7: %v", n, err)
	}
}

func TestNotesFromManySides(t *testing.T) {
	dir := NotesDir(newSocket(t))
	const writers, rounds = 8, 50
	own := func(w int) Note {
		return Note{ContainerID: fmt.Sprint("c", w), Interface: "eth0", Netns: strings.Repeat("n", 5000)}
	}
	shared := Note{ContainerID: "shared", Interface: "eth0", Netns: strings.Repeat("s", 5000)}
	var writing, reading sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for range rounds {
				for _, note := range []Note{own(w), shared} {
					if err := WriteNote(dir, note); err != nil {
						t.Error(err)
					}
				}
				if err := RemoveNote(dir, shared); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	for range 2 {
		reading.Go(func() {
			for {
				notes, err := ReadNotes(dir)
				if err != nil {
					t.Error(err)
				}
				for _, note := range notes {
					if len(note.Netns) != 5000 {
						t.Errorf("half a note: %+v", note)
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	var want []Note
	for w := range writers {
		want = append(want, own(w))
	}
	if diff := cmp.Diff(want, readNotes(t, dir)); diff != "" {
		t.Errorf("(-want +read):\n%s", diff)
	}
	if left, err := filepath.Glob(filepath.Join(dir, unfinished+"*")); err != nil || len(left) != 0 {
		t.Errorf("unfinished notes left: %v, %v", left, err)
	}
}

func TestReadNote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "notes")
	if _, found, err := ReadNote(dir, "c1", "eth0"); found || err != nil {
		t.Errorf("without a directory: found %t, error %v", found, err)
	}
	note := Note{Network: "n", ContainerID: "c1", Interface: "eth0", Netns: "/run/netns/x", Pod: Pod{Namespace: "a", Name: "b", UID: "u"}}
	if err := WriteNote(dir, note); err != nil {
		t.Fatal(err)
	}
	if got, found, err := ReadNote(dir, "c1", "eth0"); got != note || !found || err != nil {
		t.Errorf("%+v, found %t, error %v", got, found, err)
	}
	if _, found, err := ReadNote(dir, "c1", "net1"); found || err != nil {
		t.Errorf("of another interface: found %t, error %v", found, err)
	}
	if err := os.WriteFile(filepath.Join(dir, note.file()), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found, err := ReadNote(dir, "c1", "eth0"); found || err == nil {
		t.Errorf("cut short: found %t, error %v", found, err)
	}
}
