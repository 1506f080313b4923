package install

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
)

func memberOf(context string, state *release.State, pods ...string) *Member {
	facts := &Facts{Release: state, From: "its nodes"}
	if state != nil {
		facts.Values = state.Values
	}
	for _, p := range pods {
		facts.Pods = append(facts.Pods, netip.MustParsePrefix(p))
	}
	return &Member{Installer: &Installer{Cluster: &access.Cluster{Context: context}, Name: context}, Name: context, Facts: facts}
}

func installed(name string, id int) *release.State {
	return &release.State{Values: release.Merge(release.Put(name, "cluster", "name"), release.Put(float64(id), "cluster", "id"))}
}

func TestNamesAndNumbers(t *testing.T) {
	east, west, north := memberOf("east", nil), memberOf("ctx-west", installed("west", 1)), memberOf("north", nil)
	members := []*Member{east, west, north}
	if wrong := append(name(members, &UpConfig{}), number(t.Context(), members, &UpConfig{})...); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	if west.Name != "west" || west.ID != 1 {
		t.Errorf("what is installed is %q, id %d: want what it was", west.Name, west.ID)
	}
	if east.ID != 2 || north.ID != 3 {
		t.Errorf("ids %d and %d, want the lowest that are free", east.ID, north.ID)
	}
	for want, cfg := range map[string]*UpConfig{
		"is named \"west\" already": {Names: []string{"a", "b", "c"}},
		"would be named":            {Names: []string{"a", "west", "a"}},
		"no name for a cluster":     {Names: []string{"A", "west", "c"}},
		"its id is 1 already":       {IDs: []int{2, 3, 4}},
		"is that of west":           {IDs: []int{1, 1, 4}},
	} {
		members := []*Member{memberOf("east", nil), memberOf("ctx-west", installed("west", 1)), memberOf("north", nil)}
		wrong := append(name(members, cfg), number(t.Context(), members, cfg)...)
		if !strings.Contains(strings.Join(wrong, "\n"), want) {
			t.Errorf("%v: %q, want %q", cfg, wrong, want)
		}
	}
}

func TestOverlaps(t *testing.T) {
	mesh := netip.MustParsePrefix("100.64.0.0/10")
	for _, test := range []struct {
		east, west, want string
	}{
		{"10.1.0.0/16", "10.2.0.0/16", ""},
		{"10.244.0.0/16", "10.244.3.0/24", "pods in the same range"},
		{"10.1.0.0/16", "100.64.0.0/16", "give another range with --mesh-cidr"},
	} {
		members := []*Member{memberOf("east", nil, test.east), memberOf("west", nil, test.west)}
		for n, m := range members {
			m.ID = n + 1
			m.choose(nil, mesh)
		}
		got := strings.Join(overlaps(members), "\n")
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s and %s: %q, want %q", test.east, test.west, got, test.want)
		}
	}
}

func TestPart(t *testing.T) {
	whole := netip.MustParsePrefix("100.64.0.0/10")
	seen := map[netip.Prefix]bool{}
	for id := range 512 {
		p := part(whole, id)
		if p.Bits() != 19 || !whole.Overlaps(p) || p.Masked() != p || seen[p] {
			t.Fatalf("id %d gets %s", id, p)
		}
		seen[p] = true
	}
	if got := part(whole, 1).String(); got != "100.64.32.0/19" {
		t.Errorf("id 1 gets %s", got)
	}
}

func TestChoose(t *testing.T) {
	m := memberOf("east", nil, "10.1.0.0/16")
	m.Name, m.ID = "east", 3
	m.choose(release.Put("persistent", "etcd", "mode"), netip.Prefix{})
	if len(m.notes) != 1 || release.At(m.Values, "etcd", "mode") != "persistent" || release.At(m.Values, "gateway", "type") != "NodePort" || release.At(m.Values, "cluster", "meshCIDR") != nil {
		t.Errorf("values %v, notes %q", m.Values, m.notes)
	}
	m = memberOf("east", installed("east", 3))
	m.choose(release.Put("NodePort", "gateway", "type"), netip.MustParsePrefix("100.64.0.0/10"))
	if len(m.Values) != 1 {
		t.Errorf("what is installed gets %v, want what was given and nothing else", m.Values)
	}
}

func TestTooOld(t *testing.T) {
	for version, want := range map[[2]string]bool{{"1", "36"}: false, {"1", "32+"}: false, {"1", "31"}: true, {"2", "0"}: false, {"", ""}: false} {
		if got := tooOld(version[0], version[1]); (got != "") != want {
			t.Errorf("%v: %q", version, got)
		}
	}
}

// A cluster whose data stayed is the member again that it was.
func TestChooseKept(t *testing.T) {
	east, west := memberOf("east", nil), memberOf("ctx-west", nil)
	west.Facts.Values = installed("west", 1).Values
	members := []*Member{east, west}
	if wrong := append(name(members, &UpConfig{}), number(t.Context(), members, &UpConfig{})...); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	if west.Name != "west" || west.ID != 1 || east.ID != 2 {
		t.Errorf("what was installed is %q, id %d, and the other gets %d", west.Name, west.ID, east.ID)
	}
	west.choose(release.Put("NodePort", "gateway", "type"), netip.MustParsePrefix("100.64.0.0/10"))
	if len(west.Values) != 1 || len(west.notes) != 1 {
		t.Errorf("it gets %v and the notes %q, want what was given alone, and that it was there", west.Values, west.notes)
	}
}
