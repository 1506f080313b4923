/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs read of a packet inside the tunnel. */
#ifndef CAUSEWAY_INNER_H
#define CAUSEWAY_INNER_H

#include "types.h"

/* Headers as they are on the wire. */
struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type_be;
};

struct ipv4 {
	__u8 version_length; /* in words of 4 bytes */
	__u8 tos;
	__be16 length_be;
	__be16 id_be;
	__be16 fragment_be;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum_be;
	__be32 source;
	__be32 destination;
};

struct ipv6 {
	__be32 version_class_flow;
	__be16 length_be; /* without this header */
	__u8 next;
	__u8 hop_limit;
	__be32 source[4];
	__be32 destination[4];
};

struct extension {
	__u8 next;
	__u8 length; /* in words of 8 bytes, without the first */
	__u8 type;
	__u8 left; /* of a routing header: the stops that are ahead */
	__be16 fragment_be; /* of a fragment header, the first half of what left begins */
};

#define ETHERTYPE_IPV4_BE 0x0008
#define ETHERTYPE_IPV6_BE 0xdd86
#define IPV4_DONT_FRAGMENT_BE 0x0040
#define IPV4_OFFSET_BE 0xff1f

enum {
	IPPROTO_HOP = 0,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_AH = 51,
	IPPROTO_DESTINATION = 60,

	OPTION_END = 0,
	OPTION_NOP = 1,
	OPTION_LOOSE_ROUTE = 131,
	OPTION_STRICT_ROUTE = 137,

	/* More than this many extension headers have no use. */
	MAX_EXTENSIONS = 8,
	/* Nor do more options fit than this. */
	MAX_OPTIONS = 40,
};

/* The first 12 bytes of ::ffff:a.b.c.d, as the words they are in memory. */
#define MAPPED_WORD0 0ULL
#define MAPPED_WORD2 0xffff0000U

struct inner {
	__u64 source[2]; /* IPv4 as ::ffff:a.b.c.d */
	__u64 destination[2];
	__u32 is_v4;
	__u32 keeps_whole; /* routers may not cut it into fragments */
	__u32 upper;       /* where the upper layer begins; 0: not in this fragment */
	__u8 family;       /* 4, 6, or 0 before the addresses are known */
	__u8 protocol;     /* of the upper layer */
	__u8 routed;       /* has stops ahead that its sender has named */
};

static __always_inline __u16 from_be16(__be16 value) { return __builtin_bswap16(value); }

static __always_inline __u64 mapped(__be32 address) { return (__u64)address << 32 | MAPPED_WORD2; }

/* reach makes the first bytes of a packet readable, if it has so many. */
static __always_inline int reach(struct __sk_buff *skb, __u32 length)
{
	if (skb->len < length)
		return 0;
	if ((void *)(long)skb->data + length <= (void *)(long)skb->data_end)
		return 1;
	return bpf_skb_pull_data(skb, length) == 0;
}

/* fits says whether a packet of this length, as its header has it, is there. A
 * large one that the kernel has put together may have no room for its length. */
static __always_inline int fits(struct __sk_buff *skb, __u32 length)
{
	__u32 there = skb->len - sizeof(struct ethernet);

	return length <= there;
}

/* read_options looks for a source route among the options of IPv4. */
static __always_inline enum reason read_options(struct __sk_buff *skb, struct inner *in, __u32 at, __u32 end)
{
	__u8 type, length;

	for (__u32 i = 0; i < MAX_OPTIONS; i++) {
		if (at >= end || bpf_skb_load_bytes(skb, at, &type, 1) || type == OPTION_END)
			return PASSED;
		if (type == OPTION_NOP) {
			at++;
			continue;
		}
		if (at + 1 >= end || bpf_skb_load_bytes(skb, at + 1, &length, 1) || length < 2 || at + length > end)
			return DROP_MALFORMED;
		if (type == OPTION_LOOSE_ROUTE || type == OPTION_STRICT_ROUTE)
			in->routed = 1;
		at += length;
	}
	return PASSED;
}

static __always_inline enum reason read_ipv4(struct __sk_buff *skb, struct inner *in)
{
	__u32 start = sizeof(struct ethernet), header, length;
	struct ipv4 *ip;

	if (!reach(skb, start + sizeof(*ip)))
		return DROP_MALFORMED;
	ip = (void *)(long)skb->data + start;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return DROP_MALFORMED;
	if (ip->version_length >> 4 != 4)
		return DROP_MALFORMED;
	in->source[0] = in->destination[0] = MAPPED_WORD0;
	in->source[1] = mapped(ip->source);
	in->destination[1] = mapped(ip->destination);
	in->family = 4;
	in->is_v4 = 1;
	in->protocol = ip->protocol;
	in->keeps_whole = ip->fragment_be & IPV4_DONT_FRAGMENT_BE;
	header = (ip->version_length & 15) * 4;
	if (!(ip->fragment_be & IPV4_OFFSET_BE))
		in->upper = start + header;
	length = from_be16(ip->length_be);
	if (!length && skb->gso_size)
		length = skb->len - start;
	if (header < sizeof(*ip) || length < header || !fits(skb, length))
		return DROP_MALFORMED;
	if (header == sizeof(*ip))
		return PASSED;
	return read_options(skb, in, start + sizeof(*ip), start + header);
}

