// SPDX-License-Identifier: Apache-2.0
/* The fast path at tc ingress: keeps superframes whole and partial checksums partial.
 *
 * A packet that a flow covers is rewritten and sent on. Any other goes through the port's door to the engine; what may
 * be for the host goes two ways, as with packet sockets: a copy to the engine, and the packet itself to the host's
 * stack, of which the guard leaves only what is for the host. */
#include <linux/pkt_cls.h>

#include "challenge.h"
#include "outer.h"
#include "worker.h"

/* How a transport checksum is to be mended after the kernel has been asked to. */
struct mending {
	/* Of the checksum's place, from the frame's beginning. */
	__u32 at;
	/* By how much it changes yet, if it is whole; and what it is now in that case. */
	__u16 delta;
	__u16 whole;
};

/* Has the kernel mend the transport checksum, as only it knows whether that is whole or the sum of the pseudo-header
 * alone, which ports are no part of. A call costs as much as all else that is written, so what it makes of the
 * addresses tells which it is, and the ports' part is mended in place (`finish_transport`). Addresses whose sum does
 * not change tell nothing. Returns false where nothing could be changed. */
always_inline bool mend_transport(struct __sk_buff *skb, const struct rewrite *rewrite, const struct packet *packet,
				  struct mending *mending)
{
	bool is_udp = packet->protocol == IPPROTO_UDP;
	__u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;

	mending->at = packet->transport + (is_udp ? __builtin_offsetof(struct udphdr, check)
						  : __builtin_offsetof(struct tcphdr, check));
	mending->delta = 0;
	/* RFC 768: the sender has made none. */
	if (is_udp && !packet->checksum)
		return true;
	if (is_zero(rewrite->address_delta))
		return !bpf_l4_csum_replace(skb, mending->at, 0, rewrite->port_delta, flags);
	/* A sum over the whole frame, if the card has made one, is told of a checksum that changes alone. Over IPv6 the
	 * addresses change as well, and the two cancel out. */
	if (packet->version == 4 || bpf_csum_update(skb, 0) < 0)
		flags |= BPF_F_PSEUDO_HDR;
	mending->delta = rewrite->port_delta;
	mending->whole = mend(packet->checksum, rewrite->address_delta);
	return !bpf_l4_csum_replace(skb, mending->at, 0, rewrite->address_delta, flags);
}

always_inline void finish_transport(__u16 *checksum, const struct mending *mending, const struct packet *packet)
{
	__u16 now = *checksum;

	if (is_zero(mending->delta) || (now != mending->whole && !(is_zero(now) && is_zero(mending->whole))))
		return;
	now = mend(now, mending->delta);
	/* RFC 768: zero says that there is none. */
	if (!now && packet->protocol == IPPROTO_UDP)
		now = 0xffff;
	*checksum = now;
}

