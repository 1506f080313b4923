package wire

import (
	"fmt"
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/service"
)

type serviceJSON struct {
	Cluster         string               `json:"cluster"`
	Namespace       string               `json:"namespace"`
	Name            string               `json:"name"`
	Frontends       map[string]portsJSON `json:"frontends"`
	Backends        map[string]portsJSON `json:"backends"`
	Hostnames       map[string]string    `json:"hostnames,omitempty"`
	Zones           map[string]zoneJSON  `json:"zones,omitempty"`
	Labels          map[string]string    `json:"labels"`
	Selector        map[string]string    `json:"selector"`
	IncludeExternal bool                 `json:"includeExternal"`
	Shared          bool                 `json:"shared"`
	ClusterID       cluster.ID           `json:"clusterID"`
}

// portsJSON is keyed by the name of the port, "" for a single unnamed one.
type portsJSON map[string]*portJSON

type portJSON struct {
	Protocol service.Protocol
	Port     uint16
}

type zoneJSON struct {
	Zone     string        `json:"zone"`
	ForZones []forZoneJSON `json:"forZones"`
}

type forZoneJSON struct {
	Name string `json:"name"`
}

// EncodeService returns the value of a service. Affinity, Headless and the
// application protocols of ports have no place in it.
func EncodeService(s *service.Service) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, encodeError(Services, s.Name.String(), err) }
	if err := checkService(s); err != nil {
		return fail(err)
	}
	v := serviceJSON{
		Cluster:         s.Cluster,
		Namespace:       s.Namespace,
		Name:            s.Name.Name,
		Frontends:       make(map[string]portsJSON, len(s.Frontends)),
		Backends:        make(map[string]portsJSON, len(s.Backends)),
		Hostnames:       make(map[string]string),
		Zones:           make(map[string]zoneJSON),
		Labels:          nilToEmpty(s.Labels),
		Selector:        nilToEmpty(s.Selector),
		IncludeExternal: s.Global,
		Shared:          s.Shared,
		ClusterID:       s.ClusterID,
	}
	for _, f := range s.Frontends {
		v.Frontends[f.IP.String()] = encodePorts(f.Ports)
	}
	for _, b := range s.Backends {
		v.addBackend(b)
	}
	value, err := marshal(v, MaxValueBytes)
	if err != nil {
		return fail(err)
	}
	return value, nil
}

func (v *serviceJSON) addBackend(b service.Backend) {
	ip := b.IP.String()
	v.Backends[ip] = encodePorts(b.Ports)
	if b.Hostname != "" {
		v.Hostnames[ip] = b.Hostname
	}
	if b.Zone == "" && len(b.ForZones) == 0 {
		return
	}
	zone := zoneJSON{Zone: b.Zone, ForZones: []forZoneJSON{}}
	for _, name := range b.ForZones {
		zone.ForZones = append(zone.ForZones, forZoneJSON{Name: name})
	}
	v.Zones[ip] = zone
}

func encodePorts(ports []service.Port) portsJSON {
	v := make(portsJSON, len(ports))
	for _, p := range ports {
		v[p.Name] = &portJSON{Protocol: p.Protocol, Port: p.Port}
	}
	return v
}

// DecodeService returns the service that stands at key, its lists sorted as
// service.Service says.
func (l Layout) DecodeService(key string, value []byte) (*service.Service, error) {
	name, err := l.ParseServiceKey(key)
	if err != nil {
		return nil, err
	}
	var v serviceJSON
	if err := unmarshal(value, &v, MaxValueBytes); err != nil {
		return nil, decodeError(key, err)
	}
	if v.Cluster != l.Cluster {
		return nil, decodeError(key, fmt.Errorf("%w: %q", ErrWrongCluster, clip(v.Cluster)))
	}
	if v.Namespace != name.Namespace || v.Name != name.Name {
		return nil, decodeError(key, fmt.Errorf("%w: service %q", ErrMismatch, clip(v.Namespace+"/"+v.Name)))
	}
	s, err := v.service()
	if err != nil {
		return nil, decodeError(key, err)
	}
	return s, nil
}

