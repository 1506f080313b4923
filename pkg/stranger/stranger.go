// Package stranger is for those who have no certificate of a cluster yet, or none
// any more: what a person hands to them, how they know the gateway that made it,
// and what keeps them from guessing. Clusters that join and agents that begin use
// the same.
package stranger
