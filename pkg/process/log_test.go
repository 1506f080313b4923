package process

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestNewLoggerFormat(t *testing.T) {
	for format, wantJSON := range map[string]bool{"": true, "auto": true, "json": true, "text": false} {
		var out bytes.Buffer
		log, err := NewLogger(LogConfig{Format: format}, &out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("hello", "cluster", "east")
		if got := json.Valid(out.Bytes()); got != wantJSON {
			t.Errorf("format %q: JSON %v, want %v: %s", format, got, wantJSON, out.String())
		}
		if !strings.Contains(out.String(), "east") {
			t.Errorf("format %q: attribute is missing: %s", format, out.String())
		}
	}
}

// TestDurationsHaveAUnit: a number of nanoseconds is nothing to read.
func TestDurationsHaveAUnit(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		log, err := NewLogger(LogConfig{Format: format}, &out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("retry", "delay", 1234567*time.Microsecond)
		if !strings.Contains(out.String(), "1.235s") {
			t.Errorf("%s: %s", format, out.String())
		}
	}
}

func TestNewLoggerLevel(t *testing.T) {
	for level, want := range map[string]slog.Level{
		"": slog.LevelInfo, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		log, err := NewLogger(LogConfig{Level: level}, new(bytes.Buffer))
		if err != nil {
			t.Fatal(err)
		}
		if !log.Enabled(t.Context(), want) || log.Enabled(t.Context(), want-1) {
			t.Errorf("level %q does not begin at %v", level, want)
		}
	}
}

func TestNewLoggerErrors(t *testing.T) {
	for want, c := range map[string]LogConfig{
		`--log-level: "loud" is none of "debug", "info", "warn", "error"`: {Level: "loud"},
		`--log-format: "xml" is none of "json", "text", "auto"`:           {Format: "xml"},
	} {
		if _, err := NewLogger(c, new(bytes.Buffer)); err == nil || err.Error() != want {
			t.Errorf("%+v: error %v, want %s", c, err, want)
		}
	}
}

// TestFileIsNoTerminal: a log that goes to a file is JSON by default.
func TestFileIsNoTerminal(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) {
		t.Error("a file is taken for a terminal")
	}
}
