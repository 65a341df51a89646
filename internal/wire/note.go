package wire

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Note records a DEL that was answered and is not yet carried out: by the plugin when no agent could take it, by the
// agent for the time until the address is released. An attachment is known by ContainerID and Interface alone; the
// rest is for people, and what the runtime happened to say.
type Note struct {
	Network     string `json:"network,omitempty"`
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Netns       string `json:"netns,omitempty"`
	Pod         Pod    `json:"pod,omitzero"`
}

// Names that begin with a dot are being written, or were when their writer died.
const unfinished = ".note-"

// NotesDir returns the directory beside the socket where plugin and agent keep notes.
func NotesDir(socket string) string { return socket + ".notes" }

// WriteNote stores the note in dir and makes dir if it is missing. A note of the same attachment is replaced. The note
// appears whole or not at all; it need not survive a crash of the node, which ends every container anyway.
func WriteNote(dir string, note Note) error {
	root, err := makeDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return replaceFile(root, unfinished, note.file(), note, 0o600)
}

// makeDir opens dir and makes it if it is missing. Below /run no symbolic link leads out of it: others than root may
// write to some directories there, and tenants may name one.
func makeDir(dir string) (*os.Root, error) {
	base, rel := filepath.Split(dir)
	if below, ok := strings.CutPrefix(dir, "/run/"); ok {
		base, rel = "/run", below
	} else if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	if err := root.MkdirAll(rel, 0o700); err != nil {
		return nil, err
	}
	return root.OpenRoot(rel)
}

// replaceFile writes a line of JSON under a temporary name, which begins with prefix, and renames it.
func replaceFile(dir *os.Root, prefix, name string, content any, mode fs.FileMode) error {
	temporary := prefix + strconv.FormatUint(rand.Uint64(), 36)
	f, err := dir.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = json.NewEncoder(f).Encode(content)
	// The mode again, because the umask may have cut it.
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = dir.Rename(temporary, name)
	}
	if err != nil {
		_ = dir.Remove(temporary)
	}
	return err
}

// ReadNotes returns the notes in dir, in no particular order; a missing directory has none. A file that is no note
// does not keep the others from being read: the error names every such file and comes with the notes that were read.
func ReadNotes(dir string) ([]Note, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var notes []Note
	failed := []error{err}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), unfinished) {
			continue
		}
		note, err := readNote(dir, entry.Name())
		switch {
		case err == nil:
			notes = append(notes, note)
		case !errors.Is(err, fs.ErrNotExist): // removed since ReadDir: carried out by another
			failed = append(failed, fmt.Errorf("%s is no note: %w", filepath.Join(dir, entry.Name()), err))
		}
	}
	return notes, errors.Join(failed...)
}

// ReadNote returns the note of an attachment, if there is one.
func ReadNote(dir, containerID, ifname string) (note Note, found bool, err error) {
	note, err = readNote(dir, Note{ContainerID: containerID, Interface: ifname}.file())
	if errors.Is(err, fs.ErrNotExist) {
		return Note{}, false, nil
	}
	return note, err == nil, err
}

func readNote(dir, name string) (note Note, err error) {
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if err != nil {
		return Note{}, err
	}
	if !info.Mode().IsRegular() {
		return Note{}, fmt.Errorf("not a regular file but %s", info.Mode().Type())
	}
	content, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(content, &note)
	}
	if err == nil && note.file() != name {
		err = fmt.Errorf("its name does not belong to container %q, interface %q", note.ContainerID, note.Interface)
	}
	return note, err
}

// RemoveNote removes the note of the same container and interface; it is no error if there is none.
func RemoveNote(dir string, note Note) error {
	err := os.Remove(filepath.Join(dir, note.file()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// file derives the file's name from the identity of the attachment, whatever characters and length that has: a hash of
// its JSON, in which no two identities look the same. By way of runes, because bytes that are no UTF-8 come back from
// the content as U+FFFD. FNV, because the runtime that chooses the names is no adversary and the plugin starts faster
// without cryptography.
func (n Note) file() string {
	id, _ := json.Marshal([2]string{string([]rune(n.ContainerID)), string([]rune(n.Interface))}) // strings always marshal
	sum := fnv.New128a()
	_, _ = sum.Write(id)
	return hex.EncodeToString(sum.Sum(nil)) + ".json"
}
