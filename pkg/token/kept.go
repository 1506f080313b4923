package token

// Kept returns the prefixes of the keys in etcd that an API server without a disk has
// to keep elsewhere: tokens that can be used still, and by whom others were.
func Kept() []string { return []string{prefix} }
