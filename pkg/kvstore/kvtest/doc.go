// Package kvtest tests pkg/kvstore against everything that may be behind it: one
// suite, over an embedded etcd and over an external one with TLS, through a
// proxy that cuts, delays and stalls connections, loses answers, and lets
// requests arrive after those that were made later.
package kvtest