func (v *serviceJSON) service() (*service.Service, error) {
	s := &service.Service{
		Name:      service.Name{Namespace: v.Namespace, Name: v.Name},
		Cluster:   v.Cluster,
		ClusterID: v.ClusterID,
		Labels:    emptyToNil(v.Labels),
		Selector:  emptyToNil(v.Selector),
		Global:    v.IncludeExternal,
		Shared:    v.Shared,
	}
	for text, ports := range v.Frontends {
		ip, list, err := parseEntry(text, ports)
		if err != nil {
			return nil, err
		}
		s.Frontends = append(s.Frontends, service.Frontend{IP: ip, Ports: list})
	}
	for text, ports := range v.Backends {
		ip, list, err := parseEntry(text, ports)
		if err != nil {
			return nil, err
		}
		b := service.Backend{IP: ip, Ports: list, Hostname: v.Hostnames[text], Zone: v.Zones[text].Zone}
		for _, zone := range v.Zones[text].ForZones {
			b.ForZones = append(b.ForZones, zone.Name)
		}
		s.Backends = append(s.Backends, b)
	}
	s.Sort()
	return s, checkService(s)
}

func parseEntry(text string, ports portsJSON) (netip.Addr, []service.Port, error) {
	ip, err := parseIP(text)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	var list []service.Port
	for name, p := range ports {
		if p == nil {
			return netip.Addr{}, nil, malformed("port %q of %s is null", name, ip)
		}
		list = append(list, service.Port{Name: name, Protocol: p.Protocol, Port: p.Port})
	}
	return ip, list, nil
}

func checkService(s *service.Service) error {
	if err := checkCluster(s.Cluster, s.ClusterID); err != nil {
		return err
	}
	if err := checkNamespaced("service", s.Namespace, s.Name.Name); err != nil {
		return err
	}
	frontends := make(map[netip.Addr]bool, len(s.Frontends))
	for _, f := range s.Frontends {
		if err := checkEntry(frontends, f.IP, f.Ports); err != nil {
			return fmt.Errorf("frontend: %w", err)
		}
	}
	backends := make(map[netip.Addr]bool, len(s.Backends))
	for _, b := range s.Backends {
		if err := checkEntry(backends, b.IP, b.Ports); err != nil {
			return fmt.Errorf("backend: %w", err)
		}
		if err := checkPlace(b.Hostname, b.Zone, b.ForZones); err != nil {
			return fmt.Errorf("backend %s: %w", b.IP, err)
		}
	}
	if err := checkMap("labels", s.Labels); err != nil {
		return err
	}
	return checkMap("selector", s.Selector)
}

// checkEntry allows each address once and each name of a port once on it: the
// value is a map of maps.
func checkEntry(seen map[netip.Addr]bool, ip netip.Addr, ports []service.Port) error {
	if err := checkIP(ip); err != nil {
		return err
	}
	if seen[ip] {
		return malformed("address %s stands there twice", ip)
	}
	seen[ip] = true
	names := make(map[string]bool, len(ports))
	for _, p := range ports {
		if p.Port == 0 {
			return malformed("%s: port %q has no number", ip, p.Name)
		}
		if names[p.Name] {
			return malformed("%s: two ports are named %q", ip, p.Name)
		}
		names[p.Name] = true
		if err := checkPort(p); err != nil {
			return err
		}
	}
	return nil
}

func checkPort(p service.Port) error {
	if err := checkText("port name", p.Name); err != nil {
		return err
	}
	if err := checkText("application protocol", p.AppProtocol); err != nil {
		return err
	}
	return checkProtocol(p.Protocol)
}

func checkPlace(hostname, zone string, forZones []string) error {
	if err := checkTexts([2]string{"hostname", hostname}, [2]string{"zone", zone}); err != nil {
		return err
	}
	if len(forZones) > maxEndpointZones {
		return tooLarge("zones of an endpoint", len(forZones), maxEndpointZones)
	}
	for _, name := range forZones {
		if err := checkText("zone", name); err != nil {
			return err
		}
	}
	return nil
}

// nilToEmpty makes an object of a missing map: readers from before expect one.
func nilToEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
