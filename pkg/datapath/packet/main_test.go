package packet

import (
	"testing"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }
