package identity_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/identity"
)

// TestLabelOrder: labels are sorted by key, not by their text, in which '='
// would come after '-', '.' and '/'.
func TestLabelOrder(t *testing.T) {
	got := identity.NewLabels(identity.SourceKubernetes, map[string]string{
		"app.kubernetes.io/name": "1", "app": "2", "app-x": "3", "app/x": "4", "b": "", "a": "x=y",
	})
	want := identity.Labels("k8s:a=x=y;k8s:app=2;k8s:app-x=3;k8s:app.kubernetes.io/name=1;k8s:app/x=4;k8s:b=;")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := identity.NewLabels(identity.SourceKubernetes, nil); got != "" {
		t.Errorf("empty set is %q", got)
	}
}

func TestLabelsGet(t *testing.T) {
	l := identity.NewLabels(identity.SourceKubernetes, map[string]string{"app": "web", "empty": "", identity.LabelCluster: "east"})
	for key, want := range map[string]string{"k8s:app": "web", "k8s:empty": ""} {
		if got, ok := l.Get(key); !ok || got != want {
			t.Errorf("%s: %q, %t, want %q", key, got, ok, want)
		}
	}
	for _, key := range []string{"app", "any:app", "k8s:ap", "k8s:app=web", ""} {
		if got, ok := l.Get(key); ok {
			t.Errorf("%s: %q, want none", key, got)
		}
	}
	if l.Cluster() != "east" || identity.Labels("").Cluster() != "" {
		t.Errorf("cluster %q", l.Cluster())
	}
}

func TestLabelsAll(t *testing.T) {
	var got []string
	for key, value := range identity.Labels("any:a=1;broken;k8s:b=2=3;k8s:c=;").All() {
		got = append(got, key+"|"+value)
		if key == "k8s:b" {
			break
		}
	}
	if diff := cmp.Diff([]string{"any:a|1", "k8s:b|2=3"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseLabels(t *testing.T) {
	for text, want := range map[string]identity.Labels{
		"":                          "",
		"k8s:a=;":                   "k8s:a=;",
		"k8s:b=2;k8s:a=1;":          "k8s:a=1;k8s:b=2;",
		"k8s:a=1;any:a=1;":          "any:a=1;k8s:a=1;",
		"k8s:a.b=1;k8s:a=x=y:z;":    "k8s:a=x=y:z;k8s:a.b=1;",
		"cidr:10.0.0.0/8=;k8s:a=1;": "cidr:10.0.0.0/8=;k8s:a=1;",
	} {
		if got, err := identity.ParseLabels(text); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		";", "a", "a;", "a=;", ":a=;", "k8s:=1;", "k8s:a=1", "k8s:a=1;;", "k8s:a=1;k8s:a=1;", "k8s:a=1;k8s:a=2;",
		"k8s:a=\xff;", "=k8s:a;", strings.Repeat("x", 100000),
	} {
		got, err := identity.ParseLabels(text)
		if !errors.Is(err, identity.ErrLabels) || got != "" {
			t.Errorf("%.20q: %q, %v, want %v", text, got, err, identity.ErrLabels)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}

// TestLabelsProperty: however labels are shuffled, they have one canonical
// form, and that form is its own.
func TestLabelsProperty(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const letters = "ab-./="
	for range 500 {
		labels := map[string]string{}
		for range random.IntN(6) {
			key := make([]byte, 1+random.IntN(4))
			for i := range key {
				key[i] = letters[random.IntN(len(letters)-1)]
			}
			labels[string(key)] = letters[:random.IntN(len(letters)+1)]
		}
		want := identity.NewLabels("k8s", labels)
		parts := strings.SplitAfter(string(want), ";")
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		got, err := identity.ParseLabels(strings.Join(parts, ""))
		if err != nil || got != want {
			t.Fatalf("%q: %q, %v, want %q", parts, got, err, want)
		}
		var keys []string
		for key, value := range got.All() {
			keys = append(keys, key)
			if labels[strings.TrimPrefix(key, "k8s:")] != value {
				t.Fatalf("%s is %q in %s", key, value, got)
			}
		}
		if len(keys) != len(labels) || !slices.IsSorted(keys) {
			t.Fatalf("keys %q of %q", keys, labels)
		}
	}
}
