package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

func TestAddresses(t *testing.T) {
	interfaces := func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
			&net.IPNet{IP: net.IPv4(192, 0, 2, 7).To4(), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("fe80::1"), Mask: net.CIDRMask(64, 128)},
			&net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
		}, nil
	}
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"--listen=:8474"}, []string{"192.0.2.7:8474", "[2001:db8::7]:8474"}},
		{[]string{"--listen=[::]:8474"}, []string{"192.0.2.7:8474", "[2001:db8::7]:8474"}},
		{[]string{"--listen=127.0.0.1:9"}, []string{"127.0.0.1:9"}},
		{[]string{"--listen=gateway:9"}, []string{"gateway:9"}},
		{[]string{"--listen=192.0.2.1:9", "--advertise=a.example.com,2001:db8::1"}, []string{"a.example.com:9", "[2001:db8::1]:9"}},
	} {
		if got := parse(t, tc.args...).addresses(nil, interfaces); !slices.Equal(got, tc.want) {
			t.Errorf("%q: %q, want %q", tc.args, got, tc.want)
		}
	}
	bound := &net.TCPAddr{IP: net.IPv6unspecified, Port: 4711}
	if got := parse(t, "--listen=h:0").addresses(bound, interfaces); !slices.Equal(got, []string{"h:4711"}) {
		t.Errorf("where it is bound: %q", got)
	}
}

func TestRunAfter(t *testing.T) {
	ready := make(chan struct{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	never := func(context.Context) error { return errors.New("it ran") }
	if err := runAfter(ended, ready, never); err != nil {
		t.Error(err)
	}
	close(ready)
	if err := runAfter(t.Context(), ready, never); err == nil {
		t.Error("it did not run")
	}
}

func TestClaims(t *testing.T) {
	c := parse(t, "--mesh-cidr=10.200.0.0/16", "--node-cidr=192.0.2.0/24", "--pod-cidr=10.2.0.0/16,10.1.0.0/16", "--pod-cidr=10.1.0.0/16")
	claims, err := c.claims()
	if want := "[10.1.0.0/16 pods 10.2.0.0/16 pods 10.200.0.0/16 mesh 192.0.2.0/24 nodes]"; err != nil || claimsOf(claims) != want {
		t.Errorf("%s, %v, want %s", claimsOf(claims), err, want)
	}
	if none, err := parse(t).claims(); err != nil || len(none) > 0 {
		t.Errorf("%v, %v", none, err)
	}
}

func claimsOf(claims []trust.Claim) string {
	var out []string
	for _, c := range claims {
		out = append(out, fmt.Sprintf("%s %s", c.Range, c.Class))
	}
	return fmt.Sprint(out)
}
