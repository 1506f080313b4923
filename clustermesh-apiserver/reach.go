package main

import (
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/admin"
	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/source"
)

// validateGatewayService checks the flag.
func (c *config) validateGatewayService() error {
	return c.validateNamed("--gateway-service", c.gatewayService, "only Kubernetes leads a Service to the gateway")
}

// reach knows by which addresses others reach the gateway.
type reach struct {
	cfg     *config
	service *source.Reach            // nil where no flag names one
	say     func(addresses []string) // to who reads this cluster
}

// newReach returns what knows that, and the sink that it learns it from, through
// which the source's objects come to next. It has say tell the addresses that somebody
// gave the gateway, and none that it was merely bound to.
func newReach(cfg *config, next source.Sink, say func([]string), log *slog.Logger, registry prometheus.Registerer) (*reach, source.Sink) {
	if cfg.gatewayService == "" {
		return &reach{cfg: cfg, say: say}, next
	}
	told := say
	if len(cfg.advertise) > 0 { // which counts, see tell
		told = nil
	}
	namespace, service, _ := kube.ParseKept(cfg.gatewayService) // validate has seen it
	found := source.NewReach(source.ReachConfig{
		Namespace: namespace, Name: service, Max: join.MaxAddresses, Next: next, Found: told, Logger: log, Registerer: registry,
	})
	return &reach{cfg: cfg, service: found, say: say}, found
}

// tell tells the addresses of --advertise, if there are any.
func (r *reach) tell(bound net.Addr) {
	if len(r.cfg.advertise) > 0 {
		r.say(r.addresses(bound))
	}
}

// addresses are host:port: those of --advertise, else of the Service, else where the
// gateway is bound.
func (r *reach) addresses(bound net.Addr) []string {
	if r.service != nil && len(r.cfg.advertise) == 0 {
		if found := r.service.Reached().Addresses; len(found) > 0 {
			return found
		}
	}
	return r.cfg.addresses(bound, net.InterfaceAddrs)
}

// status is what the command line is told.
func (r *reach) status(bound net.Addr) admin.Gateway {
	out := admin.Gateway{Addresses: r.addresses(bound)}
	if r.service != nil {
		out.Service = r.service.Reached()
	}
	return out
}
