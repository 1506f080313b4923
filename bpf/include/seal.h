/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef CAUSEWAY_SEAL_H
#define CAUSEWAY_SEAL_H

#include "types.h"

/* The number of words of a value that its seal covers: all but the seal. */
#define SEALED_WORDS(type) (sizeof(type) / 8 - 1)

static __always_inline __u64 seal_step(__u64 seal, __u64 word)
{
	seal = (seal ^ word) * SEAL_FACTOR;
	return seal ^ (seal >> 32);
}

/*
 * A seal is made in lanes, word after word in turn, so that the processor can
 * work on all of them at once; then the lanes are joined.
 */
struct lanes {
	__u64 lane[SEAL_LANES];
};

static __always_inline __u64 join(const struct lanes *l)
{
	__u64 seal = l->lane[0];

#pragma unroll
	for (__u32 i = 1; i < SEAL_LANES; i++)
		seal = seal_step(seal, l->lane[i]);
	return seal;
}

/*
 * take copies a value out of its map and returns the seal that the copy should
 * carry, given the seal of its key. The loads are volatile: were the compiler
 * to read the map a second time, it would use what was never checked.
 */
static __always_inline __u64 take(__u64 *copy, const void *value, __u32 words, __u64 seal)
{
	const volatile __u64 *from = value;
	struct lanes l = {{seal}};

#pragma unroll
	for (__u32 i = 0; i < words; i++) {
		copy[i] = from[i];
		l.lane[i % SEAL_LANES] = seal_step(l.lane[i % SEAL_LANES], copy[i]);
	}
	copy[words] = from[words];
	return join(&l);
}

/* seal_value returns the seal of a value that a program makes. */
static __always_inline __u64 seal_value(const void *value, __u32 words, __u64 seal)
{
	const __u64 *from = value;
	struct lanes l = {{seal}};

#pragma unroll
	for (__u32 i = 0; i < words; i++)
		l.lane[i % SEAL_LANES] = seal_step(l.lane[i % SEAL_LANES], from[i]);
	return join(&l);
}

static __always_inline __u64 seal_service_key(const struct service_key *key)
{
	const __u64 *address = (const __u64 *)key->address;
	const __u32 *rest = (const __u32 *)&key->port_be;

	return seal_step(seal_step(seal_step(LAYOUT_VERSION, address[0]), address[1]), *rest);
}

static __always_inline __u64 seal_slot_key(const struct slot_key *key)
{
	__u64 group_and_index = (__u64)key->group << 32 | key->index;

	return seal_step(seal_step(LAYOUT_VERSION, key->service), group_and_index);
}

static __always_inline __u64 seal_affinity_key(const struct affinity_key *key)
{
	__u64 kind_and_service = (__u64)key->kind << 32 | key->service;

	return seal_step(seal_step(LAYOUT_VERSION, key->client), kind_and_service);
}

static __always_inline __u64 seal_reverse_key(const struct reverse_key *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 seal = LAYOUT_VERSION;

#pragma unroll
	for (__u32 i = 0; i < sizeof(*key) / 8; i++)
		seal = seal_step(seal, words[i]);
	return seal;
}

static __always_inline __u64 seal_backend_key(__u32 id)
{
	return seal_step(LAYOUT_VERSION, id);
}

#endif
