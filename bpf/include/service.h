/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of services, and how a program finds a backend in them. */
#ifndef CAUSEWAY_SERVICE_H
#define CAUSEWAY_SERVICE_H

#include "seal.h"

/* The loader sets max_entries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct service_key);
	__type(value, struct service);
} service SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct slot_key);
	__type(value, struct slot);
} slot SEC(".maps");

/* A value that is written at every moment of four lookups does not exist. */
#define ATTEMPTS 4

enum outcome {
	FOUND,
	ABSENT, /* no such service */
	EMPTY,  /* the service has no backend */
	TORN,   /* a value changed while it was read */
};

struct target {
	__u64 address[2];
	__be16 port_be;
	__u16 pad;
	__u32 backend;
};

#define GROUP_NUMBER ((1ULL << GROUP_NUMBER_BITS) - 1)

/* draw returns a number below limit. */
static __always_inline __u32 draw(__u32 limit)
{
	return (__u64)bpf_get_prandom_u32() * limit >> 32;
}

/* below is all ones when a < b, else 0; both fit in 63 bits. The compiler must
 * not see that it is one of two, or it makes branches of it. */
static __always_inline __u64 below(__u64 a, __u64 b)
{
	__s64 word = a - b;

	asm volatile("" : "+r"(word));
	word >>= 63;
	asm volatile("" : "+r"(word));
	return word;
}

/*
 * pick draws a group and one of its slots. It has no branches: with them the
 * verifier would follow every combination of groups, which takes it seconds.
 */
static __always_inline void pick(const struct service *service, struct slot_key *slot)
{
	__u64 number = draw(service->total), passed = ~0ULL, count = 0, group = 0;

#pragma unroll
	for (__u32 i = 0; i < MAX_GROUPS; i++) {
		__u64 bits = service->groups[i];
		__u64 under = below(number, bits >> GROUP_UNTIL_SHIFT & GROUP_NUMBER);

		count |= bits & GROUP_NUMBER & under & passed;
		passed &= ~under;
		group += passed & 1;
	}
	slot->service = service->id;
	slot->group = group;
	slot->index = draw(count);
}

/* look_up reads the backend in a slot. */
static __always_inline enum outcome look_up(const struct slot_key *key, struct target *target)
{
	struct slot s;
	void *value;

	value = bpf_map_lookup_elem(&slot, key);
	if (!value || take((__u64 *)&s, value, SEALED_WORDS(s), seal_slot_key(key)) != s.seal)
		return TORN;
	target->address[0] = ((__u64 *)s.address)[0];
	target->address[1] = ((__u64 *)s.address)[1];
	target->port_be = s.port_be;
	target->backend = s.backend;
	return FOUND;
}

/* read_service copies a service. */
static __always_inline enum outcome read_service(const struct service_key *key, struct service *s)
{
	void *value = bpf_map_lookup_elem(&service, key);

	if (!value)
		return ABSENT;
	if (take((__u64 *)s, value, SEALED_WORDS(*s), seal_service_key(key)) != s->seal)
		return TORN;
	return s->total ? FOUND : EMPTY;
}

/* choose draws a backend of a service that has some. */
static __always_inline enum outcome choose(const struct service *s, struct target *target)
{
	struct slot_key chosen = {};

	pick(s, &chosen);
	if (chosen.index >= s->inlined)
		return look_up(&chosen, target);

	target->address[0] = 0;
	target->address[1] = 0;
	target->port_be = 0;
	target->backend = 0;
	/* Offsets into the stack must be constants on old kernels. */
#pragma unroll
	for (__u32 i = 0; i < MAX_INLINE; i++) {
		__u64 is_chosen = below(chosen.index, i + 1) & ~below(chosen.index, i);

		target->address[0] |= ((__u64 *)s->backends[i].address)[0] & is_chosen;
		target->address[1] |= ((__u64 *)s->backends[i].address)[1] & is_chosen;
		target->port_be |= s->backends[i].port_be & is_chosen;
		target->backend |= s->backends[i].id & is_chosen;
	}
	return FOUND;
}

/* is_final says whether an outcome stands. A miss counts only the second time:
 * while a key is rewritten, a lookup can pass between its old and its new element. */
static __always_inline int is_final(enum outcome outcome, __u32 attempt)
{
	return outcome == FOUND || outcome == EMPTY || (outcome == ABSENT && attempt > 0);
}

#endif
