/* SPDX-License-Identifier: Apache-2.0 */
/* Finds a packet's flow and sees whether it covers the packet. Changes neither. */
#pragma once

#include <stdbool.h>

#include "packet.h"

/* What is read before is older than what is read behind. x86 sees to it, which build.rs says; elsewhere an exchange
 * does, as BPF's atomic operations that return a value are full barriers. */
always_inline void order_reads(void)
{
#ifdef STRONG_ORDER
	asm volatile("" ::: "memory");
#else
	__u64 word = 0;
	__sync_lock_test_and_set(&word, 1);
#endif
}

/* Of the index: src/ebpf/index.rs has the same. */
always_inline __u64 mix(__u64 value)
{
	value ^= value >> 33;
	value *= 0xff51afd7ed558ccdull;
	value ^= value >> 33;
	value *= 0xc4ceb9fe1a85ec53ull;
	return value ^ value >> 33;
}

always_inline __u64 multiply(__u32 a, __u32 b)
{
	return (__u64)a * b;
}

/* NH (J. Black and others, UMAC, 1999): whoever does not know the keys finds no two packets that meet. The products do
 * not wait for each other. */
always_inline __u64 hash(const struct packet *packet)
{
	__u64 sum = multiply((packet->ports[0] | (__u32)packet->ports[1] << 16) + hash_keys[0],
			     packet->protocol + hash_keys[1]);

	if (packet->version == 4) {
		sum += multiply(packet->addresses[0] + hash_keys[2], packet->addresses[1] + hash_keys[3]);
	} else {
#pragma unroll
		for (int at = 0; at < 4; at++)
			sum += multiply((__u32)packet->words[at] + hash_keys[2 + 2 * at],
					(__u32)(packet->words[at] >> 32) + hash_keys[3 + 2 * at]);
	}
	return mix(sum);
}

/* Of a bucket's words that one whose upper part is the tag; zero if there is none. */
always_inline __u64 find_word(const struct bucket *bucket, __u64 tag, __u32 below)
{
	__u64 found = 0;

	if (!bucket)
		return 0;
#pragma unroll
	for (int way = 0; way < 8; way++) {
		__u64 word = bucket->ways[way];
		if (word >> below == tag)
			found = word;
	}
	return found;
}

/* A key has two buckets: the other one of these. */
always_inline __u32 other_place(__u32 place, __u32 tag)
{
	return place ^ tag * 0x9e3779b1u;
}

/* The flow's place and direction, plus one; zero if there is none. */
always_inline __u32 find_way(__u32 place, __u32 tag)
{
	return find_word(bpf_map_lookup_elem(&flow_index, &place), tag, 32);
}

always_inline bool has_key(const struct flow *flow, __u32 direction, const struct packet *packet)
{
	if (flow->version != packet->version || flow->protocol != packet->protocol ||
	    flow->ports[direction][0] != packet->ports[0] || flow->ports[direction][1] != packet->ports[1])
		return false;
	if (packet->version == 4)
		return flow->addresses[direction][0] == packet->addresses[0] &&
		       flow->addresses[direction][1] == packet->addresses[1];
	__u32 place = flow->addresses[0][0];
	struct wide *addresses = bpf_map_lookup_elem(&wide, &place);
	if (!addresses)
		return false;
	__u64 *words = addresses->words[direction];
	return words[0] == packet->words[0] && words[1] == packet->words[1] && words[2] == packet->words[2] &&
	       words[3] == packet->words[3];
}

/* The flow's place, and the packet's direction. */
always_inline struct flow *find_flow(const struct packet *packet, __u32 *place_of_flow, __u32 *direction)
{
	__u64 hashed = hash(packet);
	__u32 tag = hashed >> 32, place = (__u32)hashed & bucket_mask;
	__u32 way = find_way(place, tag);

	if (!way)
		way = find_way(other_place(place, tag) & bucket_mask, tag);
	if (!way)
		return 0;
	__u32 slot = (way - 1) >> 1;
	*place_of_flow = slot;
	*direction = (way - 1) & 1;
	return bpf_map_lookup_elem(&flows, &slot);
}

