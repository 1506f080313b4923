// Package probepb is the protocol of what agents find out about the way to other
// clusters, generated from probe.proto.
package probepb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative probe.proto
