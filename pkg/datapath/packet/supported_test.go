package packet

import (
	"errors"
	"testing"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// What a kernel can do is found out by trying; its version says what is to be found.
func TestSupported(t *testing.T) {
	sandbox.Require(t)
	method, err := Supported()
	switch {
	case !sandbox.Since(t, 6, 0):
		if !errors.Is(err, ErrKernel) {
			t.Errorf("%q, %v", method, err)
		}
	case !sandbox.Since(t, 6, 6):
		if method != Clsact || err != nil {
			t.Errorf("%q, %v", method, err)
		}
	case method != TCX || err != nil:
		t.Errorf("%q, %v", method, err)
	}
}
