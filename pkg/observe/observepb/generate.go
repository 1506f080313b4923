// Package observepb is the protocol of dropped packets' events, generated from
// observe.proto.
package observepb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative observe.proto
