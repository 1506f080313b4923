// Package cluster holds the value types that name a member of a mesh, and the
// rules for them. It does no I/O.
package cluster

import (
	"errors"
	"fmt"
	"regexp"
)

// ID is a cluster's number in the mesh, 1 to the mesh's Size. It is the upper
// part of every identity that the cluster allocates.
type ID uint32

// Size is the greatest number of clusters of a mesh. It fixes how the 24 bits
// of an identity are divided, so all members must agree on it.
type Size uint32

// The two sizes that the protocol knows.
const (
	Size255 Size = 255
	Size511 Size = 511
)

// ExportMode says how a cluster publishes backends.
type ExportMode string

// ExportServicesAndSlices publishes a service's backends both inside its
// service and as endpoint slices.
const ExportServicesAndSlices ExportMode = "services-and-endpointslices"

// Config is what a cluster tells its readers about itself before anything else.
type Config struct {
	Name string
	ID   ID
	// Size is 255 when the publisher leaves it out.
	Size Size
	// SyncedCanaries says that the cluster publishes a marker for each kind
	// once that kind is completely written.
	SyncedCanaries bool
	// Cached says that the state stands under the cache prefix.
	Cached bool
	// ServiceExports is nil when the publisher does not know service exports.
	ServiceExports *bool
	ExportMode     ExportMode
}

// Errors that the rules of this package return; all are wrapped with the
// offending value.
var (
	// ErrName is returned for a cluster name outside the protocol's form.
	ErrName = errors.New("a cluster name has 1 to 32 characters of a-z, 0-9 and '-', and begins and ends with a letter or digit")
	// ErrID is returned for a cluster id that the mesh's size has no room for.
	ErrID = errors.New("cluster id out of range")
	// ErrSize is returned for a mesh size other than 255 and 511.
	ErrSize = errors.New("the mesh size is 255 or 511")
)

var namePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$`)

// ValidateName returns an error that wraps ErrName unless name may name a cluster.
func ValidateName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("cluster name %q: %w", name, ErrName)
	}
	return nil
}

// Validate returns an error that wraps ErrSize unless s is one of the two sizes.
func (s Size) Validate() error {
	if s != Size255 && s != Size511 {
		return fmt.Errorf("mesh size %d: %w", s, ErrSize)
	}
	return nil
}

// LocalBits is the number of bits of an identity that a cluster of such a mesh
// chooses freely; the bits above hold its ID.
func (s Size) LocalBits() uint {
	if s == Size511 {
		return 15
	}
	return 16
}

// ValidateID returns an error that wraps ErrID unless 1 <= id <= s.
func (s Size) ValidateID(id ID) error {
	if id == 0 || id > ID(s) {
		return fmt.Errorf("cluster id %d is not within 1 to %d: %w", id, s, ErrID)
	}
	return nil
}

// Validate checks name, size and id, in this order.
func (c Config) Validate() error {
	if err := ValidateName(c.Name); err != nil {
		return err
	}
	if err := c.Size.Validate(); err != nil {
		return err
	}
	return c.Size.ValidateID(c.ID)
}
