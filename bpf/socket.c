//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Socket hooks: what a program asks of a service goes to a backend before the
 * first packet is made, so no packet is ever rewritten, and what comes back is
 * named as the program asked for it. What is no service of ours, or has no
 * backend, is left as it is: whatever served it before still does.
 *
 * An IPv6 socket may use IPv4 as ::ffff:a.b.c.d. The kernel calls the hooks of
 * IPv6 with it, but for sendmsg, where it calls that of IPv4. The key is the
 * same everywhere, and a backend is of the family of its service.
 */
#include "include/affinity.h"
#include "include/reverse.h"

/* Make the enums part of the object, so that Go gets their values. */
const enum layout *unused_layout __attribute__((unused));
const enum group_bits *unused_group_bits __attribute__((unused));
const enum service_flags *unused_service_flags __attribute__((unused));
const enum backend_state *unused_backend_state __attribute__((unused));
const enum affinity_kind *unused_affinity_kind __attribute__((unused));
const enum reverse_kinds *unused_reverse_kinds __attribute__((unused));

/* What the hooks return. */
#define REFUSE 0
#define PROCEED 1

/* The first 12 bytes of ::ffff:a.b.c.d, as the words they are in memory. */
#define MAPPED_WORD0 0ULL
#define MAPPED_WORD2 0xffff0000U

static __always_inline int is_mapped(const __u64 *address)
{
	return address[0] == MAPPED_WORD0 && (__u32)address[1] == MAPPED_WORD2;
}

static __always_inline int is_translated(const struct bpf_sock_addr *ctx)
{
	return (ctx->protocol == IPPROTO_TCP && ctx->type == SOCK_STREAM) ||
	       (ctx->protocol == IPPROTO_UDP && ctx->type == SOCK_DGRAM);
}

static __always_inline void read4(const struct bpf_sock_addr *ctx, __u64 *address)
{
	address[0] = MAPPED_WORD0;
	address[1] = (__u64)ctx->user_ip4 << 32 | MAPPED_WORD2;
}

static __always_inline void read6(const struct bpf_sock_addr *ctx, __u64 *address)
{
	address[0] = (__u64)ctx->user_ip6[1] << 32 | ctx->user_ip6[0];
	address[1] = (__u64)ctx->user_ip6[3] << 32 | ctx->user_ip6[2];
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const __u64 *address, __be16 port_be)
{
	ctx->user_ip4 = address[1] >> 32;
	ctx->user_port = port_be;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const __u64 *address, __be16 port_be)
{
	ctx->user_ip6[0] = address[0];
	ctx->user_ip6[1] = address[0] >> 32;
	ctx->user_ip6[2] = address[1];
	ctx->user_ip6[3] = address[1] >> 32;
	ctx->user_port = port_be;
}

enum verdict {
	LEAVE,
	TRANSLATE,
	REFUSED,
};

/* forward decides about one address that a socket asks for. A socket that is
 * not connected asks with every packet, and keeps its backend. */
static __always_inline enum verdict forward(struct bpf_sock_addr *ctx, struct service_key *key, struct target *target, int connects)
{
	enum outcome outcome = ABSENT;
	struct service s;

	key->port_be = ctx->user_port;
	key->protocol = ctx->protocol;
	for (__u32 attempt = 0; attempt < ATTEMPTS; attempt++) {
		outcome = read_service(key, &s);
		if (outcome == FOUND && (s.session_timeout || !connects))
			outcome = choose_kept(ctx, &s, target);
		else if (outcome == FOUND)
			outcome = choose(&s, target);
		if (is_final(outcome, attempt))
			break;
	}
	if (outcome == EMPTY && (s.flags & SERVICE_REFUSES))
		return REFUSED;
	if (outcome != FOUND || is_mapped(target->address) != is_mapped((__u64 *)key->address))
		return LEAVE;
	if (is_reversed(key->protocol))
		note(ctx, key, target, connects);
	return TRANSLATE;
}

/* refuse has the call fail as if nobody listened. Without bpf_set_retval it
 * fails with EPERM. */
static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline int forward4(struct bpf_sock_addr *ctx, int connects)
{
	struct service_key key __attribute__((aligned(8))) = {};
	struct target target = {};

	if (!is_translated(ctx))
		return PROCEED;
	read4(ctx, (__u64 *)key.address);
	switch (forward(ctx, &key, &target, connects)) {
	case REFUSED:
		return refuse();
	case TRANSLATE:
		write4(ctx, target.address, target.port_be);
		break;
	default:
		break;
	}
	return PROCEED;
}

static __always_inline int forward6(struct bpf_sock_addr *ctx, int connects)
{
	struct service_key key __attribute__((aligned(8))) = {};
	struct target target = {};

	if (!is_translated(ctx))
		return PROCEED;
	read6(ctx, (__u64 *)key.address);
	switch (forward(ctx, &key, &target, connects)) {
	case REFUSED:
		return refuse();
	case TRANSLATE:
		write6(ctx, target.address, target.port_be);
		break;
	default:
		break;
	}
	return PROCEED;
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	__u64 address[2];

	read4(ctx, address);
	if (find_asked(ctx, address, &port_be, ctx->protocol))
		write4(ctx, address, port_be);
	return PROCEED;
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	__u64 address[2];

	read6(ctx, address);
	if (find_asked(ctx, address, &port_be, ctx->protocol))
		write6(ctx, address, port_be);
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx) { return forward4(ctx, 1); }

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx) { return forward6(ctx, 1); }

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx) { return forward4(ctx, 0); }

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx) { return forward6(ctx, 0); }

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx) { return back4(ctx); }

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx) { return back6(ctx); }

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx) { return back4(ctx); }

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx) { return back6(ctx); }

/* A connected socket that ends takes its entry along. Those of sockets that
 * never connected are left to the least recently used. */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct reverse_key key __attribute__((aligned(8))) = {};
	__be16 port_be = ctx->dst_port;
	__u64 address[2];

	if (!port_be || !is_reversed(ctx->protocol))
		return PROCEED;
	if (ctx->family == AF_INET6) {
		address[0] = (__u64)ctx->dst_ip6[1] << 32 | ctx->dst_ip6[0];
		address[1] = (__u64)ctx->dst_ip6[3] << 32 | ctx->dst_ip6[2];
	} else {
		address[0] = MAPPED_WORD0;
		address[1] = (__u64)ctx->dst_ip4 << 32 | MAPPED_WORD2;
	}
	reverse_key_of(&key, bpf_get_socket_cookie(ctx), address, port_be, ctx->protocol);
	bpf_map_delete_elem(&reverse, &key);
	return PROCEED;
}

char license_of_programs[] SEC("license") = "Dual BSD/GPL";
