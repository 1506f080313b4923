//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets between clusters, on the tunnel device mesh0 of a node. to_mesh finds
 * the node that a packet's destination is on and says who its source is;
 * from_mesh lets in what the mesh knows to be so, and nothing else: anybody who
 * can send UDP to the tunnel's port can make such packets by hand. What passes
 * goes on to other programs on the device.
 */
#include "include/address.h"
#include "include/record.h"

/* Make the enums part of the object, so that Go gets their values. */
const enum packet_layout *unused_packet_layout __attribute__((unused));
const enum direction *unused_direction __attribute__((unused));
const enum reason *unused_reason __attribute__((unused));
/* And the event, which no map has as its value. */
const struct packet_event *unused_packet_event __attribute__((unused));

#define TUNNEL_TTL 64

static __always_inline int is_mapped(const __u64 *address)
{
	return address[0] == MAPPED_WORD0 && (__u32)address[1] == MAPPED_WORD2;
}

/*
 * set_tunnel has the device send a packet to a node. The outer packet may be cut
 * into fragments where the inner one may: so a path that takes less is found out
 * by those who look for it, and is no obstacle to the others. IPv4 needs no
 * checksum around packets that have their own; IPv6 does, as a device that
 * would do without must be told so.
 */
static __always_inline long set_tunnel(struct __sk_buff *skb, const struct inner *in, const struct settings *s, const struct node *n,
				       __u32 identity)
{
	struct bpf_tunnel_key key = {.tunnel_id = identity, .tunnel_ttl = TUNNEL_TTL};
	const __u64 *tunnel = (const __u64 *)n->tunnel;
	__u64 flags = in->keeps_whole ? BPF_F_DONT_FRAGMENT : 0;

	if (is_mapped(tunnel)) {
		flags |= BPF_F_ZERO_CSUM_TX;
		key.remote_ipv4 = __builtin_bswap32(tunnel[1] >> 32);
		key.local_ipv4 = __builtin_bswap32(s->local_v4);
	} else {
		flags |= BPF_F_TUNINFO_IPV6;
		__builtin_memcpy(key.remote_ipv6, n->tunnel, sizeof(n->tunnel));
		__builtin_memcpy(key.local_ipv6, s->local_v6, sizeof(s->local_v6));
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags);
}

/* is_self_test says whether a frame is the agent's own. It is asked only about
 * those that are dropped whatever they are: on the way out what is no IP, on the
 * way in what came by no tunnel. So no pod and no other machine can send one. */
static __always_inline int is_self_test(struct __sk_buff *skb) { return skb->protocol == __builtin_bswap16(SELF_TEST_TYPE); }

/* send judges a packet that is about to leave, and gives it its tunnel. */
static __always_inline enum reason send(struct __sk_buff *skb, struct inner *in, struct known *known)
{
	__u64 source, destination;
	enum outcome outcome;
	enum reason reason;
	struct settings s;
	struct node n;

	reason = read_inner(skb, in);
	if (reason == DROP_PROTOCOL && is_self_test(skb))
		return DROP_SELF_TEST;
	if (reason != PASSED)
		return reason;
	if (is_of_link(in))
		return DROP_LINK_SCOPE;
	outcome = read_settings(&s);
	if (outcome == FOUND)
		outcome = read_address(in->source, in->is_v4, &source);
	if (outcome == TORN)
		return DROP_UNSTABLE;
	/* Without a number of its own, nobody there would take it. */
	if (outcome != FOUND)
		return DROP_SOURCE;
	known->identity = known->source_identity = identity_of(source);
	if (!is_here(&s, source))
		return DROP_SOURCE;
	outcome = read_address(in->destination, in->is_v4, &destination);
	if (outcome == TORN)
		return DROP_UNSTABLE;
	if (outcome != FOUND)
		return DROP_DESTINATION;
	known->cluster = cluster_of(destination);
	outcome = read_node(host_of(destination), &n);
	if (outcome == TORN)
		return DROP_UNSTABLE;
	if (outcome != FOUND || n.cluster != known->cluster)
		return DROP_NODE;
	known->tunnel[0] = ((__u64 *)n.tunnel)[0];
	known->tunnel[1] = ((__u64 *)n.tunnel)[1];
	return set_tunnel(skb, in, &s, &n, known->identity) ? DROP_TUNNEL : PASSED;
}

