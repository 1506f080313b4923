// Package conformance holds ours against the implementation that the protocol
// comes from: Cilium, in the release of this module's go.mod, with the libraries
// that it was released with.
//
//   - What our API server publishes is read by Cilium's types and judged by its
//     validators (published_test.go), and by the code that a Cilium agent reads
//     its peers with (reader_test.go).
//   - What Cilium writes is read by our decoders (wire_test.go), and by our API
//     server from an etcd that Cilium's own client filled (writer_test.go).
//
// The module imports only the value types, pkg/wire and pkg/pki of the product:
// the API server runs as the process that users run. run.sh builds and runs it.
package conformance
