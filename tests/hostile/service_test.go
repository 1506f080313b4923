package hostile

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// backend is whose address a backend is.
type backend struct {
	name string
	ip   func(*peer) netip.Addr
	why  trust.Reason
}

func backends() []backend {
	fixed := func(text string) func(*peer) netip.Addr {
		return func(*peer) netip.Addr { return netip.MustParseAddr(text) }
	}
	return []backend{
		{"its pod", func(p *peer) netip.Addr { return p.pod(70) }, ""},
		{"its node", func(p *peer) netip.Addr { return p.v4(12, 0, 1) }, ""},
		{"in its external range", func(p *peer) netip.Addr { return p.v4(13, 0, 5) }, ""},
		{"beyond its external range", func(p *peer) netip.Addr { return p.v4(13, 1, 5) }, trust.AddressRange},
		{"our pod", fixed(ourPod().String()), trust.AddressConflict},
		{"our node", fixed(ourNode().String()), trust.AddressConflict},
		{"another peer's pod", fixed(honestPod().String()), trust.AddressConflict},
		{"another peer's node", fixed(honestNode().String()), trust.AddressRange},
		{"nobody's", fixed("100.64.0.1"), trust.AddressRange},
		{"loopback", fixed("127.0.0.1"), trust.AddressRange},
		{"link-local", fixed("169.254.169.254"), trust.AddressRange},
		{"multicast", fixed("224.0.0.1"), trust.AddressRange},
		{"unspecified", fixed("0.0.0.0"), trust.AddressRange},
		{"IPv6 link-local", fixed("fe80::1"), trust.AddressRange},
	}
}

// services are cases of services, of which the value alone names the backends.
func services() (out []semantic) {
	for _, b := range backends() {
		out = append(out, one("service with a backend that is "+b.name, func(p *peer) saying {
			return saying{key: p.serviceKey("other"), value: p.serviceValue("other", b.ip(p)), why: b.why}
		}))
	}
	raw := func(name string, why trust.Reason, old, now string) semantic {
		return one("service "+name, func(p *peer) saying {
			value := bytes.ReplaceAll(p.serviceValue("other", p.pod(70)), []byte(old), []byte(now))
			return saying{key: p.serviceKey("other"), value: bytes.ReplaceAll(value, []byte("PEER"), []byte(p.name)), why: why}
		})
	}
	return append(out,
		one("service of another cluster", func(p *peer) saying {
			value := bytes.ReplaceAll(p.serviceValue("other"), []byte(`"`+p.name+`"`), []byte(`"east"`))
			return refuse(trust.WrongCluster, p.serviceKey("other"), value)
		}),
		one("service with another cluster id", func(p *peer) saying {
			value := p.serviceValue("other")
			i := bytes.LastIndex(value, []byte(`"clusterID":`))
			return refuse(trust.WrongCluster, p.serviceKey("other"), append(value[:i:i], `"clusterID":1}`...))
		}),
		raw("of another name", trust.WrongCluster, `"name":"other"`, `"name":"web"`),
		raw("of another namespace", trust.WrongCluster, `"namespace":"shop"`, `"namespace":"kube-system"`),
		raw("with port 0", trust.Malformed, `8080`, `0`),
		raw("with port 70,000", trust.Malformed, `8080`, `70000`),
		raw("with a protocol that there is not", trust.Malformed, `"TCP","Port":8080`, `"ICMP","Port":8080`),
		raw("with invalid UTF-8", trust.Malformed, `"app":"web"`, "\"app\":\"\xff\""),
		raw("with a label of 100,000 bytes", "", `"app":"web"`, `"app":"`+strings.Repeat("w", 100_000)+`"`),
		raw("of 1.4 MiB", "", `"app":"web"`, `"app":"`+strings.Repeat("w", 1_400_000)+`"`),
		raw("of 2 MiB", trust.TooLarge, `"app":"web"`, `"app":"`+strings.Repeat("w", 2<<20)+`"`),
		raw("with a mapped backend", trust.Malformed, `"backends":{"`, `"backends":{"::ffff:`),
		raw("that is empty", trust.Malformed, `{`, ``),
		one("service key with a slash more", func(p *peer) saying {
			return refuse(trust.Malformed, p.serviceKey("other/more"), p.serviceValue("other"))
		}),
		one("service key without a namespace", func(p *peer) saying {
			return refuse(trust.Malformed, strings.Replace(p.serviceKey("other"), "/shop/", "/", 1), p.serviceValue("other"))
		}),
		one("service key of another cluster", func(p *peer) saying {
			return saying{key: strings.Replace(p.serviceKey("web"), p.name, "east", 1), value: p.serviceValue("web", p.pod(70)), why: unheard}
		}),
	)
}