/* read_tunnel reads who sent the outer packet, and what it says of the inner. */
static __always_inline int read_tunnel(struct __sk_buff *skb, struct known *known)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) == 0) {
		known->tunnel[0] = MAPPED_WORD0;
		known->tunnel[1] = mapped(__builtin_bswap32(key.remote_ipv4));
	} else if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6) == 0) {
		__builtin_memcpy(known->tunnel, key.remote_ipv6, sizeof(known->tunnel));
	} else {
		return 0;
	}
	known->identity = key.tunnel_id;
	return 1;
}

/* judge_source says whether a packet's source may come from the node's cluster,
 * with the identity that the tunnel has. */
static __always_inline enum reason judge_source(const struct settings *s, const struct inner *in, struct known *known)
{
	enum outcome outcome;
	__u64 source;

	outcome = read_address(in->source, in->is_v4, &source);
	if (outcome == TORN)
		return DROP_UNSTABLE;
	if (outcome == FOUND) {
		known->source_identity = identity_of(source);
		if (cluster_of(source) != known->cluster)
			return DROP_CLUSTER;
		return known->source_identity == known->identity ? PASSED : DROP_IDENTITY;
	}
	/* The pod may be so new that word of it is still on its way. */
	if (find_range(in->source) != known->cluster)
		return DROP_SOURCE;
	/* Ours leave the first numbers of a cluster free, others do not. Reserved ones
	 * are of cluster 0, which has no nodes. */
	return known->identity >> s->local_bits == known->cluster ? PASSED_LATE : DROP_NUMBER;
}

/* receive judges a packet that came out of a tunnel. */
static __always_inline enum reason receive(struct __sk_buff *skb, struct inner *in, struct known *known)
{
	enum outcome outcome;
	enum reason reason;
	__u64 destination;
	struct settings s;

	if (!read_tunnel(skb, known))
		return is_self_test(skb) ? DROP_SELF_TEST : DROP_TUNNEL;
	reason = read_inner(skb, in);
	if (reason != PASSED)
		return reason;
	outcome = read_host(known->tunnel, &known->cluster);
	if (outcome == TORN)
		return DROP_UNSTABLE;
	if (outcome != FOUND)
		return DROP_NODE;
	outcome = read_settings(&s);
	if (outcome == FOUND)
		outcome = read_address(in->destination, in->is_v4, &destination);
	if (outcome == TORN)
		return DROP_UNSTABLE;
	if (outcome != FOUND || !is_here(&s, destination))
		return DROP_DESTINATION;
	if (in->routed)
		return DROP_ROUTED;
	return judge_source(&s, in, known);
}

SEC("tcx/egress")
int to_mesh(struct __sk_buff *skb)
{
	struct known known = {};
	struct inner in = {};

	return finish(skb, TO_MESH, send(skb, &in, &known), &in, &known);
}

/* The frame's destination is whatever the other node's device wrote there: to be
 * let in, the packet must be said to be for this machine. */
SEC("tcx/ingress")
int from_mesh(struct __sk_buff *skb)
{
	struct known known = {};
	struct inner in = {};
	enum reason reason = receive(skb, &in, &known);

	if ((reason == PASSED || reason == PASSED_LATE) && skb->pkt_type != PACKET_HOST && bpf_skb_change_type(skb, PACKET_HOST))
		reason = DROP_TUNNEL;
	return finish(skb, FROM_MESH, reason, &in, &known);
}

char license_of_programs[] SEC("license") = "Dual BSD/GPL";
