package host

import "errors"

// Errors that callers tell apart; all are wrapped with what and where.
var (
	// ErrForeignDevice is returned when somebody else's device has our name.
	ErrForeignDevice = errors.New("not made by us: delete it, or name another with --mesh-device")
	// ErrPort is returned when the tunnel's UDP port is taken.
	ErrPort = errors.New("in use by another tunnel or program of this node: the mesh needs a port of its own, choose one with --mesh-port in all clusters")
	// ErrDesired is returned for what cannot be applied as it contradicts itself.
	ErrDesired = errors.New("not a network that a node can have")
)
