// Package renewalpb is the protocol by which certificates are renewed, generated
// from renewal.proto.
package renewalpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative renewal.proto
