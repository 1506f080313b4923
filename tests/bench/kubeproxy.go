package main

import (
	"fmt"
	"strings"
)

// The rules that kube-proxy makes for services with two backends each, as far
// as a connection from a pod meets them: one chain a service, one a backend.
const (
	chainBackends = 2
	// masqueradeMark is what kube-proxy marks packets with.
	masqueradeMark = "0x4000"
)

// iptablesRules returns the input of iptables-restore for so many services.
func iptablesRules(services int) string {
	var rules strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&rules, format+"\n", args...) }
	add("*nat")
	for _, chain := range []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"} {
		add(":%s - [0:0]", chain)
	}
	for i := range services {
		add(":KUBE-SVC-%016X - [0:0]", i)
		for b := range chainBackends {
			add(":KUBE-SEP-%016X - [0:0]", chainBackends*i+b)
		}
	}
	add(`-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`)
	add(`-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`)
	add(`-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING`)
	add(`-A KUBE-POSTROUTING -m mark ! --mark %[1]s/%[1]s -j RETURN`, masqueradeMark)
	add(`-A KUBE-POSTROUTING -j MARK --xor-mark %s`, masqueradeMark)
	add(`-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully`)
	add(`-A KUBE-MARK-MASQ -j MARK --or-mark %s`, masqueradeMark)
	for i := range services {
		name, address := fmt.Sprintf("bench/service-%d:http", i), serviceAddress(i)
		add(`-A KUBE-SERVICES -d %s/32 -p tcp -m comment --comment "%s cluster IP" -m tcp --dport %d -j KUBE-SVC-%016X`,
			address.Addr(), name, address.Port(), i)
		add(`-A KUBE-SVC-%016X ! -s %s -d %s/32 -p tcp -m comment --comment "%s cluster IP" -m tcp --dport %d -j KUBE-MARK-MASQ`,
			i, backendRange, address.Addr(), name, address.Port())
		for b := range chainBackends {
			random := ""
			if left := chainBackends - b; left > 1 {
				random = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
			}
			k := chainBackends*i + b
			backend := backendAddress(k)
			add(`-A KUBE-SVC-%016X -m comment --comment "%s -> %s" %s-j KUBE-SEP-%016X`, i, name, backend, random, k)
			add(`-A KUBE-SEP-%016X -s %s/32 -m comment --comment "%s" -j KUBE-MARK-MASQ`, k, backend.Addr(), name)
			add(`-A KUBE-SEP-%016X -p tcp -m comment --comment "%s" -m tcp -j DNAT --to-destination %s`, k, name, backend)
		}
	}
	add(`-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" ` +
		`-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS`)
	add("COMMIT")
	add("*filter")
	for _, chain := range []string{"KUBE-EXTERNAL-SERVICES", "KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"} {
		add(":%s - [0:0]", chain)
	}
	for _, hook := range []string{"INPUT", "FORWARD"} {
		add(`-A %s -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES`, hook)
	}
	for _, hook := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		add(`-A %s -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL`, hook)
	}
	add(`-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS`)
	add(`-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD`)
	for _, hook := range []string{"FORWARD", "OUTPUT"} {
		add(`-A %s -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`, hook)
	}
	for _, hook := range []string{"INPUT", "OUTPUT"} {
		add(`-A %s -j KUBE-FIREWALL`, hook)
	}
	add(`-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" ` +
		`-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP`)
	add(`-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP`)
	add(`-A KUBE-FORWARD -m mark --mark %[1]s/%[1]s -j ACCEPT`, masqueradeMark)
	add(`-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`)
	add("COMMIT")
	return rules.String()
}

// nftablesHead is what stands before the services. %[1]s is the mark.
const nftablesHead = `table ip kube-proxy {
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	set cluster-ips { type ipv4_addr; }
	set nodeport-ips { type ipv4_addr; }

	chain cluster-ips-check {
		ip daddr @cluster-ips reject
	}
	chain filter-prerouting-pre-dnat {
		type filter hook prerouting priority -110; policy accept;
		ct state new jump firewall-check
	}
	chain filter-output-pre-dnat {
		type filter hook output priority -110; policy accept;
		ct state new jump firewall-check
	}
	chain filter-input {
		type filter hook input priority -110; policy accept;
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}
	chain filter-forward {
		type filter hook forward priority -110; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-output {
		type filter hook output priority -90; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain firewall-check {
		ip daddr . meta l4proto . th dport vmap @firewall-ips
	}
	chain nodeport-endpoints-check {
		ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
	}
	chain service-endpoints-check {
		ip daddr . meta l4proto . th dport vmap @no-endpoint-services
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100; policy accept;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain mark-for-masquerade {
		meta mark set meta mark or %[1]s
	}
	chain masquerading {
		meta mark and %[1]s == 0 return
		meta mark set meta mark xor %[1]s
		masquerade fully-random
	}
`

// nftablesBatch is how many services one run of nft adds: the kernel looks for
// each anonymous set of a transaction in the list of all that is in it.
const nftablesBatch = 500

// nftablesRules returns the inputs of nft -f for so many services, in order.
func nftablesRules(services int) []string {
	batches := []string{fmt.Sprintf(nftablesHead, masqueradeMark) + "}\n"}
	for first := 0; first < services; first += nftablesBatch {
		batches = append(batches, nftablesServices(first, min(first+nftablesBatch, services)))
	}
	return batches
}

// nftablesServices returns the rules of the services from first to before end.
func nftablesServices(first, end int) string {
	var rules strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&rules, format+"\n", args...) }
	add("table ip kube-proxy {")
	var portals, addresses []string
	for i := first; i < end; i++ {
		address := serviceAddress(i)
		var verdicts []string
		for b := range chainBackends {
			k := chainBackends*i + b
			backend := backendAddress(k)
			add("\tchain endpoint-%d {\n\t\tip saddr %s jump mark-for-masquerade\n\t\tmeta l4proto tcp dnat to %s\n\t}", k, backend.Addr(), backend)
			verdicts = append(verdicts, fmt.Sprintf("%d : goto endpoint-%d", b, k))
		}
		add("\tchain service-%d {\n\t\tip daddr %s tcp dport %d ip saddr != %s jump mark-for-masquerade\n\t\tnumgen random mod %d vmap { %s }\n\t}",
			i, address.Addr(), address.Port(), backendRange, chainBackends, strings.Join(verdicts, ", "))
		portals = append(portals, fmt.Sprintf("%s . tcp . %d : goto service-%d", address.Addr(), address.Port(), i))
		addresses = append(addresses, address.Addr().String())
	}
	add("}")
	add("add element ip kube-proxy service-ips { %s }", strings.Join(portals, ", "))
	add("add element ip kube-proxy cluster-ips { %s }", strings.Join(addresses, ", "))
	return rules.String()
}