/* Returns false where the frame could not be changed; it has not been then. */
always_inline bool write_packet(struct __sk_buff *skb, const struct rewrite *rewrite, const struct packet *packet,
				const struct hop *hop)
{
	struct mending mending = {};

	/* What fills a short frame is not the packet's (CVE-2003-0001). */
	if (skb->len > ETH_HLEN + packet->length && bpf_skb_change_tail(skb, ETH_HLEN + packet->length, 0))
		return false;
	if (!rewrite->plain && !mend_transport(skb, rewrite, packet, &mending))
		return false;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	void *network = data + ETH_HLEN;
	__u16 *ports = network + (packet->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	__u16 *checksum = data + mending.at;

	/* They were there before, and calls leave at least as much. */
	if ((void *)(ports + 2) > end || (void *)(checksum + 1) > end)
		return false;
	write_headers(network, ports, rewrite, packet);
	if (!rewrite->plain)
		finish_transport(checksum, &mending, packet);
	write_link(data, hop);
	return true;
}

/* Moves the packet if a flow covers it; `verdict` says how. Returns the exit. */
always_inline int pass(struct __sk_buff *skb, const struct port *port, int *verdict)
{
	struct frame frame = { .length = skb->len, .segment = skb->gso_size };
	struct packet packet;
	struct cover cover;
	int wrong;

	/* The appliance has no VLANs; the tag does not stand in the frame. */
	if (skb->vlan_present)
		return EXIT_NOT_IP;
	wrong = read_packet(&packet, (void *)(long)skb->data, (void *)(long)skb->data_end);
	if (wrong == EXIT_TCP_FLAGS && ask(skb, port, &packet)) {
		*verdict = bpf_redirect(skb->ifindex, 0);
		return EXIT_CHALLENGED;
	}
	if (wrong)
		return wrong;
	/* PACKET_HOST: the frame was sent to this interface. */
	if (skb->pkt_type != 0)
		return EXIT_OTHER_HOST;
	wrong = find_entry(&cover, &packet, port->zone);
	if (wrong)
		return wrong;
	if (kind_of(cover.flow) == KIND_RELAY)
		return hand_over(skb, &cover, &packet, &frame, verdict);
	wrong = check_cover(&cover, &packet, &frame);
	if (wrong)
		return wrong;
	if (!write_packet(skb, &cover.rewrite, &packet, &cover.hop))
		return EXIT_REFUSED;
	note_packet(&cover, &packet, &frame);
	*verdict = bpf_redirect(cover.hop.interface, 0);
	return EXIT_FORWARDED;
}

/* What is not moved. */
always_inline int miss(struct __sk_buff *skb, const struct port *port)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 worker = workers > 1 ? find_worker(data, end) : 0;
	__u32 door = port->doors[worker & (WORKERS - 1)];

	if (!door)
		return TC_ACT_UNSPEC;
	/* A tag that does not stand in the frame is not looked at. */
	if (!skb->vlan_present && is_for_engine_alone(data, end))
		return bpf_redirect(door, BPF_F_INGRESS);
	bpf_clone_redirect(skb, door, BPF_F_INGRESS);
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int fast_path(struct __sk_buff *skb)
{
	struct port *port = find_port(skb->ifindex);
	int verdict = TC_ACT_UNSPEC;

	/* Not one of ours. */
	if (!port)
		return TC_ACT_UNSPEC;
	__u32 exit = pass(skb, port, &verdict);

	count_exit(exit);
	return verdict == TC_ACT_UNSPEC ? miss(skb, port) : verdict;
}

/* So far headers reach: those between nodes, and the longest of IPv6 and TCP. */
#define HEADERS_MAX (ETH_HLEN + OUTER_IPV6 + sizeof(struct ipv6hdr) + 60)

/* Whether all headers stand where programs see them. TCP says how long they are: a host's own superframes have nothing
 * else there, and to pull more of them is to copy all that is there into a larger place. */
always_inline bool has_headers(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u8 *inside = data + ETH_HLEN + (outer_version == 4 ? OUTER_IPV4 : OUTER_IPV6);

	if (data + HEADERS_MAX <= end || skb->data_end - skb->data >= skb->len)
		return true;
	if ((void *)(inside + sizeof(struct iphdr) + sizeof(struct tcphdr)) > end)
		return false;
	struct tcphdr *tcp = (void *)inside + (*inside >> 4 == 6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	return (void *)(tcp + 1) <= end && (void *)tcp + tcp->doff * 4 <= end;
}

/* Not an exit: of packets that are no business of the program's. */
#define NOT_WRAPPED EXITS

/* linux/bpf.h of kernels from 6.3 on: what a packet is of when its outer header has gone. */
#define DECAP_IPV4 (1ull << 7)
#define DECAP_IPV6 (1ull << 8)

/* Takes off what stands before the packet. Returns false where the frame could not be changed; it has not been then. */
always_inline bool strip(struct __sk_buff *skb, const struct outer *outer, const struct packet *packet)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (packet->version != outer_version)
		flags |= packet->version == 4 ? DECAP_IPV4 : DECAP_IPV6;
	return !bpf_skb_adjust_room(skb, -(int)outer->length, BPF_ADJ_ROOM_MAC, flags);
}

/* Moves a packet that another node has handed over, if a flow covers it. Returns the exit. */
always_inline int take_over(struct __sk_buff *skb, struct outer *outer, int *verdict)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct frame frame = { .segment = skb->gso_size };
	struct packet packet;
	struct cover cover;
	int wrong;

	if (skb->vlan_present || skb->pkt_type != 0 || !read_outer(outer, data, end))
		return NOT_WRAPPED;
	__u8 *head = data + ETH_HLEN + (outer_version == 4 ? OUTER_IPV4 : OUTER_IPV6) - HEAD;
	if ((void *)(head + HEAD) > end || head[HEAD_FLAGS] != FLAG_FLOW)
		return NOT_WRAPPED;
	wrong = read_network(&packet, *(__be16 *)(head + HEAD_ETHERTYPE), head + HEAD, end);
	if (wrong)
		return wrong;
	if (outer->datagram != sizeof(struct udphdr) + HEAD + packet.length)
		return EXIT_HEADER;
	if (frame.segment && packet.protocol != IPPROTO_TCP)
		return EXIT_PROTOCOL;
	frame.length = skb->len - outer->length;
	wrong = find_entry(&cover, &packet, ZONE_OF_PEERS);
	if (wrong)
		return wrong;
	if (kind_of(cover.flow) != KIND_LEGS || !has_head(&cover, data, end))
		return EXIT_OTHER_HEAD;
	wrong = check_cover(&cover, &packet, &frame);
	if (wrong)
		return wrong;
	if (!strip(skb, outer, &packet))
		return EXIT_REFUSED;
	__be16 ethertype = packet.version == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if ((packet.version != outer_version &&
	     bpf_skb_store_bytes(skb, OUTER_AT, &ethertype, sizeof(ethertype), 0)) ||
	    !write_packet(skb, &cover.rewrite, &packet, &cover.hop)) {
		*verdict = TC_ACT_SHOT;
		return EXIT_REFUSED;
	}
	note_packet(&cover, &packet, &frame);
	*verdict = bpf_redirect(cover.hop.interface, 0);
	return EXIT_UNWRAPPED;
}

/* A superframe comes to the node's socket as one datagram, and nothing tells there how long its segments are. The source
 * port means nothing, and no checksum covers it. */
always_inline void note_segments(struct __sk_buff *skb, const struct outer *outer)
{
	__be16 segment = bpf_htons(skb->gso_size);

	if (segment)
		bpf_skb_store_bytes(skb, ETH_HLEN + outer->length - HEAD - sizeof(struct udphdr), &segment,
				    sizeof(segment), 0);
}

/* At the interface by which nodes hand packets to each other. What it does not move goes on to the node's socket. */
SEC("classifier")
int unwrap(struct __sk_buff *skb)
{
	struct outer outer;
	int verdict = TC_ACT_UNSPEC;

	/* Cards leave as little as they like of a frame where programs see it. */
	if (!has_headers(skb))
		bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX);
	__u32 exit = take_over(skb, &outer, &verdict);

	if (exit == NOT_WRAPPED)
		return TC_ACT_UNSPEC;
	count_exit(exit);
	if (verdict == TC_ACT_UNSPEC)
		note_segments(skb, &outer);
	return verdict;
}

/* At a door: packet sockets have seen the frame by then, and nobody else is to. */
SEC("classifier")
int door(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_SHOT;
}