/* Modulo 2^32 (RFC 9293 section 3.4). */
always_inline bool is_at_most(__u32 a, __u32 b)
{
	return (__s32)(b - a) >= 0;
}

/* How far below the oldest byte in flight a segment may start: as in engine/src/tcp/window.rs. */
#define BELOW_FLIGHT 2

/* The largest window that a side has granted. */
always_inline __u32 window_of(const struct side *side)
{
	return *(volatile __u32 *)&side->window & ~SENT_FIN;
}

/* Whether this is the first answer to the originator's SYN, which acknowledges that and nothing else. */
always_inline bool is_answer(const struct flow *flow, __u32 direction, const struct packet *packet)
{
	const volatile struct side *originator = &flow->sides[0], *replier = &flow->sides[1];

	return direction & 1 && !replier->window && !packet->payload && packet->acknowledgement == originator->end;
}

/* Whether both sides have acknowledged the other's FIN: what follows is judged by rules of its own. */
always_inline bool is_finished(const struct flow *flow)
{
	const struct side *one = &flow->sides[0], *other = &flow->sides[1];

	return one->window & other->window & SENT_FIN && is_at_most(other->end, one->ack) &&
	       is_at_most(one->end, other->ack);
}

/* Whether the sender may send this (G. van Rooij, 2001; RFC 5961 section 5.2): `Side::may_send` of the engine. */
always_inline bool is_in_window(const struct flow *flow, __u32 direction, const struct packet *packet)
{
	const struct side *sender = &flow->sides[direction & 1], *receiver = &flow->sides[~direction & 1];
	__u32 end = packet->sequence + packet->payload;
	__u32 beyond = packet->payload == 0;
	__u32 sent = *(volatile __u32 *)&sender->window, slack = sent & ~SENT_FIN;

	/* Nothing follows a FIN, and a FIN follows everything. One that is repeated says something of its own. */
	if (sent & SENT_FIN && (packet->fin || !is_at_most(end, sender->end)))
		return false;
	if (packet->fin && !is_at_most(sender->end, end + 1))
		return false;
	/* Behind a SYN nothing lies below. The engine takes this back when it knows more. */
	if (!(direction & 1) && flow->shifts[0] & OPENING) {
		if (!is_at_most(sender->end, packet->sequence))
			return false;
		slack = 0;
	}
	return is_at_most(sender->end - window_of(receiver) - BELOW_FLIGHT, end + packet->fin) &&
	       is_at_most(end, receiver->edge + beyond) &&
	       is_at_most(sender->ack - slack, packet->acknowledgement) &&
	       is_at_most(packet->acknowledgement, receiver->end);
}

/* Moves a field forward. Packets of one direction rarely meet, on two processors; the later one counts then. */
always_inline void advance(__u32 *field, __u32 value)
{
	__u32 old = *(volatile __u32 *)field;

	for (int tries = 0; tries < 2; tries++) {
		if (is_at_most(value, old))
			return;
		__u32 seen = __sync_val_compare_and_swap(field, old, value);
		if (seen == old)
			return;
		old = seen;
	}
}

/* Notes a larger window, beside which SENT_FIN may appear at any time. */
always_inline void widen(__u32 *field, __u32 window)
{
	__u32 old = *(volatile __u32 *)field;

	for (int tries = 0; tries < 2; tries++) {
		if (window <= (old & ~SENT_FIN))
			return;
		__u32 seen = __sync_val_compare_and_swap(field, old, window | (old & SENT_FIN));
		if (seen == old)
			return;
		old = seen;
	}
}

