/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What became of packets: all of them counted, some of those dropped shown. */
#ifndef CAUSEWAY_RECORD_H
#define CAUSEWAY_RECORD_H

#include "inner.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DIRECTIONS * REASONS);
	__type(key, __u32);
	__type(value, struct counter);
} counter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} event SEC(".maps");

/* The time between two events of a direction and reason on one processor, in ns,
 * and how many may come at once after a pause. The loader knows how many
 * processors there are. */
const volatile __u64 event_interval = 100000000;
const volatile __u64 event_burst = 10;

/* What is known of a packet when it is dropped. */
struct known {
	__u64 tunnel[2];
	__u32 identity;
	__u32 source_identity;
	__u32 cluster;
};

static __always_inline struct counter *count(struct __sk_buff *skb, enum direction direction, enum reason reason)
{
	__u32 index = direction * REASONS + reason;
	struct counter *c = bpf_map_lookup_elem(&counter, &index);

	if (c) {
		c->packets++;
		c->bytes += skb->len;
	}
	return c;
}

/* is_shown says whether there may be another event now. next_event is where the
 * events would stand that were shown, had they come one an interval. */
static __always_inline int is_shown(struct counter *c, __u64 now)
{
	__u64 next = c->next_event > now ? c->next_event : now;

	if (next - now > (event_burst - 1) * event_interval)
		return 0;
	c->next_event = next + event_interval;
	return 1;
}

static __always_inline void show(struct __sk_buff *skb, enum direction direction, enum reason reason, const struct inner *in,
				 const struct known *known, struct counter *c, __u64 now)
{
	struct packet_event *e = bpf_ringbuf_reserve(&event, sizeof(*e), 0);
	__be16 ports[2] = {};

	if (!e) {
		c->lost_events++;
		return;
	}
	if (in->upper && (in->protocol == IPPROTO_TCP || in->protocol == IPPROTO_UDP) &&
	    bpf_skb_load_bytes(skb, in->upper, ports, sizeof(ports)))
		ports[0] = ports[1] = 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	__builtin_memcpy(e->source, in->source, sizeof(e->source));
	__builtin_memcpy(e->destination, in->destination, sizeof(e->destination));
	__builtin_memcpy(e->tunnel, known->tunnel, sizeof(e->tunnel));
	e->identity = known->identity;
	e->known = known->source_identity;
	e->length = skb->len;
	e->source_port_be = ports[0];
	e->destination_port_be = ports[1];
	e->cluster = known->cluster;
	e->family = in->family;
	e->protocol = in->protocol;
	e->direction = direction;
	e->reason = reason;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* finish counts a packet and returns how the program ends. What stays on its
 * link by nature is never shown: devices send it of themselves. Nor is the agent's
 * own. */
static __always_inline int finish(struct __sk_buff *skb, enum direction direction, enum reason reason, const struct inner *in,
				  const struct known *known)
{
	struct counter *c = count(skb, direction, reason);
	__u64 now;

	if (reason == PASSED || reason == PASSED_LATE)
		return TCX_NEXT;
	if (!c || reason == DROP_LINK_SCOPE || reason == DROP_SELF_TEST)
		return TCX_DROP;
	now = bpf_ktime_get_ns();
	if (is_shown(c, now))
		show(skb, direction, reason, in, known, c, now);
	return TCX_DROP;
}

#endif
