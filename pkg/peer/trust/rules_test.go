package trust_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestSelector(t *testing.T) {
	t.Parallel()
	s := trust.Selector{MatchLabels: map[string]string{"a": "1"}, MatchExpressions: []trust.Requirement{
		{Key: "b", Operator: trust.In, Values: []string{"x", "y"}},
		{Key: "c", Operator: trust.NotIn, Values: []string{"z"}},
		{Key: "d", Operator: trust.Exists},
		{Key: "e", Operator: trust.DoesNotExist},
	}}
	if err := s.Validate(); err != nil || s.String() != "a=1,b in (x,y),c notin (z),d,!e" {
		t.Errorf("%s: %v", s, err)
	}
	for _, r := range []trust.Requirement{
		{Operator: trust.Exists},
		{Key: "a", Operator: "Like"},
		{Key: "a", Operator: trust.In},
		{Key: "a", Operator: trust.Exists, Values: []string{"x"}},
	} {
		if (trust.Selector{MatchExpressions: []trust.Requirement{r}}).Validate() == nil {
			t.Errorf("%+v is good", r)
		}
	}
	_, j := world(t)
	j.Rules(trust.Rules{Services: s, Quotas: trust.DefaultQuotas()})
	good := map[string]string{"a": "1", "b": "y", "d": ""}
	for i, change := range []func(map[string]string){
		func(map[string]string) {},
		func(m map[string]string) { m["c"] = "w" },
		func(m map[string]string) { delete(m, "a") },
		func(m map[string]string) { m["a"] = "2" },
		func(m map[string]string) { m["b"] = "z" },
		func(m map[string]string) { m["c"] = "z" },
		func(m map[string]string) { delete(m, "d") },
		func(m map[string]string) { m["e"] = "" },
	} {
		labels := map[string]string{}
		for k, v := range good {
			labels[k] = v
		}
		change(labels)
		got := reasonOf(t, j.Service(&service.Service{Labels: labels}))
		if (got == "") != (i < 2) {
			t.Errorf("%v: %q", labels, got)
		}
	}
}
