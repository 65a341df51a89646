package cni

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"
)

// logConfig says what is logged and where. Files that are rotated away are kept for ageDays and files of them at most;
// 0 is no limit.
type logConfig struct {
	level                  level
	file                   string
	sizeMB, ageDays, files count
}

// level is a level of log/slog. Its zero is info.
type level slog.Level

// levels are the names of the levels. The last two are taken because configurations have them; nothing is logged then.
var levels = []string{"debug", "info", "warn", "error", "fatal", "panic"}

// UnmarshalText reads the name of a level in any case.
func (l *level) UnmarshalText(name []byte) error {
	i := slices.Index(levels, strings.ToLower(string(name)))
	if i < 0 {
		return fmt.Errorf("unknown level %q", name)
	}
	*l = level(slog.LevelDebug) + level(i)*level(slog.LevelInfo-slog.LevelDebug)
	return nil
}

// logger returns the logger, which touches no file before a line is written.
func (c logConfig) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&logFile{rotated: lumberjack.Logger{
		Filename: c.file, MaxSize: int(c.sizeMB), MaxAge: int(c.ageDays), MaxBackups: int(c.files),
	}}, &slog.HandlerOptions{Level: slog.Level(c.level)}))
}

// logFile is a file that many processes write at the same time, a line each.
type logFile struct{ rotated lumberjack.Logger }

var _ io.Writer = (*logFile)(nil)

// Write appends a line. The file is made here, since lumberjack truncates the file that it makes, and with it the line
// of another process.
func (f *logFile) Write(line []byte) (int, error) {
	name := f.rotated.Filename
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return 0, err
	}
	made, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	_ = made.Close()
	return f.rotated.Write(line)
}
