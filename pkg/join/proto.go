package join

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

func protoFacts(f Facts) *joinpb.Facts {
	out := &joinpb.Facts{
		Name: f.Name, Id: uint32(f.ID), Size: uint32(f.Size), Version: f.Version,
		Time: timestamppb.New(f.Time), Addresses: f.Addresses, Claims: protoClaims(f.Claims),
	}
	out.Ranges = rangeTexts(f.Ranges)
	return out
}

func rangeTexts(ranges []netip.Prefix) (out []string) {
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return out
}

// ParseFacts reads what another cluster says of itself.
func ParseFacts(p *joinpb.Facts) (Facts, error) {
	out := Facts{
		Name: p.GetName(), ID: cluster.ID(p.GetId()), Size: cluster.Size(p.GetSize()), Version: p.GetVersion(),
		Time: p.GetTime().AsTime(), Addresses: p.GetAddresses(),
	}
	if err := p.GetTime().CheckValid(); err != nil {
		return Facts{}, fmt.Errorf("its clock: %w", err)
	}
	if len(p.GetRanges()) > maxRanges {
		return Facts{}, fmt.Errorf("%d ranges, more than %d", len(p.GetRanges()), maxRanges)
	}
	for _, text := range p.GetRanges() {
		r, err := netip.ParsePrefix(text)
		if err != nil || r != r.Masked() || r.Addr().Is4In6() {
			return Facts{}, fmt.Errorf("%.100q is not a range", text)
		}
		out.Ranges = append(out.Ranges, r)
	}
	out.Ranges = tidy(out.Ranges)
	var err error
	if out.Claims, err = parseClaims(p.GetClaims()); err != nil {
		return Facts{}, err
	}
	return out, out.validate()
}
