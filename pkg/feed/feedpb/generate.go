// Package feedpb is the protocol of the feed, generated from feed.proto.
package feedpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative feed.proto
