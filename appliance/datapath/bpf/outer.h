/* SPDX-License-Identifier: Apache-2.0 */
/* Outer headers of packets that nodes hand to each other: IP, UDP, and GENEVE with its option (docs/cluster.md section
 * 7). */
#pragma once

#include "cover.h"

/* Of GENEVE with the option, and of all that stands before the packet inside. */
#define HEAD 32
#define OUTER_IPV4 (sizeof(struct iphdr) + sizeof(struct udphdr) + HEAD)
#define OUTER_IPV6 (sizeof(struct ipv6hdr) + sizeof(struct udphdr) + HEAD)
/* Of `HEAD`: where flags and the sender's number are, and the flag of what kernels wrap. */
#define HEAD_ETHERTYPE 2
#define HEAD_FLAGS 12
#define HEAD_ORIGIN 15
#define FLAG_FLOW 16

/* linux/in.h and linux/in6.h have them for sockets only. */
#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
/* RFC 1700's default. */
#define OUTER_HOPS 64

/* From the link header's type on. */
struct outer_ipv4 {
	__u16 unused;
	__be16 ethertype;
	struct iphdr ip;
	struct udphdr udp;
	__u32 head[HEAD / 4];
};

struct outer_ipv6 {
	__u16 unused;
	__be16 ethertype;
	struct ipv6hdr ip;
	struct udphdr udp;
	__u32 head[HEAD / 4];
};

#define OUTER_AT (ETH_HLEN - 2)
_Static_assert(sizeof(struct outer_ipv4) == 4 + OUTER_IPV4, "no gaps");
_Static_assert(sizeof(struct outer_ipv6) == 4 + OUTER_IPV6, "no gaps");

/* Of the largest IP packet: a superframe that would be longer is the engine's, as nobody's lengths say how long. */
#define LENGTH_MAX 0xffff

always_inline void write_head(__u32 *to, const __u64 *words)
{
#pragma unroll
	for (int at = 0; at < HEAD / 8; at++) {
		to[2 * at] = words[at];
		to[2 * at + 1] = words[at] >> 32;
	}
}

/* No checksum: that of the packet inside is the hosts', and the option's tag says whose the packet is. Over IPv6 as well
 * (RFC 6935, RFC 6936 section 5). With one, receivers would merge datagrams of which each is a packet of its own. */
always_inline void write_udp(struct udphdr *udp, __u32 length)
{
	udp->source = wrapped_port;
	udp->dest = wrapped_port;
	udp->len = bpf_htons(sizeof(*udp) + HEAD + length);
	udp->check = 0;
}

/* Puts outer headers before a packet of `length` bytes, and leaves superframes whole. Returns zero; less if nothing has
 * been changed; more if something has. */
