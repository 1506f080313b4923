package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// interval is a value with the bounds between which it lies with 95 %
// confidence.
type interval struct{ Value, Low, High float64 }

// overlaps reports whether two intervals have a value in common.
func (i interval) overlaps(other interval) bool { return i.Low <= other.High && other.Low <= i.High }

// median returns the median of values, which must not be empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// bootstrap returns the median of values with its 95 % interval: the medians
// of many samples drawn from values with replacement tell how much it would
// differ in another run.
func bootstrap(values []float64, random *rand.Rand) interval {
	const samples = 2000
	medians := make([]float64, samples)
	sample := make([]float64, len(values))
	for i := range medians {
		for j := range sample {
			sample[j] = values[random.IntN(len(values))]
		}
		medians[i] = median(sample)
	}
	slices.Sort(medians)
	return interval{Value: median(values), Low: medians[samples*25/1000], High: medians[samples*975/1000]}
}

// quotients returns a[i] / b[i].
func quotients(a, b []float64) []float64 {
	result := make([]float64, len(a))
	for i := range a {
		result[i] = a[i] / b[i]
	}
	return result
}

// differences returns a[i] - b[i].
func differences(a, b []float64) []float64 {
	result := make([]float64, len(a))
	for i := range a {
		result[i] = a[i] - b[i]
	}
	return result
}

// milliseconds returns durations in order, in ms.
func milliseconds(durations []time.Duration) []float64 {
	values := make([]float64, len(durations))
	for i, d := range durations {
		values[i] = d.Seconds() * 1000
	}
	slices.Sort(values)
	return values
}

// quantile returns the value of a sorted list below which that share lies; 0
// of an empty one.
func quantile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(share*float64(len(sorted)-1)+0.5)]
}