// slicesCases are cases of endpoint slices of the service that east has.
func slicesCases() (out []semantic) {
	for _, b := range backends() {
		out = append(out, one("slice with an endpoint that is "+b.name, func(p *peer) saying {
			return saying{key: p.layout().SliceKey("shop", "web-2"), value: p.sliceValue("web-2", nil, b.ip(p)), why: b.why}
		}))
	}
	raw := func(name string, why trust.Reason, value func(*peer) []byte) semantic {
		return one("slice "+name, func(p *peer) saying { return refuse(why, p.layout().SliceKey("shop", "web-2"), value(p)) })
	}
	changed := func(name string, why trust.Reason, change func(*service.Slice)) semantic {
		return raw(name, why, func(p *peer) []byte { return p.sliceValue("web-2", change, p.pod(70)) })
	}
	return append(out,
		changed("of another cluster", trust.WrongCluster, func(s *service.Slice) { s.Cluster = "east" }),
		changed("with another cluster id", trust.WrongCluster, func(s *service.Slice) { s.ClusterID = 1 }),
		changed("of another name", trust.WrongCluster, func(s *service.Slice) { s.Name = "web-3" }),
		changed("of another namespace", trust.WrongCluster, func(s *service.Slice) { s.Namespace = "kube-system" }),
		raw("that is a zstd bomb", trust.TooLarge, func(*peer) []byte { return bomb(1) }),
		raw("that is a bomb of many frames", trust.TooLarge, func(*peer) []byte { return bomb(40) }),
		raw("that is not compressed", trust.Malformed, func(*peer) []byte { return []byte("garbage") }),
		raw("that is cut off", trust.Malformed, func(p *peer) []byte { v := p.sliceValue("web-2", nil, p.pod(70)); return v[:len(v)-4] }),
		raw("that holds garbage", trust.Malformed, func(*peer) []byte { return compressed(bytes.Repeat([]byte{0xff}, 1000)) }),
		raw("that is empty", trust.Malformed, func(*peer) []byte { return []byte{} }),
		raw("of 1.4 MiB that do not compress", trust.Malformed, func(*peer) []byte { return noise(1_400_000) }),
		raw("of 2 MiB", trust.TooLarge, func(*peer) []byte { return noise(2 << 20) }),
		one("slice key with a slash more", func(p *peer) saying {
			return refuse(trust.Malformed, p.layout().SliceKey("shop", "web-2/x"), p.sliceValue("web-2", nil, p.pod(70)))
		}),
	)
}

func compressed(raw []byte) []byte {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return encoder.EncodeAll(raw, nil)
}

// bomb is a value of few bytes that is some frames of 20 MiB each, more than a
// slice may have.
func bomb(frames int) []byte {
	return bytes.Repeat(compressed(make([]byte, 20<<20)), frames)
}

// noise is what no compression makes smaller.
func noise(n int) []byte {
	out, state := make([]byte, n), uint32(1)
	for i := range out {
		state = state*1664525 + 1013904223
		out[i] = byte(state >> 24)
	}
	return out
}

// imports are cases of what our rules for the peer leave out.
func imports() []semantic {
	elsewhere := func(value []byte) []byte {
		return bytes.Replace(value, []byte(`"namespace":"shop"`), []byte(`"namespace":"other"`), 1)
	}
	return []semantic{
		{"service of a namespace that is not imported", "import: {namespaces: [shop]}\n", func(p *peer) []saying {
			key := strings.Replace(p.serviceKey("web"), "/shop/", "/other/", 1)
			return []saying{refuse(trust.ImportRule, key, elsewhere(p.serviceValue("web", p.pod(10))))}
		}},
		{"slice of a namespace that is not imported", "import: {namespaces: [shop]}\n", func(p *peer) []saying {
			value := p.sliceValue("web-1", func(s *service.Slice) { s.Namespace = "other" }, p.pod(10))
			return []saying{refuse(trust.ImportRule, p.layout().SliceKey("other", "web-1"), value)}
		}},
		{"service that the selector leaves out", "import: {serviceSelector: {matchLabels: {app: web}}}\n", func(p *peer) []saying {
			value := bytes.ReplaceAll(p.serviceValue("other"), []byte(`"app":"web"`), []byte(`"app":"db"`))
			return []saying{refuse(trust.ImportRule, p.serviceKey("other"), value)}
		}},
	}
}
