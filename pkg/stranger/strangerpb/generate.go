// Package strangerpb is the protocol by which an agent gets its first certificate,
// generated from stranger.proto.
package strangerpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative stranger.proto
