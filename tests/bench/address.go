package main

import (
	"encoding/binary"
	"net/netip"
)

// The addresses of the benchmark's namespaces. Every address of backendRange
// is local, so one listener is all backends.
const (
	backendRange = "10.128.0.0/10"
	serviceRange = "10.96.0.0/12"
	clientIP     = "10.128.0.1" // from which all connections come
	backendPort  = 8080
	servicePort  = 80
)

// offset returns the address that lies n behind base.
func offset(base netip.Addr, n int) netip.Addr {
	b := base.As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])+uint32(n))))
}

// serviceAddress returns the address of service i.
func serviceAddress(i int) netip.AddrPort {
	return netip.AddrPortFrom(offset(netip.MustParsePrefix(serviceRange).Addr(), 256+i), servicePort)
}

// backendAddress returns the address of backend i of the whole benchmark.
func backendAddress(i int) netip.AddrPort {
	return netip.AddrPortFrom(offset(netip.MustParsePrefix(backendRange).Addr(), 256+i), backendPort)
}
