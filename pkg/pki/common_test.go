package pki

import (
	"slices"
	"testing"
)

func TestInCommon(t *testing.T) {
	text := func(cluster string) []byte {
		a, err := OpenAuthority(t.TempDir(), cluster)
		if err != nil {
			t.Fatal(err)
		}
		return a.CertPEM()
	}
	one, other := text("east"), text("east")
	both := slices.Concat(other, []byte("# a remark\n"), one)
	for name, test := range map[string]struct {
		a, b []byte
		want bool
	}{
		"the same":     {one, one, true},
		"one of two":   {one, both, true},
		"two of one":   {both, one, true},
		"another":      {one, other, false},
		"none":         {one, nil, false},
		"none in both": {[]byte("text"), []byte("text"), false},
	} {
		if got := InCommon(test.a, test.b); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}
