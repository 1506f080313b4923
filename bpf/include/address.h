/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps by which packets are judged, and how they are read. */
#ifndef CAUSEWAY_ADDRESS_H
#define CAUSEWAY_ADDRESS_H

#include "seal.h"

/* The loader sets max_entries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __be32);
	__type(value, struct address);
} address_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address_key);
	__type(value, struct address);
} address_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address_key);
	__type(value, struct host);
} host SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct range_key);
	__type(value, struct range);
} range SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* A value that is written at every moment of four lookups does not exist. */
#define ATTEMPTS 4

enum outcome {
	FOUND,
	ABSENT,
	TORN, /* changed whenever it was read */
};

static __always_inline __u64 seal_key_v4(__be32 address)
{
	return seal_step(PACKET_LAYOUT_VERSION, address);
}

static __always_inline __u64 seal_key_v6(const __u64 *address)
{
	return seal_step(seal_step(PACKET_LAYOUT_VERSION, address[0]), address[1]);
}

static __always_inline __u64 seal_key_index(__u32 index)
{
	return seal_step(PACKET_LAYOUT_VERSION, index);
}

/* read_address reads who is behind an address. A miss counts only the second
 * time: while an element changes hands, a lookup can pass it by. */
static __always_inline enum outcome read_address(const __u64 *address, int is_v4, __u64 *bits)
{
	__be32 v4 = address[1] >> 32;
	struct address a;
	void *value;
	__u64 seal;

	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		value = is_v4 ? bpf_map_lookup_elem(&address_v4, &v4) : bpf_map_lookup_elem(&address_v6, address);
		if (!value) {
			if (attempt > 0)
				return ABSENT;
			continue;
		}
		seal = is_v4 ? seal_key_v4(v4) : seal_key_v6(address);
		if (take((__u64 *)&a, value, SEALED_WORDS(a), seal) == a.seal) {
			*bits = a.bits;
			return FOUND;
		}
	}
	return TORN;
}

static __always_inline __u32 identity_of(__u64 bits) { return bits & ((1 << ADDRESS_IDENTITY_BITS) - 1); }

static __always_inline __u32 cluster_of(__u64 bits) { return (__u16)(bits >> ADDRESS_CLUSTER_SHIFT); }

static __always_inline __u32 host_of(__u64 bits) { return bits >> ADDRESS_HOST_SHIFT; }

/* read_host returns the peer whose node has an underlay address. */
static __always_inline enum outcome read_host(const __u64 *address, __u32 *cluster)
{
	struct host h;
	void *value;

	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		value = bpf_map_lookup_elem(&host, address);
		if (!value) {
			if (attempt > 0)
				return ABSENT;
			continue;
		}
		if (take((__u64 *)&h, value, SEALED_WORDS(h), seal_key_v6(address)) == h.seal) {
			*cluster = h.cluster;
			return h.cluster ? FOUND : ABSENT;
		}
	}
	return TORN;
}

/* read_node reads where a host's packets go. */
static __always_inline enum outcome read_node(__u32 index, struct node *n)
{
	void *value;

	if (!index)
		return ABSENT;
	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		value = bpf_map_lookup_elem(&node, &index);
		if (!value)
			return ABSENT;
		if (take((__u64 *)n, value, SEALED_WORDS(*n), seal_key_index(index)) == n->seal)
			return n->cluster ? FOUND : ABSENT;
	}
	return TORN;
}

/* read_settings reads what this node is. */
static __always_inline enum outcome read_settings(struct settings *s)
{
	__u32 zero = 0;
	void *value;

	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		value = bpf_map_lookup_elem(&settings, &zero);
		if (!value)
			return ABSENT;
		if (take((__u64 *)s, value, SEALED_WORDS(*s), seal_key_index(0)) == s->seal)
			return s->local_bits ? FOUND : ABSENT;
	}
	return TORN;
}

/* is_here says whether what is behind an address is on this node and of its
 * cluster: a peer may say of its own addresses that they are here, and packets to
 * them would go on to somewhere else. */
static __always_inline int is_here(const struct settings *s, __u64 bits)
{
	__u32 index = host_of(bits);

	return index && (index == s->hosts[0] || index == s->hosts[1]) && cluster_of(bits) == s->cluster;
}

/* find_range returns the peer in whose ranges an address is, 0 for none. */
static __always_inline __u32 find_range(const __u64 *address)
{
	struct range_key key = {.prefix_bits = 128};
	struct range *r;

	__builtin_memcpy(key.address, address, sizeof(key.address));
	r = bpf_map_lookup_elem(&range, &key);
	return r ? *(volatile __u32 *)&r->cluster : 0;
}

#endif
