// Package pki is a cluster's certificate authority and the TLS configurations
// that rest on it.
//
// Every cluster has an authority of its own; none is shared. It signs four
// kinds of certificate. What a certificate is for stands in it as one URI,
//
//	causeway://<cluster>/<role>/<name>
//
// and nowhere else is it read from, so that a node called like a peer, or a
// common name chosen by somebody, never changes what the holder may do. The
// extended key usage divides servers from clients besides, which is what
// readers that know nothing of the URI check.
package pki

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// Role says what the holder of a certificate is to the cluster that signed it.
type Role string

// The roles.
const (
	// RoleServer is the cluster's own gateway; its name is the cluster's.
	RoleServer Role = "server"
	// RolePeer is another cluster, that reads; its name is that cluster's.
	RolePeer Role = "peer"
	// RoleAgent is a node of the cluster; its name is the node's.
	RoleAgent Role = "agent"
	// RoleAdmin is a person or a program that operates the cluster.
	RoleAdmin Role = "admin"

	// roleAuthority marks the authority's own certificate. It is never issued.
	roleAuthority Role = "authority"
	// roleIssuer marks a certificate of those that sign clients'; its name is the
	// role of what it signs.
	roleIssuer Role = "issuer"
)

// Subject is who a certificate speaks for.
type Subject struct {
	// Cluster is the cluster whose authority signed.
	Cluster string
	Role    Role
	Name    string
}

// scheme is the URI scheme of a Subject.
const scheme = "causeway"

// maxName is the length of a DNS name, which a node's name is.
const maxName = 253

var namePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$`)

// String returns the URI of s.
func (s Subject) String() string { return s.uri().String() }

func (s Subject) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: s.Cluster, Path: "/" + string(s.Role) + "/" + s.Name}
}

// validate returns an error that wraps ErrSubject unless the names have the
// form that the role asks for.
func (s Subject) validate() error {
	if err := cluster.ValidateName(s.Cluster); err != nil {
		return fmt.Errorf("%w: %w", ErrSubject, err)
	}
	switch s.Role {
	case RoleServer, roleAuthority:
		if s.Name != s.Cluster {
			return fmt.Errorf("%s %q of cluster %q is not named after it: %w", s.Role, s.Name, s.Cluster, ErrSubject)
		}
	case roleIssuer:
		if !slices.Contains(issuerRoles(), Role(s.Name)) {
			return fmt.Errorf("%s of %q: %w", s.Role, s.Name, ErrSubject)
		}
	case RolePeer:
		if err := cluster.ValidateName(s.Name); err != nil {
			return fmt.Errorf("%s: %w: %w", s.Role, ErrSubject, err)
		}
	case RoleAgent, RoleAdmin:
		if len(s.Name) > maxName || !namePattern.MatchString(s.Name) {
			return fmt.Errorf("%s name %q is not up to %d characters of a-z, 0-9, '-' and '.': %w",
				s.Role, s.Name, maxName, ErrSubject)
		}
	default:
		return fmt.Errorf("role %q is unknown: %w", s.Role, ErrSubject)
	}
	return nil
}

// SubjectOf returns whom cert speaks for. It does not verify cert: the caller
// has done so, against the authority of the cluster that the Subject names. An
// error wraps ErrSubject.
func SubjectOf(cert *x509.Certificate) (Subject, error) {
	s, err := subjectOf(cert)
	if err == nil && s.signs() {
		return Subject{}, fmt.Errorf("certificate %q is an authority's: %w", cert.Subject, ErrSubject)
	}
	return s, err
}

// SubjectOfChain returns whom the first certificate of a verified chain speaks
// for. What stands between it and the authority is its role's issuer or nothing.
// An error wraps ErrSubject.
func SubjectOfChain(chain []*x509.Certificate) (Subject, error) {
	s, err := SubjectOf(chain[0])
	if err != nil || len(chain) == 2 { // by the authority itself
		return s, err
	}
	want := Subject{Cluster: s.Cluster, Role: roleIssuer, Name: string(s.Role)}
	if len(chain) == 3 {
		if issuer, err := subjectOf(chain[1]); err == nil && issuer == want {
			return s, nil
		}
	}
	return Subject{}, fmt.Errorf("certificate %s was signed by %q, which signs no such role: %w", s, chain[0].Issuer, ErrSubject)
}

// signs is whether s is not a holder's but stands above.
func (s Subject) signs() bool { return s.Role == roleAuthority || s.Role == roleIssuer }

func subjectOf(cert *x509.Certificate) (Subject, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != scheme {
		return Subject{}, fmt.Errorf("certificate %q has no single %s:// name: %w", cert.Subject, scheme, ErrSubject)
	}
	u := cert.URIs[0]
	role, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	s := Subject{Cluster: u.Host, Role: Role(role), Name: name}
	// The way back must give the same text, so that no second spelling
	// (escapes, user, query) names the same subject.
	if !ok || s.String() != u.String() {
		return Subject{}, fmt.Errorf("certificate name %q: %w", u, ErrSubject)
	}
	if err := s.validate(); err != nil {
		return Subject{}, fmt.Errorf("certificate name %q: %w", u, err)
	}
	if cert.IsCA != s.signs() {
		return Subject{}, fmt.Errorf("certificate name %q in a certificate of another kind: %w", u, ErrSubject)
	}
	return s, nil
}

type subjectKey struct{}

// ContextWithSubject returns a context that says who calls. Only what has
// verified the caller's certificate may set it.
func ContextWithSubject(ctx context.Context, s Subject) context.Context {
	return context.WithValue(ctx, subjectKey{}, s)
}

// SubjectFromContext returns who calls, and false when nobody is known.
func SubjectFromContext(ctx context.Context) (Subject, bool) {
	s, ok := ctx.Value(subjectKey{}).(Subject)
	return s, ok
}

// MeshNames returns the host names that every server certificate of a cluster
// carries, whatever its address is: ours and the one that the reference dials.
func MeshNames(clusterName string) []string {
	return []string{clusterName + ".mesh.causeway.io", clusterName + ".mesh.cilium.io"}
}
