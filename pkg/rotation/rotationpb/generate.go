// Package rotationpb is the protocol by which certificates are renewed, generated
// from rotation.proto.
package rotationpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative rotation.proto
