package join

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// declaration is what an operator says of a cluster that does not join itself.
type declaration struct {
	name   string
	id     cluster.ID
	claims []trust.Claim
	reading
}

// Declare makes a cluster a peer by an etcd client's configuration.
func (s *membership) Declare(r *joinpb.DeclareRequest, stream grpc.ServerStreamingServer[joinpb.Step]) error {
	d, err := s.parseDeclaration(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.declare(stream.Context(), d, steps(stream)); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}

func (s *membership) parseDeclaration(r *joinpb.DeclareRequest) (d declaration, err error) {
	d = declaration{name: r.GetName(), id: cluster.ID(r.GetId()), reading: reading{
		Endpoints: r.GetEndpoints(), CA: string(r.GetCa()), Cert: string(r.GetCert()), Key: string(r.GetKey()), OneWay: true,
	}}
	if err := cluster.ValidateName(d.name); err != nil {
		return d, err
	}
	if d.name == s.cfg.Cluster.Name {
		return d, fmt.Errorf("%s is this cluster itself", d.name)
	}
	if err := s.cfg.Cluster.Size.ValidateID(d.id); err != nil {
		return d, err
	}
	if len(d.Endpoints) == 0 || len(d.Endpoints) > MaxAddresses {
		return d, fmt.Errorf("%d endpoints, must be 1 to %d", len(d.Endpoints), MaxAddresses)
	}
	for _, e := range d.Endpoints {
		if err := checkEndpoint(e); err != nil {
			return d, err
		}
	}
	if max(len(d.CA), len(d.Cert), len(d.Key)) > maxPEM {
		return d, fmt.Errorf("the CA, the certificate or the key has more than %d bytes", maxPEM)
	}
	d.claims, err = parseClaims(r.GetClaims())
	d.Claims = d.claims
	return d, err
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Path != "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("endpoint %q is not https://host:port", endpoint)
	}
	return CheckAddresses([]string{u.Host})
}

// declare makes sure that the cluster is the one that is meant, and makes it a peer.
func (m *Manager) declare(ctx context.Context, d declaration, step func(string, bool)) error {
	known, _, _, err := m.book.current(ctx, d.name)
	if err != nil {
		return err
	}
	if err := known.declarable(d.name); err != nil {
		return err
	}
	if known.Reads != nil && len(d.claims) == 0 { // another certificate alone changes no claims
		d.claims = known.Reads.Claims
		d.Claims = d.claims
	}
	ends, err := endOf([]byte(d.Cert))
	if err != nil {
		return fmt.Errorf("the certificate of %s: %w", d.name, err)
	}
	config, err := m.configOf(ctx, d)
	if err != nil {
		return err
	}
	step(fmt.Sprintf("%s answers at %s, with the id %d", d.name, strings.Join(d.Endpoints, ", "), config.ID), false)
	wrong := m.unfit(Facts{Name: d.name, ID: config.ID, Size: config.Size, Version: m.cfg.Version, Time: time.Now(), Claims: d.claims})
	if config.ID != d.id {
		wrong = append(wrong, problem{text: fmt.Sprintf("the cluster there has the id %d, not %d (--id)", config.ID, d.id)})
	}
	if err := m.idTaken(d.name, config.ID); err != nil && len(wrong) == 0 {
		wrong = append(wrong, problem{text: err.Error()})
	}
	if len(wrong) > 0 {
		return errors.New(said(wrong))
	}
	d.ID = config.ID
	step(heldTo(d.name, d.claims), false)
	if err := m.keep(ctx, d.name, known, d.reading); err != nil {
		return err
	}
	step(fmt.Sprintf("%s is a peer of %s, one way: its certificate is good until %s (%d days), and is not renewed; give another one by the same command before that",
		d.name, m.cfg.Cluster.Name, ends.Format(time.RFC3339), int(time.Until(ends).Hours()/24)), false)
	if p, ok := m.peer(d.name); ok {
		if by, _, ok := m.declared(p); ok {
			step(fmt.Sprintf("%s is declared by %s, too, which counts as long as it is there", d.name, by), true)
		}
	}
	return m.awaitSession(ctx, d.name, step)
}

// declarable refuses to have what joined replaced by a declaration.
func (m member) declarable(name string) error {
	if m.Reads != nil && !m.Reads.OneWay {
		return fmt.Errorf("%s is a peer that joined by an invitation; `causeway disconnect %s` first", name, name)
	}
	return nil
}

// configOf reads what a cluster says of itself where its etcd is said to be.
func (m *Manager) configOf(ctx context.Context, d declaration) (cluster.Config, error) {
	tls, err := pki.InlineConfig(d.name, []byte(d.CA), []byte(d.Cert), []byte(d.Key), pki.MeshNames(d.name)...)
	if err != nil {
		return cluster.Config{}, err
	}
	client, err := kvstore.Dial(kvstore.ClientConfig{Endpoints: d.Endpoints, TLS: tls, Logger: m.log})
	if err != nil {
		return cluster.Config{}, err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	text, found, err := client.Get(ctx, wire.ConfigKey(d.name))
	if err != nil {
		return cluster.Config{}, fmt.Errorf("%s is not read at %s: %w", d.name, strings.Join(d.Endpoints, ", "), err)
	}
	if !found {
		return cluster.Config{}, fmt.Errorf("there is no cluster %s at %s: look whether that is its name (--name), and whether it publishes itself",
			d.name, strings.Join(d.Endpoints, ", "))
	}
	return wire.DecodeConfig(d.name, text)
}
