/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that the programs share with Go. The Go types are generated from
 * here; there is no second definition.
 *
 * Most maps are hashes whose elements the kernel uses again at once, so a reader
 * may see a value half written, or the value of another key. Therefore nearly every
 * value ends with a seal: a checksum over its key and its other words. A reader
 * copies the value, checks the copy, and looks up again if the seal is wrong.
 * It holds in whatever order the kernel writes the bytes, which two equal
 * stamps around the value do not.
 */
#ifndef CAUSEWAY_TYPES_H
#define CAUSEWAY_TYPES_H

#include "kernel.h"

enum layout {
	/* Raise it with every change of a struct or of its meaning: maps that
	 * are pinned with another layout are filled anew beside the old ones. */
	LAYOUT_VERSION = 3,
	MAX_GROUPS = 8,
	MAX_INLINE = 3,
	SEAL_LANES = 4,
	/* Odd, so that a step of the seal loses nothing. */
	SEAL_FACTOR = 0x5bd1e995,
};

enum service_flags {
	/* Without a backend, clients are refused: a rule of the service excludes
	 * those that there are. Else the address is left alone. */
	SERVICE_REFUSES = 1,
};

enum backend_state {
	/* Serves whoever finds its id in a slot or keeps it by affinity. */
	BACKEND_LIVE = 0,
	/* Has left its service: nobody keeps it any more. */
	BACKEND_GONE = 1,
};

/* Bits of the variable reversed: for which sockets reverse entries are made. */
enum reverse_kinds {
	REVERSE_UDP = 1,
	REVERSE_TCP = 2,
};

/* An address and port that clients dial. IPv4 stands as ::ffff:a.b.c.d. */
struct service_key {
	__u8 address[16];
	__be16 port_be;
	__u8 protocol;
	__u8 pad;
};
_Static_assert(sizeof(struct service_key) == 20, "no hidden padding");

/*
 * A group is backends that are alike, in one word. Its slots are 0 to count - 1,
 * without holes. Go works out from weights, counts and tiers which groups are
 * used at all and how often: a draw below until, and not below the until of the
 * group before, is this group's. So the programs need no branch to find it.
 */
enum group_bits {
	GROUP_NUMBER_BITS = 22, /* of count, which is lowest, and of until */
	GROUP_UNTIL_SHIFT = 22,
	GROUP_WEIGHT_SHIFT = 44, /* share among the groups of its tier; 0: its count */
	GROUP_TIER_SHIFT = 60,   /* the lowest tier that has a backend is used */
};

/* A backend inside its service's value: saves two lookups. */
struct inline_backend {
	__u8 address[16];
	__u32 id;
	__be16 port_be;
	__u16 pad;
};
_Static_assert(sizeof(struct inline_backend) == 24, "no hidden padding");

struct service {
	__u32 id;         /* never used again while the maps live */
	__u32 generation; /* counts the writes of this value */
	__u32 session_timeout; /* seconds; 0: each connection chooses anew */
	__u16 flags;           /* enum service_flags */
	__u16 inlined; /* this many slots of the only group that has any stand
	                  in backends as well */
	__u32 total;   /* draws are below this; 0: no backend */
	__u32 pad;
	__u64 groups[MAX_GROUPS]; /* enum group_bits */
	struct inline_backend backends[MAX_INLINE];
	__u64 seal;
};
/* With the key and what the kernel adds it just fits into 256 bytes, the size in
 * which the kernel hands out its elements: larger, it would take twice as much. */
_Static_assert(sizeof(struct service) == 168, "no hidden padding");

struct slot_key {
	__u32 service;
	__u32 group;
	__u32 index;
};
_Static_assert(sizeof(struct slot_key) == 12, "no hidden padding");

/* The backend itself stands in its slot: to follow the id would be a third
 * lookup for every connection. */
struct slot {
	__u8 address[16];
	__u32 backend;
	__be16 port_be;
	__u16 pad;
	__u64 seal;
};
_Static_assert(sizeof(struct slot) == 32, "no hidden padding");

/* Keyed by an id that belongs to one service and one address, and is never
 * used again while the maps live. Read by clients that keep a backend. */
struct backend {
	__u8 address[16];
	__u32 service;
	__be16 port_be;
	__u8 protocol;
	__u8 state; /* enum backend_state */
	__u64 seal;
};
_Static_assert(sizeof(struct backend) == 32, "no hidden padding");

/* Who keeps a backend. */
enum affinity_kind {
	AFFINITY_SOCKET = 0, /* an unconnected UDP socket, by its cookie */
	AFFINITY_CLIENT = 1, /* all of a network namespace, by its cookie */
};

struct affinity_key {
	__u64 client;
	__u32 service;
	__u32 kind;
};
_Static_assert(sizeof(struct affinity_key) == 16, "no hidden padding");

struct affinity {
	__u64 last_use; /* ns since boot; 0 for a socket */
	__u32 backend;
	__u32 pad;
	__u64 seal;
};
_Static_assert(sizeof(struct affinity) == 24, "no hidden padding");

/* A socket, and a backend that it talks to. */
struct reverse_key {
	__u64 cookie;
	__u8 address[16];
	__be16 port_be;
	__u8 protocol;
	__u8 pad[5];
};
_Static_assert(sizeof(struct reverse_key) == 32, "no hidden padding");

/* What the socket calls that backend: the service's address and port. */
struct reverse {
	__u8 address[16];
	__be16 port_be;
	__u8 connected; /* 1: the socket never chooses again by itself */
	__u8 pad[5];
	__u64 seal;
};
_Static_assert(sizeof(struct reverse) == 32, "no hidden padding");

