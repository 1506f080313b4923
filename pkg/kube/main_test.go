package kube

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// planes is the control plane of the tests that do not kill it.
var planes kubelab.Shared

func TestMain(m *testing.M) { goleak.VerifyTestMain(planes.Around(m)) }
