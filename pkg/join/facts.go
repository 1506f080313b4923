package join

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// maxClockDifference is how far the clocks of two clusters may be apart: less
// than certificates are dated back.
const maxClockDifference = 5 * time.Minute

// maxRanges bounds what a cluster says of itself.
const maxRanges = 10_000

// Facts are what has to fit between two clusters before they join.
type Facts struct {
	Name    string
	ID      cluster.ID
	Size    cluster.Size
	Version string
	// Time is the cluster's clock when it was asked.
	Time time.Time
	// Ranges are those of pods and mesh addresses, sorted, none inside another.
	Ranges []netip.Prefix
	// Addresses are host:port of its gateway.
	Addresses []string
	// Claims are what it is to be held to, of their class and range alone, sorted.
	Claims []trust.Claim
}

// Compare returns every reason for which a and b can not be members of one mesh,
// in words. Both were asked at the same moment.
func Compare(a, b Facts) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if a.Name == b.Name {
		add("both clusters are named %q: every cluster of a mesh has a name of its own (--cluster-name)", a.Name)
	}
	if a.ID == b.ID {
		add("%s and %s both have the id %d: every cluster of a mesh has an id of its own (--cluster-id)", a.Name, b.Name, a.ID)
	}
	if a.Size != b.Size {
		add("%s is of a mesh of %d clusters and %s of one of %d: --max-connected-clusters must be the same in all", a.Name, a.Size, b.Name, b.Size)
	}
	if skewed(a.Version, b.Version) {
		add("%s runs version %s and %s runs %s: they may be one minor version apart", a.Name, a.Version, b.Name, b.Version)
	}
	if d := a.Time.Sub(b.Time).Abs(); d > maxClockDifference {
		add("the clocks of %s and %s are %s apart, more than %s: certificates would not be valid in time", a.Name, b.Name, d.Round(time.Second), maxClockDifference)
	}
	x, y, overlapping := overlap(a.Ranges, b.Ranges)
	if overlapping {
		add("range %s of %s overlaps %s of %s: pods and nodes' mesh addresses need ranges that no other cluster uses", x, a.Name, y, b.Name)
	}
	return append(out, contended(a, b, overlapping)...)
}

var versionPattern = regexp.MustCompile(`^v(\d+)\.(\d+)\.\d+`)

// skewed reports whether two released versions are too far apart. A version that
// says nothing, as those built from a tree do, is not judged.
func skewed(a, b string) bool {
	x, y := versionPattern.FindStringSubmatch(a), versionPattern.FindStringSubmatch(b)
	if x == nil || y == nil {
		return false
	}
	minor := func(m []string) int { n, _ := strconv.Atoi(m[2]); return n }
	return x[1] != y[1] || max(minor(x), minor(y))-min(minor(x), minor(y)) > 1
}

// overlap returns two ranges, one of each sorted list, that have an address in
// common.
func overlap(a, b []netip.Prefix) (x, y netip.Prefix, found bool) {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].Overlaps(b[j]):
			return a[i], b[j], true
		case order(a[i], b[j]) < 0:
			i++
		default:
			j++
		}
	}
	return netip.Prefix{}, netip.Prefix{}, false
}

func order(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// tidy returns the ranges sorted, with two halves of one range made that range,
// and none inside another. It changes the list.
func tidy(ranges []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ranges, order)
	var out []netip.Prefix
	for _, p := range ranges {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue // sorted, the wider comes first
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			whole, _ := out[n-1].Addr().Prefix(out[n-1].Bits() - 1)
			if out[n-2].Bits() != out[n-1].Bits() || whole.Masked().Addr() != out[n-2].Addr() {
				break
			}
			out = append(out[:n-2], whole)
		}
	}
	return out
}

// validate refuses facts that no cluster could say of itself.
func (f Facts) validate() error {
	if err := (cluster.Config{Name: f.Name, ID: f.ID, Size: f.Size}).Validate(); err != nil {
		return err
	}
	if len(f.Ranges) > maxRanges {
		return fmt.Errorf("%d ranges, more than %d", len(f.Ranges), maxRanges)
	}
	if len(f.Claims) > maxClaims {
		return fmt.Errorf("%d claims, more than %d", len(f.Claims), maxClaims)
	}
	if len(f.Version) > 100 {
		return fmt.Errorf("a version of %d characters", len(f.Version))
	}
	return nil
}
