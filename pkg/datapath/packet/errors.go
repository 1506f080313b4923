package packet

import (
	"errors"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// Errors that callers tell apart; all are wrapped with what and where.
var (
	// ErrFull is returned when a map has no room. What was in effect before
	// stays, and all that did fit is.
	ErrFull = pin.ErrFull
	// ErrValue is returned for an identity or a cluster that the maps cannot express.
	ErrValue = errors.New("out of range")
	// ErrKernel is returned when the kernel lacks what the programs need.
	ErrKernel = errors.New("the kernel cannot run the programs of packets between clusters (Linux 6.6 or newer can)")
	// ErrDevice is returned when the device to attach to is not there.
	ErrDevice = errors.New("no such device")
)