always_inline int wrap_ipv4(struct __sk_buff *skb, const struct peer *peer, const __u64 *head, __u32 length)
{
	struct outer_ipv4 outer = {
		.ethertype = bpf_htons(ETH_P_IP),
		.ip = {
			.version = 4,
			.ihl = sizeof(struct iphdr) / 4,
			.tot_len = bpf_htons(OUTER_IPV4 + length),
			/* Never fragmented, so without identification (RFC 6864 section 4.1). */
			.frag_off = bpf_htons(0x4000),
			.ttl = OUTER_HOPS,
			.protocol = IPPROTO_UDP,
			.saddr = peer->local[0],
			.daddr = peer->remote[0],
		},
	};
	__u32 *words = (__u32 *)&outer.ip;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		      BPF_F_ADJ_ROOM_ENCAP_L2(HEAD);

	outer.ip.check = ~fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
	write_udp(&outer.udp, length);
	write_head(outer.head, head);
	if (bpf_skb_adjust_room(skb, OUTER_IPV4, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return !!bpf_skb_store_bytes(skb, OUTER_AT, &outer.ethertype, sizeof(outer) - 2, BPF_F_RECOMPUTE_CSUM);
}

always_inline int wrap_ipv6(struct __sk_buff *skb, const struct peer *peer, const __u64 *head, __u32 length)
{
	struct outer_ipv6 outer = {
		.ethertype = bpf_htons(ETH_P_IPV6),
		.ip = {
			.version = 6,
			.payload_len = bpf_htons(OUTER_IPV6 - sizeof(struct ipv6hdr) + length),
			.nexthdr = IPPROTO_UDP,
			.hop_limit = OUTER_HOPS,
		},
	};
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		      BPF_F_ADJ_ROOM_ENCAP_L2(HEAD);

#pragma unroll
	for (int at = 0; at < 4; at++) {
		outer.ip.saddr.in6_u.u6_addr32[at] = peer->local[at];
		outer.ip.daddr.in6_u.u6_addr32[at] = peer->remote[at];
	}
	write_udp(&outer.udp, length);
	write_head(outer.head, head);
	if (bpf_skb_adjust_room(skb, OUTER_IPV6, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return !!bpf_skb_store_bytes(skb, OUTER_AT, &outer.ethertype, sizeof(outer) - 2, BPF_F_RECOMPUTE_CSUM);
}

/* Copies what is known of a node; false if packets are not to be handed over to it now. */
always_inline bool read_peer(struct peer *peer, const struct peer *known)
{
	__u32 turn = *(volatile __u32 *)&known->turn;

	order_reads();
	*peer = *known;
	order_reads();
	return !(turn & 1) && *(volatile __u32 *)&known->turn == turn && peer->open && peer->interface;
}

/* The next hop is the kernel's to resolve, which has it at hand: nodes speak with each other all the time. */
always_inline int redirect_to(const struct peer *peer)
{
	struct bpf_redir_neigh next = { .nh_family = peer->next_version == 4 ? FAMILY_IPV4 : FAMILY_IPV6 };

#pragma unroll
	for (int at = 0; at < 4; at++)
		next.ipv6_nh[at] = peer->next[at];
	return bpf_redirect_neigh(peer->interface, &next, sizeof(next), 0);
}

/* Hands a packet over to the node whose flow it is of; it counts hops down and follows windows. Returns the exit;
 * `verdict` is changed if the frame has been. */
always_inline int hand_over(struct __sk_buff *skb, const struct cover *cover, const struct packet *packet,
			    const struct frame *frame, int *verdict)
{
	__u32 direction = cover->direction & 1, slot = cover->slot, node = cover->flow->hops[direction];
	__u32 mtu = cover->flow->tenancies[direction];
	struct peer *known = bpf_map_lookup_elem(&peers, &node);
	struct head *heading = bpf_map_lookup_elem(&heads, &slot);
	struct peer peer;

	if (!known || !heading)
		return EXIT_NO_PEER;
	/* How a connection begins and ends is for the engine. */
	if (packet->protocol == IPPROTO_TCP && (packet->syn || packet->fin))
		return EXIT_TCP_FLAGS;
	__u64 head[] = { heading->words[direction][0], heading->words[direction][1], heading->words[direction][2],
			 heading->words[direction][3] };
	if (!is_as_found(cover))
		return EXIT_NO_FLOW;
	if (!read_peer(&peer, known))
		return EXIT_NO_PEER;
	if (!fits(frame, packet, mtu) || OUTER_IPV6 + packet->length > LENGTH_MAX)
		return EXIT_TOO_BIG;
	/* Each segment would be a datagram of the hosts', and no tunnel says so. */
	if (frame->segment && packet->protocol != IPPROTO_TCP)
		return EXIT_PROTOCOL;
	/* What fills a short frame is not the packet's (CVE-2003-0001). */
	if (frame->length > ETH_HLEN + packet->length && bpf_skb_change_tail(skb, ETH_HLEN + packet->length, 0))
		return EXIT_REFUSED;
	int wrong = outer_version == 4 ? wrap_ipv4(skb, &peer, head, packet->length)
				      : wrap_ipv6(skb, &peer, head, packet->length);
	if (wrong < 0)
		return EXIT_REFUSED;
	if (wrong) {
		*verdict = TC_ACT_SHOT;
		return EXIT_REFUSED;
	}
	count(cover->flow, direction, packet, frame->segment);
	*verdict = redirect_to(&peer);
	return EXIT_WRAPPED;
}

/* What a frame from another node has before the packet inside. */
struct outer {
	/* Bytes between link header and packet. */
	__u32 length;
	/* Of UDP and what it carries, as its header says. */
	__u32 datagram;
};

/* Returns whether a frame is UDP without a checksum to the port of packets between nodes, whole. */
always_inline bool read_outer(struct outer *outer, void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct iphdr *ipv4 = (void *)(ethernet + 1);
	struct ipv6hdr *ipv6 = (void *)(ethernet + 1);
	struct udphdr *udp;
	__u32 length;

	if ((void *)(ipv4 + 1) > end)
		return false;
	if (outer_version == 4) {
		__u32 *words = (__u32 *)ipv4;
		if (ethernet->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ipv4 != 0x45 || ipv4->protocol != IPPROTO_UDP ||
		    ipv4->frag_off & bpf_htons(0x3fff) ||
		    fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
			return false;
		length = bpf_ntohs(ipv4->tot_len) - sizeof(*ipv4);
		udp = (void *)(ipv4 + 1);
		outer->length = OUTER_IPV4;
	} else {
		if (ethernet->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(ipv6 + 1) > end || ipv6->version != 6 || ipv6->nexthdr != IPPROTO_UDP)
			return false;
		length = bpf_ntohs(ipv6->payload_len);
		udp = (void *)(ipv6 + 1);
		outer->length = OUTER_IPV6;
	}
	if ((void *)(udp + 1) > end || udp->dest != wrapped_port || udp->check)
		return false;
	outer->datagram = bpf_ntohs(udp->len);
	return outer->datagram == length;
}

/* Whether the frame came from this node to this one. */
always_inline bool is_between(const struct peer *peer, void *data, void *end)
{
	__u32 *addresses = data + ETH_HLEN + (outer_version == 4 ? __builtin_offsetof(struct iphdr, saddr)
								  : __builtin_offsetof(struct ipv6hdr, saddr));

	if (peer->version != outer_version || (void *)(addresses + 2) > end)
		return false;
	if (outer_version == 4)
		return addresses[0] == peer->remote[0] && addresses[1] == peer->local[0];
	if ((void *)(addresses + 8) > end)
		return false;
	return addresses[0] == peer->remote[0] && addresses[1] == peer->remote[1] &&
	       addresses[2] == peer->remote[2] && addresses[3] == peer->remote[3] &&
	       addresses[4] == peer->local[0] && addresses[5] == peer->local[1] && addresses[6] == peer->local[2] &&
	       addresses[7] == peer->local[3];
}

/* Whether a flow's packets of this direction have just this before them, and come from this node. */
always_inline bool has_head(const struct cover *cover, void *data, void *end)
{
	__u64 *words = data + ETH_HLEN + (outer_version == 4 ? OUTER_IPV4 : OUTER_IPV6) - HEAD;
	__u32 slot = cover->slot, direction = cover->direction & 1;
	struct head *head = bpf_map_lookup_elem(&heads, &slot);

	if (!head || (void *)(words + HEAD / 8) > end)
		return false;
	__u64 *expected = head->words[direction];
	if (words[0] != expected[0] || words[1] != expected[1] || words[2] != expected[2] || words[3] != expected[3])
		return false;
	__u32 origin = *((__u8 *)words + HEAD_ORIGIN);
	struct peer *peer = bpf_map_lookup_elem(&peers, &origin);
	return peer && is_between(peer, data, end);
}