/* read_extensions finds the upper layer, and stops that are ahead. */
static __always_inline enum reason read_extensions(struct __sk_buff *skb, struct inner *in, __u32 at, __u32 end)
{
	struct extension e;

	for (__u32 i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 protocol = in->protocol;
		__u32 length;

		if (protocol != IPPROTO_HOP && protocol != IPPROTO_ROUTING && protocol != IPPROTO_FRAGMENT &&
		    protocol != IPPROTO_AH && protocol != IPPROTO_DESTINATION) {
			in->upper = at;
			return PASSED;
		}
		if (at + 8 > end || bpf_skb_load_bytes(skb, at, &e, sizeof(e)))
			return DROP_MALFORMED;
		length = (e.length + 1) * 8;
		if (protocol == IPPROTO_FRAGMENT)
			length = 8;
		if (protocol == IPPROTO_AH)
			length = (e.length + 2) * 4;
		in->protocol = e.next;
		if (protocol == IPPROTO_ROUTING && e.left)
			in->routed = 1;
		/* The offset is the upper 13 bits of the two bytes behind the type. */
		if (protocol == IPPROTO_FRAGMENT && ((e.type << 8 | e.left) & ~7))
			return PASSED;
		at += length;
		if (at > end)
			return DROP_MALFORMED;
	}
	return DROP_MALFORMED;
}

static __always_inline enum reason read_ipv6(struct __sk_buff *skb, struct inner *in)
{
	__u32 start = sizeof(struct ethernet), length;
	struct ipv6 *ip;

	if (!reach(skb, start + sizeof(*ip)))
		return DROP_MALFORMED;
	ip = (void *)(long)skb->data + start;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return DROP_MALFORMED;
	if ((ip->version_class_flow & 0xf0) != 0x60)
		return DROP_MALFORMED;
	in->source[0] = (__u64)ip->source[1] << 32 | ip->source[0];
	in->source[1] = (__u64)ip->source[3] << 32 | ip->source[2];
	in->destination[0] = (__u64)ip->destination[1] << 32 | ip->destination[0];
	in->destination[1] = (__u64)ip->destination[3] << 32 | ip->destination[2];
	in->family = 6;
	in->protocol = ip->next;
	in->keeps_whole = 1;
	length = sizeof(*ip) + from_be16(ip->length_be);
	if (length == sizeof(*ip) && skb->gso_size)
		length = skb->len - start;
	if (!fits(skb, length))
		return DROP_MALFORMED;
	return read_extensions(skb, in, start + sizeof(*ip), start + length);
}

/* read_inner reads a packet whose data begin with an Ethernet header. in must
 * be zero. A mapped address in a header of IPv6 has no place on a wire, and
 * would be taken for IPv4. */
static __always_inline enum reason read_inner(struct __sk_buff *skb, struct inner *in)
{
	struct ethernet *frame;
	enum reason reason;

	if (!reach(skb, sizeof(*frame)))
		return DROP_MALFORMED;
	frame = (void *)(long)skb->data;
	if ((void *)(frame + 1) > (void *)(long)skb->data_end)
		return DROP_MALFORMED;
	if (skb->vlan_present)
		return DROP_PROTOCOL;
	if (frame->type_be == ETHERTYPE_IPV4_BE)
		return read_ipv4(skb, in);
	if (frame->type_be != ETHERTYPE_IPV6_BE)
		return DROP_PROTOCOL;
	reason = read_ipv6(skb, in);
	if (reason != PASSED)
		return reason;
	if ((in->source[0] == MAPPED_WORD0 && (__u32)in->source[1] == MAPPED_WORD2) ||
	    (in->destination[0] == MAPPED_WORD0 && (__u32)in->destination[1] == MAPPED_WORD2))
		return DROP_MALFORMED;
	return PASSED;
}

/* is_of_link says whether a destination has a meaning on one link only. */
static __always_inline int is_of_link(const struct inner *in)
{
	__u8 first = in->destination[0], second = in->destination[0] >> 8;

	if (in->is_v4) {
		first = in->destination[1] >> 32;
		second = in->destination[1] >> 40;
		return first >= 224 || (first == 169 && second == 254);
	}
	return first == 0xff || (first == 0xfe && (second & 0xc0) == 0x80);
}

#endif
