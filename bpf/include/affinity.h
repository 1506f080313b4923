/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Clients that keep the backend that they have. */
#ifndef CAUSEWAY_AFFINITY_H
#define CAUSEWAY_AFFINITY_H

#include "service.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct backend);
} backend SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinity SEC(".maps");

#define SECOND 1000000000ULL

/* keep notes which backend a client has. Without room it goes without: the next
 * draw is as good. */
static __always_inline void keep(const struct affinity_key *key, __u64 now, __u32 backend_id)
{
	struct affinity a = {.last_use = now, .backend = backend_id};

	a.seal = seal_value(&a, SEALED_WORDS(a), seal_affinity_key(key));
	bpf_map_update_elem(&affinity, key, &a, 0);
}

/* follow reads the backend with this id, if it is still one of the service. */
static __always_inline enum outcome follow(__u32 service_id, __u32 id, struct target *target)
{
	struct backend b;
	void *value = bpf_map_lookup_elem(&backend, &id);

	if (!value)
		return ABSENT;
	if (take((__u64 *)&b, value, SEALED_WORDS(b), seal_backend_key(id)) != b.seal)
		return TORN;
	if (b.service != service_id || b.state != BACKEND_LIVE)
		return ABSENT;
	target->address[0] = ((__u64 *)b.address)[0];
	target->address[1] = ((__u64 *)b.address)[1];
	target->port_be = b.port_be;
	target->backend = id;
	return FOUND;
}

/* renewal returns how old a use may become before it is written again. */
static __always_inline __u64 renewal(__u32 session_timeout)
{
	__u64 eighth = session_timeout * (SECOND / 8);

	return eighth < SECOND ? eighth : SECOND;
}

/*
 * choose_kept gives a client the backend that it has, and one of its own when it
 * has none, or that has left, or too long ago. The time of the last use is
 * written once a second or so: a client that comes often costs no write.
 */
static __always_inline enum outcome choose_kept(void *ctx, const struct service *s, struct target *target)
{
	struct affinity_key key = {.service = s->id};
	__u64 now = 0, until = ~0ULL;
	enum outcome outcome;
	struct affinity a;
	void *value;

	if (s->session_timeout) {
		key.kind = AFFINITY_CLIENT;
		key.client = bpf_get_netns_cookie(ctx);
		now = bpf_ktime_get_ns();
	} else {
		key.kind = AFFINITY_SOCKET;
		key.client = bpf_get_socket_cookie(ctx);
	}
	value = bpf_map_lookup_elem(&affinity, &key);
	if (value) {
		if (take((__u64 *)&a, value, SEALED_WORDS(a), seal_affinity_key(&key)) != a.seal)
			return TORN;
		if (s->session_timeout)
			until = a.last_use + s->session_timeout * SECOND;
		outcome = now < until ? follow(s->id, a.backend, target) : ABSENT;
		if (outcome == TORN)
			return TORN;
		if (outcome == FOUND) {
			if (s->session_timeout && now > a.last_use + renewal(s->session_timeout))
				keep(&key, now, a.backend);
			return FOUND;
		}
	}
	outcome = choose(s, target);
	if (outcome == FOUND)
		keep(&key, now, target->backend);
	return outcome;
}

#endif
