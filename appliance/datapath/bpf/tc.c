// SPDX-License-Identifier: Apache-2.0
/* The fast path at tc ingress: keeps superframes whole and partial checksums partial.
 *
 * A packet that a flow covers is rewritten and sent on. Any other goes through the port's door to the engine; what may
 * be for the host goes two ways, as with packet sockets: a copy to the engine, and the packet itself to the host's
 * stack, of which the guard leaves only what is for the host. */
#include <linux/pkt_cls.h>

#include "challenge.h"

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
	if (packet->version == 4)
		write_ipv4(network, rewrite, packet);
	else
		write_ipv6(network, rewrite);
	if (!rewrite->plain) {
		ports[0] = rewrite->ports[0];
		ports[1] = rewrite->ports[1];
		finish_transport(checksum, &mending, packet);
	}
	write_link(data, hop);
	return true;
}

/* Moves the packet if a flow covers it. Returns the exit. */
always_inline int pass(struct __sk_buff *skb, const struct port *port, __u32 *out)
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
		*out = skb->ifindex;
		return EXIT_CHALLENGED;
	}
	if (wrong)
		return wrong;
	/* PACKET_HOST: the frame was sent to this interface. */
	if (skb->pkt_type != 0)
		return EXIT_OTHER_HOST;
	wrong = find_cover(&cover, &packet, port, &frame);
	if (wrong)
		return wrong;
	if (!write_packet(skb, &cover.rewrite, &packet, &cover.hop))
		return EXIT_REFUSED;
	note_packet(&cover, &packet, &frame);
	*out = cover.hop.interface;
	return EXIT_FORWARDED;
}

/* What is not moved. */
always_inline int miss(struct __sk_buff *skb, __u32 door)
{
	if (!door)
		return TC_ACT_UNSPEC;
	/* A tag that does not stand in the frame is not looked at. */
	if (!skb->vlan_present && is_for_engine_alone((void *)(long)skb->data, (void *)(long)skb->data_end))
		return bpf_redirect(door, BPF_F_INGRESS);
	bpf_clone_redirect(skb, door, BPF_F_INGRESS);
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int fast_path(struct __sk_buff *skb)
{
	struct port *port = find_port(skb->ifindex);
	__u32 out = 0;

	/* Not one of ours. */
	if (!port)
		return TC_ACT_UNSPEC;
	__u32 exit = pass(skb, port, &out);

	count_exit(exit);
	if (exit == EXIT_FORWARDED || exit == EXIT_CHALLENGED)
		return bpf_redirect(out, 0);
	return miss(skb, port->door);
}

/* At a door: packet sockets have seen the frame by then, and nobody else is to. */
SEC("classifier")
int door(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_SHOT;
}
