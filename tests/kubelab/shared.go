package kubelab

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
)

// Shared is a control plane that the tests of a package use together. The first
// one that asks starts it. The zero value has neither controllers nor scheduler.
type Shared struct {
	Config Config

	mu    sync.Mutex
	plane *ControlPlane
	err   error
}

// Start returns the control plane. It skips the test where none can run; see the
// package comment.
func (s *Shared) Start(t testing.TB) *ControlPlane {
	t.Helper()
	Require(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plane == nil && s.err == nil {
		// It outlives the test that starts it.
		s.plane, s.err = New(context.Background(), s.Config)
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.plane
}

// Around returns what runs the tests of m and takes the control plane down
// after them. A goleak.TestingM: goleak.VerifyTestMain looks when it is gone.
func (s *Shared) Around(m *testing.M) *SharedRun { return &SharedRun{shared: s, tests: m} }

// SharedRun runs the tests around which a control plane is shared.
type SharedRun struct {
	shared *Shared
	tests  *testing.M
}

// Run returns the exit status of the tests.
func (r *SharedRun) Run() int {
	status := r.tests.Run()
	r.shared.mu.Lock()
	defer r.shared.mu.Unlock()
	if r.shared.plane == nil {
		return status
	}
	if err := r.shared.plane.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "take the control plane down:", err)
		return max(status, 1)
	}
	return status
}
