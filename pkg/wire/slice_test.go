package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// sampleSlice uses every field.
func sampleSlice() *service.Slice {
	return &service.Slice{
		Cluster: "c1", ClusterID: 1, Namespace: "default", Name: "web-abc", Service: "web",
		Labels:      map[string]string{service.LabelServiceName: "web", "app": "web"},
		Annotations: map[string]string{"note": "ö"},
		Endpoints: []service.Endpoint{
			{
				Addresses: ips("10.1.0.5", "10.1.0.4"),
				Condition: service.Condition{Ready: true, Serving: true},
				Hostname:  "web-0", Node: "node-1", Zone: "a", ForZones: []string{"a", "b"},
				TargetKind: "Pod", TargetNamespace: "default", TargetName: "web-0", TargetUID: "0-1-2",
			},
			{Addresses: ips("10.1.0.6"), Condition: service.Condition{Serving: true, Terminating: true}},
		},
		Ports: []service.Port{
			{Name: "", Protocol: service.TCP, Port: 8080},
			{Name: "dns", Protocol: service.UDP, Port: 5353, AppProtocol: "x.io/dns"},
			{Name: "open", Protocol: service.SCTP},
		},
	}
}

// kubernetesParts are the endpoints and ports of sampleSlice in Kubernetes' types.
func kubernetesParts() (endpoints []discoveryv1.Endpoint, ports []discoveryv1.EndpointPort) {
	tcp, udp, sctp := corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP
	return []discoveryv1.Endpoint{
		{
			Addresses:  []string{"10.1.0.5", "10.1.0.4"},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			Hostname:   new("web-0"), NodeName: new("node-1"), Zone: new("a"),
			Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "b"}}},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-0", UID: types.UID("0-1-2")},
		},
		{
			Addresses:  []string{"10.1.0.6"},
			Conditions: discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)},
		},
	}, []discoveryv1.EndpointPort{
		{Name: new(""), Protocol: &tcp, Port: new(int32(8080))},
		{Name: new("dns"), Protocol: &udp, Port: new(int32(5353)), AppProtocol: new("x.io/dns")},
		{Name: new("open"), Protocol: &sctp},
	}
}

// envelope writes the protocol's own fields of a slice around Kubernetes' parts.
type envelope struct {
	cluster, namespace, name, family string
	id                               uint64
	labels                           map[string]string
	endpoints                        []discoveryv1.Endpoint
	ports                            []discoveryv1.EndpointPort
	extra                            []byte
}

func sampleEnvelope() envelope {
	e := envelope{
		cluster: "c1", id: 1, namespace: "default", name: "web-abc", family: "IPv4",
		labels: map[string]string{service.LabelServiceName: "web"},
	}
	e.endpoints, e.ports = kubernetesParts()
	return e
}

func (e envelope) marshal(t *testing.T) []byte {
	t.Helper()
	text := func(b []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	part := func(b []byte, n protowire.Number, m interface{ Marshal() ([]byte, error) }) []byte {
		t.Helper()
		message, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return text(b, n, string(message))
	}
	b := text(nil, 1, e.cluster)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), e.id)
	b = text(text(b, 3, e.namespace), 4, e.name)
	for key, value := range e.labels {
		b = text(b, 5, string(text(text(nil, 1, key), 2, value)))
	}
	b = text(b, 7, e.family)
	for i := range e.endpoints {
		b = part(b, 8, &e.endpoints[i])
	}
	for i := range e.ports {
		b = part(b, 9, &e.ports[i])
	}
	return append(b, e.extra...)
}

func compress(t testing.TB, message []byte, options ...zstd.EOption) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(message, nil)
}

