package kvstore

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestZapLogsQuietlyToSlog(t *testing.T) {
	var out bytes.Buffer
	log := zapLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	log.Debug("debug")
	log.Info("info")
	log.With(zap.Int("count", 3)).Warn("slow", zap.Error(errors.New("why")), zap.Strings("urls", []string{"a", "b"}))
	log.Named("name").Error("bad")
	quiet(slog.New(slog.NewTextHandler(&out, nil))).Warn("an attempt that fails")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), out.String())
	}
	for i, want := range [][]string{
		{"level=INFO", "msg=slow", "count=3", "error=why", `urls="[a b]"`, "component=etcd"},
		{"level=WARN", "msg=bad"},
	} {
		for _, part := range want {
			if !strings.Contains(lines[i], part) {
				t.Errorf("%q lacks %q", lines[i], part)
			}
		}
	}
	defer func() {
		if recover() == nil || !strings.Contains(out.String(), "level=ERROR msg=end") {
			t.Errorf("a panic of etcd leaves %s", out.String())
		}
	}()
	log.Panic("end")
}

// etcd's Debug holds what is written.
func TestZapLogsNoValues(t *testing.T) {
	var out bytes.Buffer
	log := zapLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.Debug("Apply", zap.String("raftReq", "put:<value:secret>"))
	log.Info("info")
	if text := out.String(); strings.Contains(text, "secret") || !strings.Contains(text, "level=DEBUG msg=info") {
		t.Errorf("logged: %s", text)
	}
}
