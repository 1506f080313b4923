package main

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(test.values)
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", before, got, test.want)
		}
		if !slices.Equal(before, test.values) {
			t.Errorf("median changed %v to %v", before, test.values)
		}
	}
}

// TestBootstrap: of many runs, about 95 in 100 have the true median in their
// interval. That is all that the interval claims.
func TestBootstrap(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	const runs, truth = 60, 100.0
	hits := 0
	for range runs {
		values := make([]float64, 40)
		for i := range values {
			values[i] = truth + 10*random.NormFloat64()
		}
		got := bootstrap(values, random)
		if got.Low > got.Value || got.Value > got.High {
			t.Fatalf("interval %+v does not hold its value", got)
		}
		if got.Low <= truth && truth <= got.High {
			hits++
		}
	}
	if hits < 52 || hits == runs {
		t.Errorf("%d of %d intervals hold the truth, about 57 should", hits, runs)
	}
}

func TestBootstrapOfEqualValues(t *testing.T) {
	got := bootstrap([]float64{2, 2, 2}, rand.New(rand.NewPCG(1, 1)))
	if got != (interval{2, 2, 2}) {
		t.Errorf("interval %+v, want 2 throughout", got)
	}
}

func TestOverlaps(t *testing.T) {
	one := interval{Low: 1, High: 2}
	for other, want := range map[interval]bool{
		{Low: 1.5, High: 3}: true, {Low: 2, High: 3}: true, {Low: 0, High: 5}: true, {Low: 1.2, High: 1.3}: true,
		{Low: 2.1, High: 3}: false, {Low: 0, High: 0.9}: false,
	} {
		if one.overlaps(other) != want || other.overlaps(one) != want {
			t.Errorf("%+v and %+v: want %v", one, other, want)
		}
	}
}

func TestQuotients(t *testing.T) {
	if got := quotients([]float64{2, 9}, []float64{4, 3}); !slices.Equal(got, []float64{0.5, 3}) {
		t.Errorf("quotients %v", got)
	}
}