/* `Side::note` of the engine. */
always_inline void note_segment(struct flow *flow, __u32 direction, const struct packet *packet)
{
	struct side *sender = &flow->sides[direction & 1];
	__u8 unscaled = (flow->shifts[0] | flow->shifts[1]) & UNSCALED;
	__u32 window = packet->window << (unscaled ? 0 : flow->shifts[direction & 1] & 15);

	/* A byte may always probe (RFC 9293 section 3.8.6.1). */
	if (!window)
		window = 1;
	advance(&sender->end, packet->sequence + packet->payload + packet->fin);
	advance(&sender->ack, packet->acknowledgement);
	advance(&sender->edge, packet->acknowledgement + window);
	widen(&sender->window, window);
	if (packet->fin)
		__sync_fetch_and_or(&sender->window, SENT_FIN);
}

/* Of the replier's SYN, `Side::opened` of the engine. Two processors may have one each: the first counts. */
always_inline void note_answer(struct flow *flow, __u32 slot, const struct packet *packet)
{
	struct side *originator = &flow->sides[0], *replier = &flow->sides[1];
	struct past *past = bpf_map_lookup_elem(&pasts, &slot);
	__u32 first = packet->sequence + 1, window = packet->window ? packet->window : 1;

	/* It has no window yet, so nobody else passes meanwhile. */
	if (!past || __sync_val_compare_and_swap(&replier->window, 0, SENT_FIN))
		return;
	past->sequence = packet->sequence;
	replier->end = first;
	replier->ack = packet->acknowledgement;
	replier->edge = packet->acknowledgement + window;
	originator->ack = first;
	originator->edge = first + window_of(originator);
	flow->shifts[1] = ANSWERED | (packet->shift == NO_SHIFT ? UNSCALED : packet->shift);
	__sync_lock_test_and_set(&replier->window, window);
}

/* To whom DHCP replies (RFC 2131 section 4.1, RFC 8415 section 7.2). */
#define DHCP_CLIENT 68
#define DHCPV6_CLIENT 546

/* Azure's own services (docs/azure-node.md), of which the guard leaves the host the answers where it is told to. */
#define AZURE_SERVICES 0xa83f8110 /* 168.63.129.16 */
#define AZURE_METADATA 0xa9fea9fe /* 169.254.169.254 */

/* Whether the guard keeps a frame from the host's stack wherever it is sent: of IP it leaves the host neighbour
 * discovery, DHCP replies, TCP to a few ports, and answers of the platform's services (appliance/guard/src/rules.rs). Reads headers anew, as only what has
 * been missed gets here. Rather too seldom than too often. */
always_inline bool is_for_engine_alone(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct ipv6hdr *ipv6 = data + ETH_HLEN;
	struct iphdr *ipv4 = data + ETH_HLEN;
	__u16 *ports;
	__u8 protocol;
	__u32 zero = 0;

	if ((void *)(ipv4 + 1) > end)
		return false;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		/* Options, fragments. */
		if (*(__u8 *)ipv4 != 0x45 || ipv4->frag_off & bpf_htons(0x3fff))
			return false;
		protocol = ipv4->protocol;
		ports = (__u16 *)(ipv4 + 1);
		if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
			return true;
		if (ipv4->saddr == bpf_htonl(AZURE_SERVICES) || ipv4->saddr == bpf_htonl(AZURE_METADATA))
			return false;
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(ipv6 + 1) <= end) {
		protocol = ipv6->nexthdr;
		ports = (__u16 *)(ipv6 + 1);
		if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
			return false;
	} else {
		return false;
	}
	if ((void *)(ports + 2) > end)
		return false;
	if (protocol == IPPROTO_UDP)
		return ports[1] != bpf_htons(DHCP_CLIENT) && ports[1] != bpf_htons(DHCPV6_CLIENT);
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	if (!now || !now->host_ports[0])
		return false;
#pragma unroll
	for (int at = 0; at < HOST_PORTS; at++)
		if (now->host_ports[at] == ports[1])
			return false;
	return true;
}

always_inline struct port *find_port(__u32 interface)
{
#pragma unroll
	for (__u32 tried = 0; tried < PORTS_TRIED; tried++) {
		__u32 place = (interface + tried) % PORTS;
		struct port *port = bpf_map_lookup_elem(&ports, &place);
		if (port && port->interface == interface)
			return port;
	}
	return 0;
}
