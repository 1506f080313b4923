package process

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// LogConfig says what is logged, and how.
type LogConfig struct {
	// Level is debug, info, warn or error; "" is info.
	Level string
	// Format is json, text or auto, which is text on a terminal and json
	// elsewhere; "" is auto.
	Format string
}

// Flags registers --log-level and --log-format.
func (c *LogConfig) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Level, "log-level", "info", "what is logged: debug, info, warn or error")
	flags.StringVar(&c.Format, "log-format", "auto", "how it is logged: json, text, or auto (text on a terminal)")
}

// NewLogger returns a logger that writes to w. Its error names the flag.
func NewLogger(c LogConfig, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch c.Level {
	case "debug":
		level = slog.LevelDebug
	case "info", "":
		level = slog.LevelInfo
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	default:
		return nil, fmt.Errorf(`--log-level: %q is none of "debug", "info", "warn", "error"`, c.Level)
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	switch {
	case c.Format == "text", (c.Format == "auto" || c.Format == "") && isTerminal(w):
		return slog.New(slog.NewTextHandler(w, options)), nil
	case c.Format == "json", c.Format == "auto", c.Format == "":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf(`--log-format: %q is none of "json", "text", "auto"`, c.Format)
}

// readable writes durations with their unit; JSON would have a number of nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().Round(time.Millisecond).String())
	}
	return a
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
