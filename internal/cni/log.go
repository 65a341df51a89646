package cni

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// logConfig says what is logged and where, and writes it. Files that are rotated away are kept for ageDays and files of them at most;
// 0 is no limit.
type logConfig struct {
	level                  slog.Level
	file                   string
	sizeMB, ageDays, files count
}

// levels are the names of the levels. The last two are taken because configurations have them; nothing is logged then.
var levels = []string{"debug", "info", "warn", "error", "fatal", "panic"}

// parseLevel reads the name of a level in any case.
func parseLevel(name string) (slog.Level, error) {
	i := slices.Index(levels, strings.ToLower(name))
	if i < 0 {
		return 0, fmt.Errorf("unknown level %q", name)
	}
	return slog.LevelDebug + slog.Level(i)*(slog.LevelInfo-slog.LevelDebug), nil
}

// logRoot is where log files lie. The plugin runs as root, and whoever may write a network configuration chooses the file.
const logRoot = "/var/log"

// ownLogs is the directory below logRoot that is the product's: every file in it is the plugin's.
const ownLogs = "spidernet"

// maxLogPath bounds the path of a log file: each of its directories is made.
const maxLogPath = 255

// parseLogPath reads a path. That no symbolic link leads out of logRoot is looked after when a line is written.
func parseLogPath(path string) (string, error) {
	clean := filepath.Clean(path)
	if !strings.HasPrefix(clean, logRoot+"/") || slices.Contains(strings.Split(path, "/"), "..") || len(clean) > maxLogPath {
		return "", fmt.Errorf("%.60q is not the path of a log file", path)
	}
	return clean, nil
}

// logger returns the logger, which touches no file before a line is written.
func (c logConfig) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(c, &slog.HandlerOptions{Level: c.level}))
}

// logMark is the first line of a log file and says that the plugin made it: other files are not written to, renamed or
// removed, whatever path a network configuration names.
const logMark = `log="CNI plugin spiderpool"` + "\n"

var errForeign = errors.New("not a log file of this plugin")

// Write appends a line to the file, which many processes write at the same time, behind a rotation if it would become too
// large.
func (c logConfig) Write(line []byte) (int, error) {
	rel, name := filepath.Split(strings.TrimPrefix(c.file, logRoot+"/"))
	dir, err := openLogDir(filepath.Clean(rel))
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	file, err := c.openOrMake(dir, name)
	if err != nil {
		return 0, err
	}
	if c.full(file, len(line)) && c.rotate(dir, name, file) == nil {
		_ = file.Close()
		if file, err = c.openOrMake(dir, name); err != nil {
			return 0, err
		}
	}
	defer file.Close()
	return file.Write(line)
}

// openLogDir opens a directory below logRoot and makes what is missing of it. It follows no symbolic link, and waits for
// nobody as it would at a FIFO in the place of a directory.
func openLogDir(rel string) (*os.Root, error) {
	fd, err := syscall.Open(logRoot, syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(rel, "/") {
		parent := fd
		if err = syscall.Mkdirat(parent, part, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			fd, err = syscall.Openat(parent, part, syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
		}
		_ = syscall.Close(parent)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", part, filepath.Join(logRoot, rel), err)
		}
	}
	defer func() { _ = syscall.Close(fd) }()
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd))
}

// openOrMake opens the log file and makes it if it is missing.
func (c logConfig) openOrMake(dir *os.Root, name string) (*os.File, error) {
	file, err := c.open(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeLog(dir, name); err == nil || errors.Is(err, fs.ErrExist) {
			file, err = c.open(dir, name)
		}
	}
	return file, err
}

// open opens a regular file that the plugin made, for reading and appending. It does not wait, as it would for the writer
// of a FIFO.
func (c logConfig) open(dir *os.Root, name string) (*os.File, error) {
	seen, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !seen.Mode().IsRegular() {
		return nil, errForeign
	}
	file, err := dir.OpenFile(name, os.O_RDWR|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	mark := make([]byte, len(logMark))
	_, _ = file.ReadAt(mark, 0)
	own := string(mark) == logMark || strings.HasPrefix(c.file, logRoot+"/"+ownLogs+"/")
	if opened, err := file.Stat(); err != nil || !os.SameFile(seen, opened) || !own {
		_ = file.Close()
		return nil, errForeign
	}
	return file, nil
}

// makeLog makes a file with the mark. It appears whole: another process finds none, or one that is marked.
func makeLog(dir *os.Root, name string) error {
	temporary := fmt.Sprintf(".%s.%d", name, os.Getpid())
	_ = dir.Remove(temporary) // of a process that was killed
	file, err := dir.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Remove(temporary) }()
	_, err = file.WriteString(logMark)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return dir.Link(temporary, name)
}

// full says whether a file has no room for n bytes more. A limit of 0 is that of a configuration which says nothing.
func (c logConfig) full(file *os.File, n int) bool {
	limit := int64(cmp.Or(c.sizeMB, defaults().log.sizeMB)) << 20
	info, err := file.Stat()
	return err == nil && info.Size()+int64(n) > limit
}

// rotatedAt is the time in the name of a rotated file, in UTC: spiderpool-2026-01-31T23-59-59.000.log.
const rotatedAt = "2006-01-02T15-04-05.000"

// rotate renames the file and removes rotated ones that are too many or too old. One process does it at a time; the lines
// of the others go to the end of the old file meanwhile.
func (c logConfig) rotate(dir *os.Root, name string, file *os.File) error {
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // freed when the file is closed
		return err
	}
	seen, err := dir.Lstat(name)
	opened, openedErr := file.Stat()
	if err = errors.Join(err, openedErr); err != nil || !os.SameFile(seen, opened) {
		return err // nil: it is rotated already
	}
	ext := path.Ext(name)
	stem := strings.TrimSuffix(name, ext) + "-"
	now := time.Now().UTC()
	if err := dir.Rename(name, stem+now.Format(rotatedAt)+ext); err != nil {
		return err
	}
	c.prune(dir, stem, ext, now)
	return nil
}

// prune removes the rotated files that are too many or too old.
func (c logConfig) prune(dir *os.Root, stem, ext string, now time.Time) {
	entries, _ := fs.ReadDir(dir.FS(), ".")
	kept := count(0)
	for _, entry := range slices.Backward(entries) { // sorted by name, hence by time
		name := entry.Name()
		at := strings.TrimSuffix(strings.TrimPrefix(name, stem), ext)
		made, err := time.Parse(rotatedAt, at)
		if err != nil || name != stem+at+ext {
			continue
		}
		file, err := c.open(dir, name)
		if err != nil {
			continue
		}
		_ = file.Close()
		kept++
		tooOld := c.ageDays > 0 && now.Sub(made) > time.Duration(c.ageDays)*24*time.Hour
		if tooMany := c.files > 0 && kept > c.files; tooMany || tooOld {
			_ = dir.Remove(name)
		}
	}
}
