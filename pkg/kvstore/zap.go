package kvstore

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger routes what etcd logs to slog, one level lower: its Info is for
// those who develop it, its Warn says that a disk was slow, its Error that
// something is tried again. What ends the process stays an Error. The message
// is etcd's own text. Its Debug is for nobody: it holds what is written, with the
// private keys among that.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(slogCore{log: log.With("component", "etcd")})
}

// quiet is zapLogger for a client: it warns of each attempt that fails, which
// those who made it report once.
func quiet(log *slog.Logger) *zap.Logger {
	out := zapLogger(log)
	if !out.Core().Enabled(zapcore.ErrorLevel) { // zap complains on stderr about what it can not raise
		return out
	}
	return out.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
}

// slogCore is a zapcore.Core that writes to slog.
type slogCore struct {
	log *slog.Logger
}

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l > zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.ErrorLevel:
		return slog.LevelWarn
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled lets through what ends the process even to a handler that discards
// all: zap complains on stderr about a core that does not.
func (c slogCore) Enabled(l zapcore.Level) bool {
	return l > zapcore.ErrorLevel || l > zapcore.DebugLevel && c.log.Enabled(context.Background(), slogLevel(l))
}

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{log: slog.New(c.log.Handler().WithAttrs(attrs(fields)))}
}

func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !beside(e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

// beside reports whether a message is about a server on a network with users:
// this one is on a socket of its own and has none. Or about one that ends before it
// has begun: the next start makes up for that.
func beside(message string) bool {
	return strings.HasPrefix(message, "Running http and grpc server on single port") ||
		message == "simple token is not cryptographically signed" ||
		message == "failed to update storage version"
}

func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, slogLevel(e.Level), e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return c.log.Handler().Handle(context.Background(), r)
}

func (c slogCore) Sync() error { return nil }

// attrs turns zap's fields, which only an encoder can read, into slog's.
func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
