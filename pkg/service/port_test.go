package service

import "testing"

func TestMatchPort(t *testing.T) {
	http := Port{Name: "http", Protocol: TCP, Port: 80}
	metrics := Port{Name: "metrics", Protocol: TCP, Port: 9090}
	dns := Port{Name: "http", Protocol: UDP, Port: 53}
	bare := Port{Protocol: TCP, Port: 80}
	for name, c := range map[string]struct {
		want        Port
		front, back []Port
		port        uint16
		ok          bool
	}{
		"by name":                      {http, []Port{http}, []Port{{Name: "http", Protocol: TCP, Port: 8080}}, 8080, true},
		"by name among many":           {metrics, []Port{http, metrics}, []Port{http, metrics}, 9090, true},
		"another name":                 {http, []Port{http}, []Port{metrics}, 0, false},
		"another protocol":             {http, []Port{http}, []Port{dns}, 0, false},
		"same name, both protocols":    {dns, []Port{http, dns}, []Port{http, dns}, 53, true},
		"one unnamed each":             {bare, []Port{bare}, []Port{{Protocol: TCP, Port: 8080}}, 8080, true},
		"unnamed to named":             {bare, []Port{bare}, []Port{http}, 0, false},
		"named to unnamed":             {http, []Port{http}, []Port{bare}, 0, false},
		"unnamed beside another":       {bare, []Port{bare, http}, []Port{bare}, 0, false},
		"unnamed to one of many":       {bare, []Port{bare}, []Port{bare, http}, 0, false},
		"unnamed, another protocol":    {bare, []Port{bare}, []Port{{Protocol: UDP, Port: 80}}, 0, false},
		"backend without any port":     {http, []Port{http}, nil, 0, false},
		"unnamed, backend has no port": {bare, []Port{bare}, nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			port, ok := MatchPort(c.want, c.front, c.back)
			if port != c.port || ok != c.ok {
				t.Errorf("MatchPort = %d, %v; want %d, %v", port, ok, c.port, c.ok)
			}
		})
	}
}
