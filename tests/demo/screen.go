package main

import (
	"fmt"
	"io"
	"strings"
)

// screen writes for a person: lines that stay, and one that changes while
// something is under way, which only a terminal shows.
type screen struct {
	out io.Writer
	// width of the terminal; 0 when there is none.
	width int
	step  int
}

func (s *screen) title(text string) {
	fmt.Fprintf(s.out, "\n%s\n%s\n", text, strings.Repeat("=", len(text)))
}

// begin starts a numbered step.
func (s *screen) begin(text string) {
	s.step++
	fmt.Fprintf(s.out, "\n(%d) %s\n", s.step, text)
}

func (s *screen) line(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.out, "    "+format+"\n", args...)
}

// now replaces the live line.
func (s *screen) now(format string, args ...any) {
	if s.width > 0 {
		s.clear()
		text := []rune("    " + fmt.Sprintf(format, args...))
		fmt.Fprint(s.out, string(text[:min(len(text), s.width-1)]))
	}
}

func (s *screen) clear() {
	if s.width > 0 {
		fmt.Fprint(s.out, "\r\033[K")
	}
}

func (s *screen) blank() { fmt.Fprintln(s.out) }

// block writes a program's output, indented.
func (s *screen) block(text []byte) {
	s.clear()
	for line := range strings.Lines(strings.TrimRight(string(text), "\n") + "\n") {
		fmt.Fprintf(s.out, "    %s", line)
	}
}