func decompress(t testing.TB, value []byte) []byte {
	t.Helper()
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	message, err := decoder.DecodeAll(value, nil)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestSliceRoundTrip(t *testing.T) {
	v6 := sampleSlice()
	v6.IPv6, v6.Annotations, v6.Ports = true, nil, nil
	v6.Endpoints = []service.Endpoint{{Addresses: ips("fd00::1"), Condition: service.Condition{Ready: true, Serving: true}}}
	for _, want := range []*service.Slice{sampleSlice(), v6} {
		value, err := wire.EncodeSlice(want)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := wire.EncodeSlice(want)
		if !bytes.Equal(value, again) {
			t.Error("one slice has two encodings")
		}
		for _, l := range layouts("c1") {
			got, err := l.DecodeSlice(l.SliceKey(want.Namespace, want.Name), value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareValues); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
}

// TestSliceParts: the endpoints and ports that we write are those that
// Kubernetes' own code writes, byte for byte, and it reads them.
func TestSliceParts(t *testing.T) {
	value, err := wire.EncodeSlice(sampleSlice())
	if err != nil {
		t.Fatal(err)
	}
	endpoints, ports := kubernetesParts()
	message := decompress(t, value)
	for len(message) > 0 {
		number, _, n := protowire.ConsumeTag(message)
		length := protowire.ConsumeFieldValue(number, protowire.BytesType, message[n:])
		if number == 2 {
			length = protowire.ConsumeFieldValue(number, protowire.VarintType, message[n:])
		}
		part, _ := protowire.ConsumeBytes(message[n:])
		message = message[n+length:]
		switch number {
		case 8:
			var got discoveryv1.Endpoint
			checkPart(t, &endpoints[0], &got, part)
			endpoints = endpoints[1:]
		case 9:
			var got discoveryv1.EndpointPort
			checkPart(t, &ports[0], &got, part)
			ports = ports[1:]
		}
	}
	if len(endpoints)+len(ports) != 0 {
		t.Errorf("%d endpoints and %d ports are missing", len(endpoints), len(ports))
	}
}

type kubernetesMessage interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func checkPart(t *testing.T, want, got kubernetesMessage, part []byte) {
	t.Helper()
	if err := got.Unmarshal(part); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read by Kubernetes (-want +got):\n%s", diff)
	}
	theirs, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	// Kubernetes writes all seven fields of a reference, set or not.
	if e, ok := want.(*discoveryv1.Endpoint); ok && e.TargetRef != nil {
		return
	}
	if !bytes.Equal(theirs, part) {
		t.Errorf("wrote %x, Kubernetes writes %x", part, theirs)
	}
}

func TestSliceOfKubernetes(t *testing.T) {
	e := sampleEnvelope()
	e.endpoints[0], e.endpoints[1] = e.endpoints[1], e.endpoints[0]
	e.ports[0], e.ports[2] = e.ports[2], e.ports[0]
	// Fields of a later version, of all wire types.
	e.extra = protowire.AppendFixed64(protowire.AppendTag(nil, 100, protowire.Fixed64Type), 1)
	e.extra = protowire.AppendVarint(protowire.AppendTag(e.extra, 101, protowire.VarintType), 1)
	e.extra = protowire.AppendGroup(protowire.AppendTag(e.extra, 102, protowire.StartGroupType), 102, nil)
	want := sampleSlice()
	want.Labels, want.Annotations = e.labels, nil
	l := wire.Layout{Cluster: "c1"}
	got, err := l.DecodeSlice(l.SliceKey(e.namespace, e.name), compress(t, e.marshal(t)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareValues); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestUnsetConditions: Kubernetes gives conditions that are not set a meaning.
func TestUnsetConditions(t *testing.T) {
	for _, c := range []struct {
		conditions discoveryv1.EndpointConditions
		want       service.Condition
	}{
		{discoveryv1.EndpointConditions{}, service.Condition{Ready: true, Serving: true}},
		{discoveryv1.EndpointConditions{Ready: new(false)}, service.Condition{}},
		{discoveryv1.EndpointConditions{Ready: new(true)}, service.Condition{Ready: true, Serving: true}},
		{discoveryv1.EndpointConditions{Serving: new(false)}, service.Condition{Ready: true}},
		{discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}, service.Condition{Serving: true, Terminating: true}},
	} {
		e := sampleEnvelope()
		e.endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Conditions: c.conditions}}
		e.ports = []discoveryv1.EndpointPort{{}}
		l := wire.Layout{Cluster: "c1"}
		got, err := l.DecodeSlice(l.SliceKey(e.namespace, e.name), compress(t, e.marshal(t)))
		if err != nil {
			t.Fatal(err)
		}
		if got.Endpoints[0].Condition != c.want {
			t.Errorf("%v: got %+v, want %+v", c.conditions, got.Endpoints[0].Condition, c.want)
		}
		if diff := cmp.Diff([]service.Port{{Protocol: service.TCP}}, got.Ports); diff != "" {
			t.Errorf("port without anything (-want +got):\n%s", diff)
		}
	}
}

func TestRefusedSlices(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	change := func(name string, want error, edit func(*envelope)) refusal {
		e := sampleEnvelope()
		edit(&e)
		return refusal{name, string(compress(t, e.marshal(t))), want}
	}
	broken := func(name string, b ...byte) refusal {
		return change(name, wire.ErrMalformed, func(e *envelope) { e.extra = b })
	}
	first := func(edit func(*discoveryv1.Endpoint)) func(*envelope) {
		return func(e *envelope) { edit(&e.endpoints[0]) }
	}
	good := string(compress(t, sampleEnvelope().marshal(t)))
	checkRefused(t, []refusal{
		{"not compressed", string(sampleEnvelope().marshal(t)), wire.ErrMalformed},
		{"cut off", good[:len(good)-1], wire.ErrMalformed},
		{"trailing", good + "x", wire.ErrMalformed},
		{"bomb", string(compress(t, make([]byte, wire.MaxSliceBytes+1))), wire.ErrTooLarge},
		{"bomb of many frames", strings.Repeat(string(compress(t, make([]byte, 1<<20))), 17), wire.ErrTooLarge},
		{"bomb of unknown size", string(streamed(t, wire.MaxSliceBytes+1)), wire.ErrTooLarge},
		change("other cluster", wire.ErrWrongCluster, func(e *envelope) { e.cluster = "c12" }),
		change("other namespace", wire.ErrMismatch, func(e *envelope) { e.namespace = "other" }),
		change("other name", wire.ErrMismatch, func(e *envelope) { e.name = "web-abd" }),
		change("cluster id", wire.ErrMalformed, func(e *envelope) { e.id = 512 }),
		change("family", wire.ErrMalformed, func(e *envelope) { e.family = "FQDN" }),
		change("no family", wire.ErrMalformed, func(e *envelope) { e.family = "" }),
		change("other family", wire.ErrMalformed, func(e *envelope) { e.family = "IPv6" }),
		change("no service", wire.ErrMalformed, func(e *envelope) { e.labels = nil }),
		change("service name", wire.ErrMalformed, func(e *envelope) { e.labels[service.LabelServiceName] = "a/b" }),
		change("label not UTF-8", wire.ErrMalformed, func(e *envelope) { e.labels["x"] = "\xff" }),
		change("no address", wire.ErrMalformed, first(func(e *discoveryv1.Endpoint) { e.Addresses = nil })),
		change("address", wire.ErrMalformed, first(func(e *discoveryv1.Endpoint) { e.Addresses = []string{"example.com"} })),
		change("mapped address", wire.ErrMalformed, first(func(e *discoveryv1.Endpoint) { e.Addresses = []string{"::ffff:10.0.0.1"} })),
		change("node", wire.ErrMalformed, first(func(e *discoveryv1.Endpoint) { e.NodeName = new("\x1b") })),
		change("target", wire.ErrMalformed, first(func(e *discoveryv1.Endpoint) { e.TargetRef.Name = "\n" })),
		change("zone", wire.ErrMalformed, first(func(e *discoveryv1.Endpoint) { e.Hints.ForZones[0].Name = "\n" })),
		change("long hostname", wire.ErrTooLarge, first(func(e *discoveryv1.Endpoint) { e.Hostname = new(strings.Repeat("h", 2000)) })),
		change("port number", wire.ErrMalformed, func(e *envelope) { e.ports[0].Port = new(int32(65536)) }),
		change("negative port", wire.ErrMalformed, func(e *envelope) { e.ports[0].Port = new(int32(-1)) }),
		change("protocol", wire.ErrMalformed, func(e *envelope) { e.ports[0].Protocol = new(corev1.Protocol("ICMP")) }),
		change("endpoints", wire.ErrTooLarge, func(e *envelope) {
			for range 1000 {
				e.endpoints = append(e.endpoints, e.endpoints[1])
			}
		}),
		change("addresses", wire.ErrTooLarge, first(func(e *discoveryv1.Endpoint) {
			for i := range 101 {
				e.Addresses = append(e.Addresses, fmt.Sprintf("10.0.0.%d", i))
			}
		})),
		change("zones", wire.ErrTooLarge, first(func(e *discoveryv1.Endpoint) { e.Hints.ForZones = make([]discoveryv1.ForZone, 101) })),
		change("ports", wire.ErrTooLarge, func(e *envelope) { e.ports = make([]discoveryv1.EndpointPort, 20001) }),
		change("labels", wire.ErrTooLarge, func(e *envelope) {
			for i := range 5000 {
				e.labels[fmt.Sprint(i)] = ""
			}
		}),
		broken("tag", 0xff),
		broken("field 0", 0x00),
		broken("length", 0x0a, 0x7f),
		broken("end of a group", 0x0c),
		broken("cluster as number", 0x08, 1),
		broken("id as text", 0x12, 0),
		broken("label as number", 0x28, 1),
		broken("endpoint as number", 0x40, 1),
		broken("endpoint cut off", 0x42, 2, 0x0a, 5),
		broken("conditions as number", 0x42, 2, 0x10, 1),
	}, func(value []byte) error {
		_, err := l.DecodeSlice(l.SliceKey("default", "web-abc"), value)
		return err
	})
}

// streamed is size zeros as a frame that does not say how large it is.
func streamed(t *testing.T, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for size > 0 {
		n := min(size, 1<<16)
		if _, err := w.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		size -= n
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSlicesAtOnce(t *testing.T) {
	want := sampleSlice()
	l := wire.Layout{Cluster: "c1"}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				value, err := wire.EncodeSlice(want)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := l.DecodeSlice(l.SliceKey(want.Namespace, want.Name), value)
				if err != nil || !cmp.Equal(want, got, compareValues) {
					t.Errorf("got %+v, %v", got, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestRefusedSliceEncodings(t *testing.T) {
	for name, edit := range map[string]func(*service.Slice){
		"family":   func(s *service.Slice) { s.IPv6 = true },
		"label":    func(s *service.Slice) { s.Service = "other" },
		"address":  func(s *service.Slice) { s.Endpoints[0].Addresses = nil },
		"protocol": func(s *service.Slice) { s.Ports[0].Protocol = "" },
	} {
		s := sampleSlice()
		edit(s)
		if value, err := wire.EncodeSlice(s); !errors.Is(err, wire.ErrMalformed) || value != nil {
			t.Errorf("%s: %v, want %v", name, err, wire.ErrMalformed)
		}
	}
	s := sampleSlice()
	s.Annotations["note"] = strings.Repeat("x", wire.MaxSliceBytes)
	if _, err := wire.EncodeSlice(s); !errors.Is(err, wire.ErrTooLarge) {
		t.Errorf("large: %v", err)
	}
}
