package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// What has no certificate and can get none says why in one line, and what to do.
// Who answers tokens is tested in pkg/token, the whole in tests/scenarios.
func TestEnrolRefuses(t *testing.T) {
	token := func(change func(*stranger.Pass)) string {
		p := stranger.NewPass("east", []string{"127.0.0.1:1"}, sha256.Sum256(nil), time.Now().Add(time.Hour))
		p.Node = "node-1"
		change(&p)
		return stranger.TokenText(p)
	}
	for name, tc := range map[string]struct {
		token string
		want  []string
	}{
		"no flag":      {"", []string{"agent.crt", "`causeway agent token node-1`, then --join-token-file"}},
		"no token":     {"something else", []string{"does not begin with", "no such file"}},
		"other node":   {token(func(p *stranger.Pass) { p.Node = "node-2" }), []string{"it is for node node-2 of cluster east, this is node node-1 of cluster east"}},
		"another mesh": {token(func(p *stranger.Pass) { p.Cluster = "west" }), []string{"of cluster west, this is"}},
		"ended":        {token(func(p *stranger.Pass) { p.Expires = time.Now().Add(-time.Minute) }), []string{"the token ended at", "causeway agent token node-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := &config{
				node: "node-1", cluster: "east",
				files: pki.ClientFiles{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "agent.crt"), KeyFile: filepath.Join(dir, "agent.key")},
			}
			if tc.token != "" {
				c.tokenFile = filepath.Join(dir, "token")
				if err := os.WriteFile(c.tokenFile, []byte(tc.token), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if name == "no flag" {
				if err := os.WriteFile(c.files.CAFile, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := enrol(t.Context(), c, logger(t))
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want one line with %q", err, want)
				}
			}
			if len(tc.token) > 60 && err != nil && strings.Contains(err.Error(), tc.token[30:60]) {
				t.Errorf("%v holds the token", err)
			}
		})
	}
}

// A token that others may read is said so.
func TestWarnOfReaders(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true} {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		warnOfReaders(path, slog.New(slog.NewTextHandler(&out, nil)))
		if got := strings.Contains(out.String(), path) && strings.Contains(out.String(), fmt.Sprintf("mode=%04o", mode)); got != want || strings.Contains(out.String(), "secret") {
			t.Errorf("mode %04o: %q, want a warning: %v", mode, out.String(), want)
		}
	}
}

// Who has a certificate is not asked for a token; one of another node is left alone.
func TestEnrolLeavesAlone(t *testing.T) {
	c, _ := newConfig(t)
	c.tokenFile = filepath.Join(t.TempDir(), "none")
	if err := enrol(t.Context(), c, logger(t)); err != nil {
		t.Error(err)
	}
	c.node = "node-2"
	if err := enrol(t.Context(), c, logger(t)); err == nil || !strings.Contains(err.Error(), "needed is one for causeway://east/agent/node-2") {
		t.Errorf("another node's: %v", err)
	}
}

// An agent that runs says what to do once its certificate has ended.
func TestStayEnrolled(t *testing.T) {
	c, authority := newConfig(t)
	pair, err := authority.Issue(pki.Request{Role: pki.RoleAgent, Name: c.node, TTL: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pair.Save(c.files.CertFile, c.files.KeyFile), os.WriteFile(c.files.CAFile, authority.CertPEM(), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said := make(chan string, 1)
	log := slog.New(slog.NewTextHandler(writer(func(line string) {
		said <- line // there is one, however often it is looked
		cancel()
	}), nil))
	stayEnrolled(ctx, c, time.Millisecond, log)
	select {
	case line := <-said:
		for _, want := range []string{"certificate expired", "causeway agent token " + c.node} {
			if !strings.Contains(line, want) {
				t.Errorf("no %q in %s", want, line)
			}
		}
	default:
		t.Error("nothing is said")
	}
}

// writer is called for each line.
type writer func(string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}

// A node's certificate of an authority that the cluster no longer has goes, to make
// room for one of today's; while one authority replaces another it stays.
func TestEnrolForgetsAuthority(t *testing.T) {
	c, authority := newConfig(t)
	other, err := pki.OpenAuthority(t.TempDir(), c.cluster)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := pki.OpenAuthority(t.TempDir(), "west")
	if err != nil {
		t.Fatal(err)
	}
	c.authorityFile = filepath.Join(t.TempDir(), "authority.crt")
	for _, tc := range []struct {
		name  string
		given []byte
		stays bool
		want  string
	}{
		{"no file yet", nil, true, ""},
		{"its own", authority.CertPEM(), true, ""},
		{"a rotation", append(other.CertPEM(), authority.CertPEM()...), true, ""},
		{"another cluster's", foreign.CertPEM(), true, "it is not the authority of cluster east"},
		{"another", other.CertPEM(), false, ""},
	} {
		if tc.given != nil {
			if err := os.WriteFile(c.authorityFile, tc.given, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := c.forgetAuthority(logger(t))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		for _, path := range []string{c.files.CAFile, c.files.CertFile, c.files.KeyFile} {
			if _, err := os.Stat(path); (err == nil) != tc.stays {
				t.Errorf("%s: %s: %v", tc.name, path, err)
			}
		}
	}
}

// An agent in a pod says what is missing there. Who answers it is tested in pkg/token.
func TestEnrolAccountRefuses(t *testing.T) {
	authority, err := pki.OpenAuthority(t.TempDir(), "east")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ca    []byte
		token string
		want  string
	}{
		"no token":     {authority.CertPEM(), "", "no such file"},
		"empty":        {authority.CertPEM(), "\n", "the file is empty"},
		"no authority": {nil, "a.b.c", "read the authority's certificate"},
		"not ours":     {[]byte("none"), "a.b.c", "authority.crt: no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := &config{
				node: "node-1", cluster: "east", apiServer: "127.0.0.1:1", accountFile: filepath.Join(dir, "token"), authorityFile: filepath.Join(dir, "authority.crt"),
				files: pki.ClientFiles{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "agent.crt"), KeyFile: filepath.Join(dir, "agent.key")},
			}
			for path, text := range map[string]string{c.accountFile: tc.token, c.authorityFile: string(tc.ca)} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := enrol(t.Context(), c, logger(t))
			for _, want := range []string{"--service-account-token-file " + c.accountFile, tc.want} {
				if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want one line with %q", err, want)
				}
			}
		})
	}
}

// One way to a first certificate is enough.
func TestValidateTokens(t *testing.T) {
	c, _ := newConfig(t)
	c.apiServer, c.meshPort, c.meshDevice = "127.0.0.1:1", 8473, "mesh0"
	for _, tc := range []struct{ join, account, authority, want string }{
		{"", "", "", ""},
		{"", "token", "ca.crt", ""},
		{"token", "", "", ""},
		{"token", "token", "ca.crt", "give one of them"},
		{"", "token", "", "each needs the other"},
		{"", "", "ca.crt", "each needs the other"},
	} {
		c.tokenFile, c.accountFile, c.authorityFile = tc.join, tc.account, tc.authority
		if err := c.validate(); tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
