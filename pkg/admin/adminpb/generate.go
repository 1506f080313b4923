// Package adminpb is the protocol of the admin service, generated from
// admin.proto.
package adminpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative admin.proto
