package peer

// Kept returns the prefixes of the keys in etcd that an API server without a disk has
// to keep elsewhere: what was agreed with peers, and when.
func Kept() []string { return []string{claimsPrefix} }
