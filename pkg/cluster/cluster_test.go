package cluster_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "1", "c1", "eu-west-1", "a--b", strings.Repeat("a", 32)} {
		if err := cluster.ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-", "a-", "-a", "A", "a.b", "a_b", "a/b", "ä", "a\n", strings.Repeat("a", 33)} {
		err := cluster.ValidateName(name)
		if !errors.Is(err, cluster.ErrName) {
			t.Errorf("%q: %v, want %v", name, err, cluster.ErrName)
		}
	}
}

func TestSize(t *testing.T) {
	for size, bits := range map[cluster.Size]uint{cluster.Size255: 16, cluster.Size511: 15} {
		if err := size.Validate(); err != nil {
			t.Error(err)
		}
		if got := size.LocalBits(); got != bits {
			t.Errorf("size %d: %d local bits, want %d", size, got, bits)
		}
		// The greatest identity of the greatest cluster fits 24 bits.
		if greatest := uint(size)<<bits + 1<<bits - 1; greatest >= 1<<24 {
			t.Errorf("size %d: identity %d does not fit 24 bits", size, greatest)
		}
		for _, id := range []cluster.ID{1, cluster.ID(size)} {
			if err := size.ValidateID(id); err != nil {
				t.Error(err)
			}
		}
		for _, id := range []cluster.ID{0, cluster.ID(size) + 1, 1 << 31} {
			if err := size.ValidateID(id); !errors.Is(err, cluster.ErrID) {
				t.Errorf("size %d, id %d: %v, want %v", size, id, err, cluster.ErrID)
			}
		}
	}
	for _, size := range []cluster.Size{0, 1, 256, 512} {
		if err := size.Validate(); !errors.Is(err, cluster.ErrSize) {
			t.Errorf("size %d: %v, want %v", size, err, cluster.ErrSize)
		}
	}
}

func TestValidateConfig(t *testing.T) {
	good := cluster.Config{Name: "east", ID: 1, Size: cluster.Size255}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		config cluster.Config
		want   error
	}{
		{cluster.Config{ID: 1, Size: cluster.Size255}, cluster.ErrName},
		{cluster.Config{Name: "east", ID: 1}, cluster.ErrSize},
		{cluster.Config{Name: "east", Size: cluster.Size255}, cluster.ErrID},
		{cluster.Config{Name: "east", ID: 256, Size: cluster.Size255}, cluster.ErrID},
		// The first thing that is wrong is what is said.
		{cluster.Config{}, cluster.ErrName},
	} {
		if err := c.config.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.config, err, c.want)
		}
	}
	if err := (cluster.Config{Name: "east", ID: 300, Size: cluster.Size511}).Validate(); err != nil {
		t.Error(err)
	}
}
