package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// summarise reads lines as the output of go test.
func summarise(t *testing.T, noSkips bool, runErr error, lines ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	r := newReport(&out)
	if err := r.read(strings.NewReader(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	err := r.finish(runErr, noSkips)
	return out.String(), err
}

const (
	passA = `{"Action":"run","Package":"a","Test":"TestA"}
{"Action":"output","Package":"a","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"a","Test":"TestA"}
{"Action":"pass","Package":"a","Elapsed":1.5}`
	skipB = `{"Action":"run","Package":"b","Test":"TestB"}
{"Action":"output","Package":"b","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"b","Test":"TestB","Output":"    b_test.go:3: needs root\n"}
{"Action":"output","Package":"b","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"b","Test":"TestB"}
{"Action":"pass","Package":"b","Elapsed":0.5}`
	failC = `{"Action":"run","Package":"c","Test":"TestC"}
{"Action":"output","Package":"c","Test":"TestC","Output":"    c_test.go:3: broken\n"}
{"Action":"fail","Package":"c","Test":"TestC"}
{"Action":"output","Package":"c","Output":"FAIL\n"}
{"Action":"fail","Package":"c","Elapsed":2.5}`
	hangD = `{"Action":"run","Package":"d","Test":"TestD"}
{"Action":"output","Package":"d","Test":"TestD","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"d","Elapsed":3}`
	leakE = `{"Action":"run","Package":"e","Test":"TestE"}
{"Action":"pass","Package":"e","Test":"TestE"}
{"Action":"output","Package":"e","Output":"goleak: Errors on successful test run\n"}
{"Action":"fail","Package":"e","Elapsed":1}`
	buildF = `{"ImportPath":"f [f.test]","Action":"build-output","Output":"f/f.go:1:1: syntax error\n"}
{"ImportPath":"f [f.test]","Action":"build-fail"}
{"Action":"fail","Package":"f","Elapsed":0,"FailedBuild":"f [f.test]"}`
	emptyG = `{"Action":"skip","Package":"g","Elapsed":0}`
)

func TestReport(t *testing.T) {
	exit := errors.New("exit status 1")
	for name, test := range map[string]struct {
		lines   []string
		noSkips bool
		runErr  error
		last    string
		want    []string
		not     []string
		wrong   bool
	}{
		"passed": {
			lines: []string{passA, emptyG}, last: "1 passed, 0 failed, 0 skipped",
			want: []string{"ok       1.5 s  a"}, not: []string{"chatter", "Not run"},
		},
		"skipped": {
			lines: []string{passA, skipB}, last: "1 passed, 0 failed, 1 skipped",
			want: []string{"  needs root\n      b TestB\n"}, not: []string{"b_test.go"},
		},
		"skipped where nothing may be": {
			lines: []string{passA, skipB}, noSkips: true, last: "1 passed, 0 failed, 1 skipped",
			want: []string{"Nothing may be skipped here"}, wrong: true,
		},
		"failed": {
			lines: []string{passA, failC}, runErr: exit, last: "1 passed, 1 failed, 0 skipped",
			want: []string{"c_test.go:3: broken", "FAIL     2.5 s  c"}, not: []string{"chatter"}, wrong: true,
		},
		"killed": {
			lines: []string{hangD}, runErr: exit, last: "0 passed, 1 failed, 0 skipped",
			want: []string{"not finished: TestD", "panic: test timed out"}, wrong: true,
		},
		"leaks": {
			lines: []string{leakE}, runErr: exit, last: "1 passed, 1 failed, 0 skipped",
			want: []string{"goleak: Errors"}, wrong: true,
		},
		"not built": {
			lines: []string{passA, buildF}, runErr: exit, last: "1 passed, 1 failed, 0 skipped",
			want: []string{"f/f.go:1:1: syntax error"}, wrong: true,
		},
		"nothing": {lines: []string{emptyG}, last: "0 passed, 0 failed, 0 skipped", want: []string{"no test ran"}, wrong: true},
		"go itself": {
			lines: []string{passA, "go: cannot find main module"}, runErr: exit, last: "1 passed, 0 failed, 0 skipped",
			want: []string{"go: cannot find main module", "go test: exit status 1, though no test failed"}, wrong: true,
		},
		"slowest first": {
			lines: []string{passA, failC}, last: "1 passed, 1 failed, 0 skipped",
			want: []string{"Time by package:\n     2.5 s  c\n     1.5 s  a\n"}, wrong: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := summarise(t, test.noSkips, test.runErr, test.lines...)
			if (err != nil) != test.wrong {
				t.Errorf("error %v, want one: %v", err, test.wrong)
			}
			if !strings.HasSuffix(got, "\n"+test.last+"\n") {
				t.Errorf("last line is not %q:\n%s", test.last, got)
			}
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is missing in:\n%s", want, got)
				}
			}
			for _, not := range test.not {
				if strings.Contains(got, not) {
					t.Errorf("%q stands in:\n%s", not, got)
				}
			}
		})
	}
}

// TestRun runs real tests: the format of go test is not ours.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example\n\ngo 1.26\n",
		"a_test.go": `package example

import "testing"

func TestPass(t *testing.T) {}
func TestSkip(t *testing.T) { t.Skip("needs a cold day") }
func TestFail(t *testing.T) { t.Run("inner", func(t *testing.T) { t.Error("wrong answer") }) }
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, test := range []struct {
		args    []string
		noSkips bool
		want    string
		wrong   bool
	}{
		{[]string{"."}, false, "1 passed, 2 failed, 1 skipped", true},
		{[]string{"-run", "Pass|Skip", "."}, false, "1 passed, 0 failed, 1 skipped", false},
		{[]string{"-run", "Pass|Skip", "."}, true, "1 passed, 0 failed, 1 skipped", true},
		{[]string{"-run", "Pass", "."}, true, "1 passed, 0 failed, 0 skipped", false},
		{[]string{"./nowhere"}, false, "0 passed, 1 failed, 0 skipped", true},
	} {
		var stdout, stderr bytes.Buffer
		err := run(context.Background(), test.args, test.noSkips, &stdout, &stderr)
		if (err != nil) != test.wrong || !strings.HasSuffix(stdout.String(), "\n"+test.want+"\n") {
			t.Errorf("%v: error %v, want %q at the end of:\n%s%s", test.args, err, test.want, stdout.String(), stderr.String())
		}
	}
}
