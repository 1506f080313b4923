package packet

import (
	"errors"
	"fmt"

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
	ErrKernel = errors.New("the kernel cannot run the programs of packets between clusters (Linux 6.0 or newer can)")
	// ErrNotReached is returned when a program has not seen what it should have.
	ErrNotReached = errors.New("the program there has seen none of them")
	// ErrDevice is returned when the device to attach to is not there.
	ErrDevice = errors.New("no such device")
)

// manyErrors is how many errors of one kind are named.
const manyErrors = 10

// faults gathers the errors of one kind; of many the first ones stand for all.
type faults struct {
	first []error
	more  int
}

func (f *faults) add(err error) {
	switch {
	case err == nil:
	case len(f.first) < manyErrors:
		f.first = append(f.first, err)
	default:
		f.more++
	}
}

func (f *faults) join() error {
	if f.more == 0 {
		return errors.Join(f.first...)
	}
	return fmt.Errorf("%w\nand %d more like these", errors.Join(f.first...), f.more)
}
