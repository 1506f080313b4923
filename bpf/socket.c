//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Socket hooks: a connection to a service becomes one to a backend before the
 * first packet, so no packet is ever rewritten. What is no service of ours, or
 * has no backend, is left as it is: whatever served it before still does.
 */
#include "include/service.h"

/* Makes the enum part of the object, so that Go gets its values. */
const enum layout *unused_layout __attribute__((unused));

/* What a connect hook returns: go on. These programs never refuse. */
#define PROCEED 1

static __always_inline int is_tcp(const struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

/* The first 12 bytes of ::ffff:a.b.c.d, as the words they are in memory. */
#define MAPPED_WORD0 0ULL
#define MAPPED_WORD2 0xffff0000U

static __always_inline int is_mapped(const __u64 *address)
{
	return address[0] == MAPPED_WORD0 && (__u32)address[1] == MAPPED_WORD2;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct service_key key __attribute__((aligned(8))) = {};
	struct target target = {};
	__u64 *address = (__u64 *)key.address;

	if (!is_tcp(ctx))
		return PROCEED;
	address[0] = MAPPED_WORD0;
	address[1] = (__u64)ctx->user_ip4 << 32 | MAPPED_WORD2;
	key.port_be = ctx->user_port;
	key.protocol = IPPROTO_TCP;
	if (!find(&key, &target) || !is_mapped(target.address))
		return PROCEED;
	ctx->user_ip4 = target.address[1] >> 32;
	ctx->user_port = target.port_be;
	return PROCEED;
}

/* An IPv6 socket may dial IPv4 as ::ffff:a.b.c.d: the kernel comes here with
 * it, the key is the same as in connect4, and so is the family of the backend. */
SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct service_key key __attribute__((aligned(8))) = {};
	struct target target = {};
	__u64 *address = (__u64 *)key.address;

	if (!is_tcp(ctx))
		return PROCEED;
	address[0] = (__u64)ctx->user_ip6[1] << 32 | ctx->user_ip6[0];
	address[1] = (__u64)ctx->user_ip6[3] << 32 | ctx->user_ip6[2];
	key.port_be = ctx->user_port;
	key.protocol = IPPROTO_TCP;
	if (!find(&key, &target) || is_mapped(target.address) != is_mapped(address))
		return PROCEED;
	ctx->user_ip6[0] = target.address[0];
	ctx->user_ip6[1] = target.address[0] >> 32;
	ctx->user_ip6[2] = target.address[1];
	ctx->user_ip6[3] = target.address[1] >> 32;
	ctx->user_port = target.port_be;
	return PROCEED;
}

char license_of_programs[] SEC("license") = "Dual BSD/GPL";