/*
 * Packets between clusters. A wrong identity or node must never be used, and
 * the values are small: the facts about an address are one word, so a copy of
 * them cannot be half old, and the seal says whose they are. The seal costs no
 * memory, as the kernel hands out elements of 96 bytes either way. What is in
 * the trie of ranges needs none: there a value is written before it can be
 * found, and its memory is used again only when all readers have passed.
 */
enum packet_layout {
	/* As LAYOUT_VERSION, for the maps of packets. */
	PACKET_LAYOUT_VERSION = 2,
	/* Bits of an address's word: the identity is lowest. */
	ADDRESS_IDENTITY_BITS = 24,
	ADDRESS_CLUSTER_SHIFT = 24,
	ADDRESS_CLUSTER_BITS = 16,
	ADDRESS_HOST_SHIFT = 40,
	ADDRESS_HOST_BITS = 24,
	/* The type of the frames by which an agent sees that the programs run: one
	 * that is free for local use (IEEE 802). */
	SELF_TEST_TYPE = 0x88b5,
};

/* Which way a packet goes. */
enum direction {
	TO_MESH = 0,
	FROM_MESH = 1,
	DIRECTIONS = 2,
};

/* What became of a packet, and why. Numbers may be added at the end only: the
 * counters outlive the programs. */
enum reason {
	PASSED = 0,
	PASSED_LATE = 1,       /* from a pod of the peer that is not known yet */
	DROP_MALFORMED = 2,    /* truncated, or lengths that contradict each other */
	DROP_PROTOCOL = 3,     /* neither IPv4 nor IPv6 */
	DROP_LINK_SCOPE = 4,   /* multicast, broadcast or link-local */
	DROP_TUNNEL = 5,       /* the kernel gave or took no tunnel key */
	DROP_NODE = 6,         /* no node of a peer at the tunnel's other end */
	DROP_SOURCE = 7,       /* to: no address of this node; from: none of the peer */
	DROP_CLUSTER = 8,      /* the source belongs to another cluster than the node */
	DROP_IDENTITY = 9,     /* the source is known with another identity */
	DROP_NUMBER = 10,      /* the source is not known, the identity not its cluster's */
	DROP_DESTINATION = 11, /* to: not known; from: neither a pod here nor this node */
	DROP_ROUTED = 12,      /* source routing would lead it on */
	DROP_UNSTABLE = 13,    /* a value changed at every moment it was read */
	DROP_SELF_TEST = 14,   /* the agent's own, to see that the programs run */
	REASONS = 15,
};

/* An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d. */
struct address_key {
	__u8 address[16];
};
_Static_assert(sizeof(struct address_key) == 16, "no hidden padding");

/* Who is behind an address: enum packet_layout has the bits. The host is the
 * index of the node's underlay address, 0 when it is not known. */
struct address {
	__u64 bits;
	__u64 seal;
};
_Static_assert(sizeof(struct address) == 16, "no hidden padding");

/* An underlay address that is a node's, or that addresses are said to be
 * behind. */
struct host {
	__u32 index;   /* in the map node; never 0 */
	__u32 cluster; /* of the peer whose node has it; 0: none has */
	__u64 seal;
};
_Static_assert(sizeof(struct host) == 16, "no hidden padding");

/* Where packets for a host's pods go. */
struct node {
	__u8 tunnel[16]; /* IPv4 as ::ffff:a.b.c.d; 0: nowhere */
	__u32 cluster;
	__u32 pad;
	__u64 seal;
};
_Static_assert(sizeof(struct node) == 32, "no hidden padding");

struct range_key {
	__u32 prefix_bits; /* of the mapped form */
	__u8 address[16];
};
_Static_assert(sizeof(struct range_key) == 20, "no hidden padding");

struct range {
	__u32 cluster;
};

/* What this node is. All zero: not known yet. */
struct settings {
	__u32 hosts[2];   /* its own indexes in the map node; 0: none */
	__be32 local_v4;  /* its underlay addresses; 0: none */
	__u16 local_bits; /* of an identity, that a cluster gives out itself */
	__u16 cluster;    /* its own */
	__u8 local_v6[16];
	__u64 seal;
};
_Static_assert(sizeof(struct settings) == 40, "no hidden padding");

/* Of one direction and reason, on one processor. */
struct counter {
	__u64 packets;
	__u64 bytes;
	__u64 lost_events; /* that found the ring buffer full */
	__u64 next_event;  /* ns since boot, at a steady rate */
};
_Static_assert(sizeof(struct counter) == 32, "no hidden padding");

/* A packet that was dropped, one of a sample. */
struct packet_event {
	__u64 time; /* ns since boot */
	__u8 source[16];
	__u8 destination[16];
	__u8 tunnel[16];  /* from: the outer source; 0: not known */
	__u32 identity;   /* from: what the tunnel says; to: the source's; 0: none */
	__u32 known;      /* the source's identity in the map; 0: not there */
	__u32 length;     /* bytes, of the inner frame */
	__be16 source_port_be; /* 0 both: none, or not in this fragment */
	__be16 destination_port_be;
	__u16 cluster;   /* from: the node's; to: the destination's; 0: not known */
	__u8 family;     /* 4, 6, or 0 when the addresses are not known */
	__u8 protocol;   /* of what is behind the extension headers */
	__u8 direction;  /* enum direction */
	__u8 reason;     /* enum reason */
	__u8 pad[2];
};
_Static_assert(sizeof(struct packet_event) == 80, "no hidden padding");

#endif
