package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// settings has one flag of each type that daemons use.
type settings struct {
	Name     string
	ID       uint32
	Count    int
	Enabled  bool
	Interval time.Duration
	Files    []string
}

func (s *settings) flags() *pflag.FlagSet {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.StringVar(&s.Name, "name", "nobody", "")
	flags.Uint32Var(&s.ID, "id", 7, "")
	flags.IntVar(&s.Count, "count", -1, "")
	flags.BoolVar(&s.Enabled, "enabled", false, "")
	flags.DurationVar(&s.Interval, "interval", time.Second, "")
	flags.StringSliceVar(&s.Files, "files", []string{"default"}, "")
	return flags
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseFlags(t *testing.T) {
	defaults := settings{Name: "nobody", ID: 7, Count: -1, Interval: time.Second, Files: []string{"default"}}
	full := settings{Name: "east", ID: 9, Count: -3, Enabled: true, Interval: 90 * time.Second, Files: []string{"a", "b"}}
	for name, test := range map[string]struct {
		file string
		args []string
		want settings
	}{
		"defaults":           {want: defaults},
		"empty file":         {file: "# nothing yet\n", want: defaults},
		"null file":          {file: "---\n", want: defaults},
		"empty mapping":      {file: "{}", want: defaults},
		"flags":              {args: []string{"--name=east", "--id=9", "--count=-3", "--enabled", "--interval=90s", "--files=a,b"}, want: full},
		"file":               {file: "name: east\nid: 9\ncount: -3\nenabled: true\ninterval: 90s\nfiles: [a, b]\n", want: full},
		"file, list in text": {file: "name: east\nid: 9\ncount: -3\nenabled: true\ninterval: 1m30s\nfiles: a,b\n", want: full},
		"JSON":               {file: `{"name":"east","id":9,"count":-3,"enabled":true,"interval":"90s","files":["a","b"]}`, want: full},
		"flag wins": {
			file: "name: west\nid: 1\ncount: 1\nenabled: false\ninterval: 2s\nfiles: [c]\n",
			args: []string{"--name=east", "--id=9", "--count=-3", "--enabled", "--interval=90s", "--files=a,b"},
			want: full,
		},
		"text that looks like a number": {
			file: "name: 0123\n",
			want: settings{Name: "0123", ID: 7, Count: -1, Interval: time.Second, Files: []string{"default"}},
		},
		"empty list and text": {
			file: "name: \"\"\nfiles: []\n",
			want: settings{ID: 7, Count: -1, Interval: time.Second, Files: []string{}},
		},
		"anchor": {
			file: "files: &f [a, b]\nname: x\n",
			want: settings{Name: "x", ID: 7, Count: -1, Interval: time.Second, Files: []string{"a", "b"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got settings
			args := test.args
			if test.file != "" {
				args = append(args, "--config", configFile(t, test.file))
			}
			if err := ParseFlags(got.flags(), args); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestConfigMarksChanged: a daemon can tell what was set from what is default.
func TestConfigMarksChanged(t *testing.T) {
	var got settings
	flags := got.flags()
	if err := ParseFlags(flags, []string{"--config", configFile(t, "name: nobody\n")}); err != nil {
		t.Fatal(err)
	}
	if !flags.Changed("name") || flags.Changed("id") {
		t.Errorf("changed: name %v, id %v; want true, false", flags.Changed("name"), flags.Changed("id"))
	}
}

func TestParseFlagsErrors(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		args []string
		want string // FILE stands for the config file's path
	}{
		"unknown key":      {file: "name: x\nnome: y\n", want: `FILE:2: no setting is called "nome"`},
		"not a number":     {file: "\nid: many\n", want: `FILE:2: id: "many" is not a whole number of 0 or more in its range`},
		"negative":         {file: "id: -1\n", want: `FILE:1: id: "-1" is not a whole number of 0 or more in its range`},
		"too large":        {file: "id: 4294967296\n", want: `FILE:1: id: "4294967296" is not a whole number of 0 or more in its range`},
		"not a bool":       {file: "enabled: perhaps\n", want: `FILE:1: enabled: "perhaps" is not true or false`},
		"not a duration":   {file: "interval: 5\n", want: `FILE:1: interval: "5" is not a duration such as "30s"`},
		"list for one":     {file: "name: [a]\n", want: `FILE:1: name: a value of type string is expected`},
		"mapping for one":  {file: "name:\n  a: b\n", want: `FILE:2: name: a value of type string is expected`},
		"null":             {file: "name:\n", want: `FILE:1: name: a value of type string is expected`},
		"mapping in list":  {file: "files:\n- a\n- b: c\n", want: `FILE:2: files: line 3 is not a single value`},
		"twice":            {file: "name: a\nname: b\n", want: `FILE:2: name is set in line 1 already`},
		"list":             {file: "- name\n", want: `FILE:1: a mapping of flag names to values is expected`},
		"text":             {file: "hello\n", want: `FILE:1: a mapping of flag names to values is expected`},
		"second document":  {file: "name: a\n---\nname: b\n", want: `FILE:2: a second document: settings stand in one`},
		"not YAML":         {file: "name: a\n\tid: 3\n", want: `FILE:2: found a tab character that violates indentation`},
		"config in config": {file: "config: other\n", want: `FILE:1: no setting is called "config"`},
		"overridden, but wrong": {
			file: "id: many\n", args: []string{"--id=3"},
			want: `FILE:1: id: "many" is not a whole number of 0 or more in its range`,
		},
		"unknown flag": {args: []string{"--nome=x"}, want: "unknown flag: --nome"},
		"argument":     {args: []string{"start"}, want: `unexpected argument "start": all settings are flags`},
		"missing file": {args: []string{"--config=/nowhere/at/all"}, want: "--config: open /nowhere/at/all: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			args, path := test.args, ""
			if test.file != "" {
				path = configFile(t, test.file)
				args = append(args, "--config", path)
			}
			err := ParseFlags(new(settings).flags(), args)
			if err == nil {
				t.Fatal("no error")
			}
			want := strings.ReplaceAll(test.want, "FILE", path)
			if err.Error() != want {
				t.Errorf("error:\n%s\nwant:\n%s", err, want)
			}
		})
	}
}

func TestParseFlagsHelp(t *testing.T) {
	if err := ParseFlags(new(settings).flags(), []string{"--help"}); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("error %v, want pflag.ErrHelp", err)
	}
}

// FuzzConfig: no text makes the reader panic, and an error names the file.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{"name: a\nid: 3", "files: [a, b]", "a: &a [*a]", "files: &f [a]\nname: *f", "---\n---", "? [a]\n: b"} {
		f.Add(text)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := ParseFlags(new(settings).flags(), []string{"--config", path})
		if err != nil && !strings.HasPrefix(err.Error(), path) {
			t.Errorf("error does not begin with the file: %v", err)
		}
	})
}
