/* SPDX-License-Identifier: Apache-2.0 */
/* Sees whether a flow covers a packet, and notes that it does. */
#pragma once

#include "rewrite.h"

/* What a hook knows of a frame. */
struct frame {
	__u32 length;
	/* Of a superframe: what each segment carries at most. */
	__u32 segment;
};

/* What is to become of a packet. */
struct cover {
	struct flow *flow;
	__u32 slot;
	__u32 direction;
	/* The flow's when it was found. */
	__u32 turn;
	struct hop hop;
	struct rewrite rewrite;
};

/* In its upper half a tick of the kernel's, in its lower half the time then in units of 2^30 ns. */
static volatile __u64 clock;

/* CLOCK_MONOTONIC in units of 2^30 ns. Ticks are there to be read; the time is a call, made once a tick. */
always_inline __u32 read_clock(void)
{
	__u32 tick = bpf_jiffies64();
	__u64 known = clock;

	if (known >> 32 == tick)
		return known;
	__u32 now = bpf_ktime_get_coarse_ns() >> 30;
	clock = (__u64)tick << 32 | now;
	return now;
}

/* Packets and bytes as the wire counts them: `wire_count` of the engine. */
always_inline void count(struct flow *flow, __u32 direction, const struct packet *packet, __u32 size)
{
	__u32 packets = 1;
	__u64 bytes = packet->length;

	if (size) {
		packets = (packet->length - packet->headers + size - 1) / size;
		if (!packets)
			packets = 1;
		bytes += (__u64)(packets - 1) * packet->headers;
	}
	__sync_fetch_and_add(&flow->packets[direction & 1], packets);
	__sync_fetch_and_add(&flow->bytes[direction & 1], bytes);
	__u32 now = read_clock();
	if (flow->last_seen[direction & 1] != now)
		flow->last_seen[direction & 1] = now;
}

/* Whether the packet, or each segment of a superframe, fits; and whether the frame is as long as it says. */
always_inline bool fits(const struct frame *frame, const struct packet *packet, __u32 mtu)
{
	if (frame->segment)
		return packet->headers + frame->segment <= mtu && frame->length == ETH_HLEN + packet->length;
	return packet->length <= mtu && frame->length >= ETH_HLEN + packet->length;
}

/* Whether the node has turned so lately that others wait for it. */
always_inline bool is_between_nodes(const struct control *now)
{
	__u32 until = *(volatile __u32 *)&now->between;

	return until && is_at_most(bpf_ktime_get_coarse_ns() >> 24, until);
}

always_inline __u8 kind_of(const struct flow *flow)
{
	return flow->shifts[0] & KIND;
}

/* Finds the flow of a packet that comes from a zone. Returns zero, or why the engine has to look. Changes nothing. */
always_inline int find_entry(struct cover *cover, const struct packet *packet, __u16 zone)
{
	__u32 direction = 0;
	struct flow *flow = find_flow(packet, &cover->slot, &direction);

	if (!flow)
		return EXIT_NO_FLOW;
	direction &= 1;
	__u32 turn = *(volatile __u32 *)&flow->turn;
	order_reads();
	if (turn & 1 || !has_key(flow, direction, packet))
		return EXIT_NO_FLOW;
	__u32 stamp = *(volatile __u32 *)&flow->stamp, worker = stamp >> WORKER_SHIFT;
	struct control *now = bpf_map_lookup_elem(&control, &worker);
	if (!now || !now->stamp || stamp != now->stamp)
		return EXIT_STALE;
	/* Nobody ends flows any more, or follows the network. */
	if (now->confirmed && now->confirmed < read_clock())
		return EXIT_UNCONFIRMED;
	/* Other nodes take it over. What is another's anyway goes on to that one. */
	if (kind_of(flow) == KIND_LEGS && !is_between_nodes(now))
		return EXIT_UNCONFIRMED;
	if (flow->zones[direction] != zone)
		return EXIT_WRONG_ZONE;
	if (packet->hop_limit <= 1)
		return EXIT_HOP_LIMIT;
	cover->flow = flow;
	cover->direction = direction;
	cover->turn = turn;
	return 0;
}

/* Whether nobody has changed the flow since it was found, up to which all that was read of it belongs together. */
always_inline bool is_as_found(const struct cover *cover)
{
	order_reads();
	return *(volatile __u32 *)&cover->flow->turn == cover->turn;
}

/* Sees whether the flow that was found covers the packet. Returns zero, or why the engine has to look. Changes
 * nothing. */
always_inline int check_cover(struct cover *cover, const struct packet *packet, const struct frame *frame)
{
	struct flow *flow = cover->flow;
	__u32 direction = cover->direction & 1, place = flow->hops[direction];
	struct hop *next = bpf_map_lookup_elem(&hops, &place);

	if (!next)
		return EXIT_NO_NEIGHBOUR;
	struct hop hop = { .second = *(volatile __u64 *)&next->second };
	order_reads();
	hop.first = *(volatile __u64 *)&next->first;
	hop.interface = *(volatile __u32 *)&next->interface;
	if (!hop.tenancy || hop.tenancy != flow->tenancies[direction])
		return EXIT_NO_NEIGHBOUR;
	if (!fits(frame, packet, hop.mtu))
		return EXIT_TOO_BIG;
	if (packet->protocol == IPPROTO_TCP) {
		bool is_due = packet->syn ? is_answer(flow, direction, packet)
					  : window_of(&flow->sides[1]) && !is_finished(flow);
		if (!is_due)
			return EXIT_TCP_FLAGS;
		if (!packet->syn && !is_in_window(flow, direction, packet))
			return EXIT_TCP_WINDOW;
	}
	if (!read_rewrite(&cover->rewrite, flow, direction))
		return EXIT_NO_FLOW;
	cover->rewrite.plain = is_plain(&cover->rewrite, packet);
	/* Nobody has changed the flow meanwhile, or the hop. */
	if (!is_as_found(cover))
		return EXIT_NO_FLOW;
	if (*(volatile __u64 *)&next->second != hop.second)
		return EXIT_NO_NEIGHBOUR;
	cover->hop = hop;
	return 0;
}

/* The packet is on its way. */
always_inline void note_packet(const struct cover *cover, const struct packet *packet, const struct frame *frame)
{
	if (packet->protocol == IPPROTO_TCP && packet->syn)
		note_answer(cover->flow, cover->slot, packet);
	else if (packet->protocol == IPPROTO_TCP)
		note_segment(cover->flow, cover->direction, packet);
	count(cover->flow, cover->direction, packet, frame->segment);
}

always_inline void count_exit(__u32 exit)
{
	__u64 *counter = bpf_map_lookup_elem(&exits, &exit);

	if (counter)
		*counter += 1;
}
