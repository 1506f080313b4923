/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way back: what a socket calls the backend that it talks to. */
#ifndef CAUSEWAY_REVERSE_H
#define CAUSEWAY_REVERSE_H

#include "service.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct reverse_key);
	__type(value, struct reverse);
} reverse SEC(".maps");

/* Which sockets have entries: enum reverse_kinds. The loader sets it; the
 * verifier then drops what is never reached. */
const volatile __u32 reversed = REVERSE_UDP;

static __always_inline int is_reversed(__u32 protocol)
{
	return (protocol == IPPROTO_UDP && (reversed & REVERSE_UDP)) ||
	       (protocol == IPPROTO_TCP && (reversed & REVERSE_TCP));
}

static __always_inline void reverse_key_of(struct reverse_key *key, __u64 cookie, const __u64 *address, __be16 port_be, __u8 protocol)
{
	key->cookie = cookie;
	((__u64 *)key->address)[0] = address[0];
	((__u64 *)key->address)[1] = address[1];
	key->port_be = port_be;
	key->protocol = protocol;
}

/* note writes the way back from a backend to the service that was asked for. A
 * socket that is not connected comes here with each packet, and writes once. */
static __always_inline void note(void *ctx, const struct service_key *asked, const struct target *target, int connects)
{
	struct reverse_key key __attribute__((aligned(8))) = {};
	struct reverse r = {};

	reverse_key_of(&key, bpf_get_socket_cookie(ctx), target->address, target->port_be, asked->protocol);
	((__u64 *)r.address)[0] = ((__u64 *)asked->address)[0];
	((__u64 *)r.address)[1] = ((__u64 *)asked->address)[1];
	r.port_be = asked->port_be;
	r.connected = connects;
	r.seal = seal_value(&r, SEALED_WORDS(r), seal_reverse_key(&key));
	if (!connects) {
		volatile struct reverse *had = bpf_map_lookup_elem(&reverse, &key);

		/* The seal stands for all the rest. */
		if (had && had->seal == r.seal)
			return;
	}
	bpf_map_update_elem(&reverse, &key, &r, 0);
}

/* find_asked says what the socket calls a peer, if it is a backend that it
 * reached through a service. address and port are replaced. */
static __always_inline int find_asked(void *ctx, __u64 *address, __be16 *port_be, __u8 protocol)
{
	struct reverse_key key __attribute__((aligned(8))) = {};
	struct reverse r;
	void *value;

	reverse_key_of(&key, bpf_get_socket_cookie(ctx), address, *port_be, protocol);
	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		value = bpf_map_lookup_elem(&reverse, &key);
		if (!value)
			return 0;
		if (take((__u64 *)&r, value, SEALED_WORDS(r), seal_reverse_key(&key)) != r.seal)
			continue;
		address[0] = ((__u64 *)r.address)[0];
		address[1] = ((__u64 *)r.address)[1];
		*port_be = r.port_be;
		return 1;
	}
	return 0;
}

#endif
