/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs need of the kernel, and nothing else: the numbers and
 * layouts below are its stable ABI. Written here so that the objects do not
 * depend on the headers that the building machine has.
 */
#ifndef CAUSEWAY_KERNEL_H
#define CAUSEWAY_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;
/* Network byte order; a field of it ends in _be. */
typedef __u16 __be16;
typedef __u32 __be32;

#define __always_inline inline __attribute__((always_inline))
#define SEC(name) __attribute__((section(name), used))

/* A map is declared by the types of its members; loaders read them from BTF. */
#define __type(name, type) typeof(type) *name
#define __uint(name, number) int(*name)[number]

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_F_NO_PREALLOC = 1,
	AF_INET6 = 10,
	SOCK_STREAM = 1,
	SOCK_DGRAM = 2,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	ECONNREFUSED = 111,
};

/* The context of the hooks with an address: what the caller asked for, or what
 * it is about to be told. */
struct bpf_sock_addr {
	__u32 user_family;
	__be32 user_ip4;
	__be32 user_ip6[4];
	__u32 user_port; /* the lower half holds the port, in network order */
	__u32 family;
	__u32 type;
	__u32 protocol;
};

/* The context of the hooks without one. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__be32 src_ip4;
	__be32 src_ip6[4];
	__u32 src_port; /* host order */
	__be16 dst_port;
	__u16 pad;
	__be32 dst_ip4;
	__be32 dst_ip6[4];
	__u32 state;
};

/* Helpers are called by number. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static __u64 (*const bpf_get_socket_cookie)(void *ctx) = (void *)46;
static __u64 (*const bpf_get_netns_cookie)(void *ctx) = (void *)122;
/* 5.18; the loader takes its calls out on older kernels. */
static int (*const bpf_set_retval)(int retval) = (void *)187;

#endif
