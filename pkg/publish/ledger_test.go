package publish

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

type (
	identityLedger = ledger[identity.Number, identity.Labels]
	labelled       = claim[identity.Labels]
)

func testLedger(t *testing.T) identityLedger {
	return identityLedger{
		path: filepath.Join(t.TempDir(), "identities"), cluster: cluster.Config{Name: "east", ID: 1, Size: cluster.Size255},
		space: identitySpace(1, cluster.Size255),
	}
}

var someClaims = map[identity.Number]labelled{
	65800: {Holder: "k8s:app=a;"},
	65801: {Holder: "k8s:app=b;", Freed: time.Unix(1_800_000_000, 0).UTC()},
}

func TestLedgerKeepsWhatWasSaved(t *testing.T) {
	l := testLedger(t)
	if got, err := l.load(); err != nil || len(got) > 0 {
		t.Errorf("before the first: %v, %v", got, err)
	}
	with := map[identity.Number]labelled{1 << 16: {}} // somebody else's
	for n, c := range someClaims {
		with[n] = c
	}
	for range 2 {
		if err := l.save(with); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(someClaims, got, cmp.AllowUnexported(labelled{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if files, _ := filepath.Glob(l.path + "*"); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
	if info, err := os.Stat(l.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
}

// A file that is torn anywhere, changed anywhere, or somebody else's is moved
// aside and not used.
func TestLedgerSetsAsideWhatIsWrong(t *testing.T) {
	l := testLedger(t)
	if err := l.save(someClaims); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, l identityLedger, text []byte) {
		t.Helper()
		if err := os.WriteFile(l.path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := l.load(); !errors.Is(err, errLedger) || len(got) > 0 {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if aside, err := os.ReadFile(l.path + ".aside"); err != nil || !bytes.Equal(aside, text) {
			t.Errorf("%s: it was not moved aside: %v", what, err)
		}
		if got, err := l.load(); err != nil || len(got) > 0 {
			t.Errorf("%s, at the next start: %v, %v", what, got, err)
		}
	}
	for n := range good {
		refused("torn", l, good[:n])
		changed := bytes.Clone(good)
		changed[n] ^= 1
		if json := bytes.IndexByte(good, '\n'); n > json { // the head may change to what means the same
			refused("changed", l, changed)
		}
	}
	for what, change := range map[string]func(*cluster.Config){
		"name": func(c *cluster.Config) { c.Name = "west" },
		"id":   func(c *cluster.Config) { c.ID = 2 },
		"size": func(c *cluster.Config) { c.Size = cluster.Size511 },
	} {
		other := l
		change(&other.cluster)
		refused(what, other, good)
	}
	refused("version", l, bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1))
}

func TestLedgerWithoutAPath(t *testing.T) {
	var l identityLedger
	if err := l.save(someClaims); err != nil {
		t.Error(err)
	}
	if got, err := l.load(); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}
