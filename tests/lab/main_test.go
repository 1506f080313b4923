package lab_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }
