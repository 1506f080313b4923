package service_test

import (
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestParseAnnotations(t *testing.T) {
	none := service.Intent{Affinity: service.AffinityNone}
	global := service.Intent{Global: true, Shared: true, Affinity: service.AffinityNone}
	with := func(affinity service.Affinity) service.Intent {
		return service.Intent{Global: true, Shared: true, Affinity: affinity}
	}
	for _, c := range []struct {
		name        string
		annotations map[string]string
		want        service.Intent
		problems    []string
	}{
		{name: "none", want: none},
		{name: "others", annotations: map[string]string{"causeway.io/globals": "true"}, want: none},
		{name: "global", annotations: map[string]string{"causeway.io/global": "true"}, want: global},
		{name: "global of Cilium", annotations: map[string]string{"service.cilium.io/global": "true"}, want: global},
		{name: "spelling", annotations: map[string]string{"causeway.io/global": " True\n"}, want: global},
		{name: "not global", annotations: map[string]string{"causeway.io/global": "false"}, want: none},
		{
			name:        "ours wins",
			annotations: map[string]string{"causeway.io/global": "false", "service.cilium.io/global": "true"},
			want:        none,
		},
		{
			name:        "ours wins, though wrong",
			annotations: map[string]string{"causeway.io/global": "yes", "service.cilium.io/global": "true"},
			want:        none,
			problems:    []string{`causeway.io/global: "yes" is neither "true" nor "false"; taken as "false"`},
		},
		{
			name:        "not shared",
			annotations: map[string]string{"causeway.io/global": "true", "causeway.io/shared": "false"},
			want:        service.Intent{Global: true, Affinity: service.AffinityNone},
		},
		{name: "shared but not global", annotations: map[string]string{"service.cilium.io/shared": "true"}, want: none},
		{
			name:        "wrong shared",
			annotations: map[string]string{"causeway.io/global": "true", "service.cilium.io/shared": "0"},
			want:        global,
			problems:    []string{`service.cilium.io/shared: "0" is neither "true" nor "false"; taken as "true"`},
		},
		{
			name:        "local",
			annotations: map[string]string{"causeway.io/global": "true", "service.cilium.io/affinity": "local"},
			want:        with(service.AffinityLocal),
		},
		{
			name:        "remote before local",
			annotations: map[string]string{"causeway.io/global": "true", "causeway.io/affinity": "Remote", "service.cilium.io/affinity": "local"},
			want:        with(service.AffinityRemote),
		},
		{
			name:        "explicit none",
			annotations: map[string]string{"causeway.io/global": "true", "causeway.io/affinity": "none"},
			want:        global,
		},
		{
			name:        "all wrong",
			annotations: map[string]string{"causeway.io/global": "", "causeway.io/shared": "x", "causeway.io/affinity": "nowhere"},
			want:        none,
			problems: []string{
				`causeway.io/global: "" is neither`, `causeway.io/shared: "x" is neither "true" nor "false"; taken as "false"`,
				`causeway.io/affinity: "nowhere" is none of "none", "local", "remote"; taken as "none"`,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, problems := service.ParseAnnotations(c.annotations)
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if len(problems) != len(c.problems) {
				t.Fatalf("problems %v, want %d", problems, len(c.problems))
			}
			for i, want := range c.problems {
				if !strings.Contains(problems[i].Error(), want) {
					t.Errorf("problem %q does not say %q", problems[i], want)
				}
			}
		})
	}
}
