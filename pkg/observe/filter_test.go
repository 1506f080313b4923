package observe

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFilter(t *testing.T) {
	byPrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	got, err := ParseFilter(FilterText{Node: "n1", Direction: "to_mesh", Reasons: []string{"source", "node"}, From: "10.1.2.3/16", To: "shop/web-0"})
	want := Filter{
		Node: "n1", Direction: ToMesh, Reasons: []string{"source", "node"},
		From: Selector{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, To: Selector{Namespace: "shop", Pod: "web-0"},
	}
	if diff := cmp.Diff(want, got, byPrefix); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for text, want := range map[string]string{"fd00::1": "fd00::1/128", "fd00::/8": "fd00::/8", "10.1.0.1": "10.1.0.1/32"} {
		if f, err := ParseFilter(FilterText{From: text}); err != nil || f.From.Prefix.String() != want {
			t.Errorf("%s: %+v, %v", text, f, err)
		}
	}
	for want, text := range map[string]FilterText{
		`direction "up": give to_mesh`:       {Direction: "up"},
		`no reason "x": causeway observe`:    {Reasons: []string{"node", "x"}},
		"are counted and have no events":     {Reasons: []string{"link_scope"}},
		`"web" is no address, no prefix`:     {From: "web"},
		`"10.1.0.0/33/" is no address`:       {To: "10.1.0.0/33/"},
		`"shop/web/0" is no address`:         {To: "shop/web/0"},
		`"/web" is no address, no prefix an`: {To: "/web"},
	} {
		if _, err := ParseFilter(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", text, err, want)
		}
	}
}

func TestAllows(t *testing.T) {
	s := &Seen{Event: dropped(80), Node: "n1", From: Party{Namespace: "shop", Pod: "web-0"}}
	for _, test := range []struct {
		text FilterText
		want bool
	}{
		{FilterText{}, true},
		{FilterText{Node: "n1"}, true},
		{FilterText{Node: "n2"}, false},
		{FilterText{Direction: "from_mesh"}, true},
		{FilterText{Direction: "to_mesh"}, false},
		{FilterText{Reasons: []string{"source", "identity"}}, true},
		{FilterText{Reasons: []string{"source"}}, false},
		{FilterText{From: "10.2.0.0/16", To: "10.1.0.1"}, true},
		{FilterText{From: "10.1.0.1"}, false},
		{FilterText{To: "10.2.0.0/16"}, false},
		{FilterText{To: "fd00::/8"}, false},
		{FilterText{From: "shop/web-0"}, true},
		{FilterText{From: "shop/web-1"}, false},
		{FilterText{From: "shops/web-0"}, false},
		{FilterText{To: "shop/web-0"}, false},
	} {
		f, err := ParseFilter(test.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.allowsNamed(s); got != test.want {
			t.Errorf("%+v: %t", test.text, got)
		}
		// What the agent is told lets through all that may be wanted.
		narrow, err := filterFromProto(filterToProto(f))
		if err != nil {
			t.Fatal(err)
		}
		if test.want && !narrow.allows(s.Event) {
			t.Errorf("%+v: the agent would not send it", test.text)
		}
	}
	// Addresses that could not be read are in no range.
	if (Filter{From: Selector{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}).allows(Event{}) {
		t.Error("the zero address is in 0.0.0.0/0")
	}
}
