//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A reader for tests, fast enough to meet values that are half written: it looks
 * up one of the services 10.96.0.1 to 10.96.0.READ_SERVICES, port 80, over and
 * over. The third byte of a backend's address is the number of its service.
 */
#include "include/service.h"

enum reading {
	READ_SERVICES = 8,
	READ_FOUND = 0,
	READ_ABSENT,
	READ_EMPTY,
	READ_TORN,   /* caught by the seal */
	READ_WRONG,  /* a backend of another service: must stay 0 */
	READ_MISSED, /* not found in all attempts: must stay 0 */
	READINGS,
};

struct {
	__uint(type, 2 /* array */);
	__uint(max_entries, READINGS);
	__type(key, __u32);
	__type(value, __u64);
} readings SEC(".maps");

const enum reading *unused_reading __attribute__((unused));

static __always_inline void note(__u32 reading)
{
	__u64 *count = bpf_map_lookup_elem(&readings, &reading);

	if (count)
		__sync_fetch_and_add(count, 1);
}

SEC("tc")
int read_one(void *ctx __attribute__((unused)))
{
	struct service_key key __attribute__((aligned(8))) = {};
	__u64 *address = (__u64 *)key.address;
	__u64 number = 1 + draw(READ_SERVICES);
	struct target target = {};
	enum outcome outcome = ABSENT;
	struct service s;

	address[1] = number << 56 | (__u64)(96 << 8 | 10) << 32 | 0xffff0000U;
	key.port_be = 80 << 8;
	key.protocol = IPPROTO_TCP;
	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		outcome = read_service(&key, &s);
		if (outcome == FOUND)
			outcome = choose(&s, &target);
		if (attempt == 0)
			note(outcome);
		if (is_final(outcome, attempt))
			break;
	}
	if (outcome != FOUND)
		note(READ_MISSED);
	else if ((target.address[1] >> 48 & 0xff) != number)
		note(READ_WRONG);
	return 0;
}

char license_of_programs[] SEC("license") = "Dual BSD/GPL";
