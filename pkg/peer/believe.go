package peer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// claimFields are what a peer may say it has. A mesh range may stand alone.
type claimFields struct {
	PodCIDRs      []string `yaml:"podCIDRs"`
	MeshCIDR      oneOrAll `yaml:"meshCIDR"`
	NodeCIDRs     []string `yaml:"nodeCIDRs"`
	ExternalCIDRs []string `yaml:"externalCIDRs"`
}

// agreedFields are what pkg/join writes of the claims of a cluster that joined.
type agreedFields struct {
	Since       time.Time `yaml:"since"`
	claimFields `yaml:",inline"`
}

// importFields are what is taken from a peer.
type importFields struct {
	Namespaces      []string `yaml:"namespaces"`
	ServiceSelector struct {
		MatchLabels      map[string]string `yaml:"matchLabels"`
		MatchExpressions []struct {
			Key      string   `yaml:"key"`
			Operator string   `yaml:"operator"`
			Values   []string `yaml:"values"`
		} `yaml:"matchExpressions"`
	} `yaml:"serviceSelector"`
	Quotas quotaFields `yaml:"quotas"`
}

type quotaFields struct {
	Nodes      int `yaml:"nodes"`
	Addresses  int `yaml:"addresses"`
	Identities int `yaml:"identities"`
	Services   int `yaml:"services"`
	Bytes      int `yaml:"bytes"`
}

// oneOrAll is a list, which may be of one without being written as one.
type oneOrAll []string

// UnmarshalYAML implements yaml's unmarshaler.
func (o *oneOrAll) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if err := unmarshal(&one); err == nil {
		*o = oneOrAll{one}
		return nil
	}
	return unmarshal((*[]string)(o))
}

// trust takes what a file says about what is believed of the peer.
func (f *File) trust(from *fileFields) error {
	if from.Claims != nil {
		claims, err := from.Claims.claims()
		if err != nil {
			return err
		}
		f.Claims = claims
	}
	if from.Agreed != nil {
		agreed, err := from.Agreed.claims()
		if err != nil {
			return fmt.Errorf("agreed: %w", err)
		}
		for i := range agreed {
			agreed[i].Origin, agreed[i].Since = trust.Agreed, from.Agreed.Since.UTC()
		}
		f.Agreed = agreed
	}
	i := from.Import
	for _, namespace := range i.Namespaces {
		if namespace == "" {
			return errors.New("import.namespaces: one of them is empty")
		}
	}
	f.Import = trust.Rules{Namespaces: i.Namespaces, Services: trust.Selector{MatchLabels: i.ServiceSelector.MatchLabels}}
	for _, e := range i.ServiceSelector.MatchExpressions {
		f.Import.Services.MatchExpressions = append(f.Import.Services.MatchExpressions,
			trust.Requirement{Key: e.Key, Operator: trust.Operator(e.Operator), Values: e.Values})
	}
	if err := f.Import.Services.Validate(); err != nil {
		return fmt.Errorf("import.serviceSelector: %w", err)
	}
	q := i.Quotas
	if min(q.Nodes, q.Addresses, q.Identities, q.Services, q.Bytes) < 0 {
		return errors.New("import.quotas: a quota is a number above 0, or left out for the default")
	}
	f.Import.Quotas = trust.Quotas{Nodes: q.Nodes, Addresses: q.Addresses, Identities: q.Identities, Services: q.Services, Bytes: q.Bytes}
	return nil
}

// claims returns what is declared, not nil, each range once.
func (c *claimFields) claims() ([]trust.Claim, error) {
	out := []trust.Claim{}
	for _, field := range []struct {
		name  string
		class trust.Class
		texts []string
	}{
		{"podCIDRs", trust.Pods, c.PodCIDRs},
		{"meshCIDR", trust.Mesh, c.MeshCIDR},
		{"nodeCIDRs", trust.Nodes, c.NodeCIDRs},
		{"externalCIDRs", trust.External, c.ExternalCIDRs},
	} {
		for _, text := range field.texts {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("claims.%s: %q is not a range like 10.1.0.0/16", field.name, text)
			}
			claim := trust.Claim{Class: field.class, Range: p, Origin: trust.Declared}
			if err := claim.Validate(); err != nil {
				return nil, fmt.Errorf("claims.%s: %w", field.name, err)
			}
			if !slices.Contains(out, claim) {
				out = append(out, claim)
			}
		}
	}
	return out, nil
}

// rules returns what is taken from the peer, with the defaults.
func (f *File) rules() trust.Rules {
	r, d := f.Import, trust.DefaultQuotas()
	q := &r.Quotas
	*q = trust.Quotas{
		Nodes: cmp.Or(q.Nodes, d.Nodes), Addresses: cmp.Or(q.Addresses, d.Addresses), Identities: cmp.Or(q.Identities, d.Identities),
		Services: cmp.Or(q.Services, d.Services), Slices: d.Slices, Bytes: cmp.Or(q.Bytes, d.Bytes),
	}
	return r
}
