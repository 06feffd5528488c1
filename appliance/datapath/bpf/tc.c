// SPDX-License-Identifier: Apache-2.0
/* The fast path at tc ingress: keeps superframes whole and partial checksums partial.
 *
 * A packet that a flow covers is rewritten and sent on. Any other goes through the port's door to the engine; what may
 * be for the host goes two ways, as with packet sockets: a copy to the engine, and the packet itself to the host's
 * stack, of which the guard leaves only what is for the host. */
#include <linux/pkt_cls.h>

#include "flow.h"

/* One's complement: what a sum becomes where words change by this much (RFC 1624 equation 3). */
always_inline __u16 mend(__u16 checksum, __u32 delta)
{
	return ~fold((__u64)(__u16)~checksum + delta);
}

/* A permutation of 16 bits under a secret, of a counter of the pair of hosts: as engine/src/identification.rs. */
always_inline __u16 next_identification(__u32 source, __u32 destination, __u8 protocol)
{
	__u64 secret = mix(seed ^ ((__u64)source << 32 | destination)) + protocol;
	__u32 place = secret % IDENTIFICATIONS;
	__u32 *counter = bpf_map_lookup_elem(&identifications, &place);

	if (!counter)
		return 0;
	__u32 value = __sync_fetch_and_add(counter, 1);
	__u8 left = value >> 8, right = value;
#pragma unroll
	for (int round = 0; round < 4; round++) {
		__u8 mixed = left ^ (__u8)mix(secret ^ ((__u64)round << 32 | right));
		left = right;
		right = mixed;
	}
	return (__u16)left << 8 | right;
}

/* What of a flow a rewrite needs, read while nobody writes it. */
struct rewrite {
	__u32 addresses[2];
	__u64 words[4];
	__u16 ports[2];
	__u16 address_delta;
	__u16 port_delta;
	bool plain;
};

always_inline bool read_rewrite(struct rewrite *rewrite, const struct flow *flow, __u32 direction)
{
	__u32 other = ~direction & 1;

	rewrite->ports[0] = flow->ports[other][1];
	rewrite->ports[1] = flow->ports[other][0];
	rewrite->address_delta = direction ? ~flow->address_delta : flow->address_delta;
	rewrite->port_delta = direction ? ~flow->port_delta : flow->port_delta;
	if (flow->version == 4) {
		rewrite->addresses[0] = flow->addresses[other][1];
		rewrite->addresses[1] = flow->addresses[other][0];
		return true;
	}
	__u32 place = flow->addresses[0][0];
	struct wide *addresses = bpf_map_lookup_elem(&wide, &place);
	if (!addresses)
		return false;
	__u64 *words = addresses->words[other];
	rewrite->words[0] = words[2];
	rewrite->words[1] = words[3];
	rewrite->words[2] = words[0];
	rewrite->words[3] = words[1];
	return true;
}

always_inline bool is_plain(const struct rewrite *rewrite, const struct packet *packet)
{
	if (rewrite->ports[0] != packet->ports[0] || rewrite->ports[1] != packet->ports[1])
		return false;
	if (packet->version == 4)
		return rewrite->addresses[0] == packet->addresses[0] && rewrite->addresses[1] == packet->addresses[1];
	return rewrite->words[0] == packet->words[0] && rewrite->words[1] == packet->words[1] &&
	       rewrite->words[2] == packet->words[2] && rewrite->words[3] == packet->words[3];
}

always_inline void write_ipv4(struct iphdr *ip, const struct rewrite *rewrite, const struct packet *packet)
{
	__u16 *words = (__u16 *)ip;
	/* The hop limit is the first byte of its word, which is its lower half here: src/ebpf refuses big-endian. */
	__u16 hop_limit = words[4];
	__u32 delta = (__u16)~hop_limit;

	hop_limit -= 1;
	delta += hop_limit;
	words[4] = hop_limit;
	if (!rewrite->plain) {
		__u16 identification = 0;
		if (!packet->dont_fragment)
			identification = next_identification(rewrite->addresses[0], rewrite->addresses[1],
							     packet->protocol);
		delta += (__u16)~ip->id;
		delta += identification;
		delta += rewrite->address_delta;
		ip->id = identification;
		ip->saddr = rewrite->addresses[0];
		ip->daddr = rewrite->addresses[1];
	}
	ip->check = mend(ip->check, delta);
}

always_inline void write_ipv6(struct ipv6hdr *ip, const struct rewrite *rewrite)
{
	ip->hop_limit--;
	if (!rewrite->plain) {
		__u64 *words = (__u64 *)&ip->saddr;
		words[0] = rewrite->words[0];
		words[1] = rewrite->words[1];
		words[2] = rewrite->words[2];
		words[3] = rewrite->words[3];
	}
}

/* One's complement has two zeros. */
always_inline bool is_zero(__u16 word)
{
	return word == 0 || word == 0xffff;
}

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
	/* Destination and source. No sum that a card has made covers them. */
	*(__u64 *)data = (hop->first & 0xffffffffffff) | hop->second << 48;
	*(__u32 *)(data + 8) = hop->second >> 16;
	return true;
}

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
always_inline void count(struct __sk_buff *skb, struct flow *flow, __u32 direction, const struct packet *packet)
{
	__u32 packets = 1, size = skb->gso_size;
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
always_inline bool fits(struct __sk_buff *skb, const struct packet *packet, __u32 mtu)
{
	__u32 size = skb->gso_size;

	if (size)
		return packet->headers + size <= mtu && skb->len == ETH_HLEN + packet->length;
	return packet->length <= mtu && skb->len >= ETH_HLEN + packet->length;
}

/* Sees whether the flow covers the packet, and moves it if so. Returns the exit. */
always_inline int pass(struct __sk_buff *skb, const struct port *port, __u32 *out)
{
	struct packet packet;
	struct rewrite rewrite;
	__u32 direction = 0, zero = 0;
	int wrong;

	/* The appliance has no VLANs; the tag does not stand in the frame. */
	if (skb->vlan_present)
		return EXIT_NOT_IP;
	wrong = read_packet(&packet, (void *)(long)skb->data, (void *)(long)skb->data_end);
	if (wrong)
		return wrong;
	/* PACKET_HOST: the frame was sent to this interface. */
	if (skb->pkt_type != 0)
		return EXIT_OTHER_HOST;
	struct flow *flow = find_flow(&packet, &direction);
	if (!flow)
		return EXIT_NO_FLOW;
	__u32 turn = *(volatile __u32 *)&flow->turn;
	order_reads();
	if (turn & 1 || !has_key(flow, direction & 1, &packet))
		return EXIT_NO_FLOW;
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	if (!now || !now->stamp || *(volatile __u32 *)&flow->stamp != now->stamp)
		return EXIT_STALE;
	/* Nobody ends flows any more, or follows the network. */
	if (now->confirmed && now->confirmed < read_clock())
		return EXIT_UNCONFIRMED;
	if (flow->zones[direction & 1] != port->zone)
		return EXIT_WRONG_ZONE;
	if (packet.hop_limit <= 1)
		return EXIT_HOP_LIMIT;
	__u32 place = flow->hops[direction & 1];
	struct hop *next = bpf_map_lookup_elem(&hops, &place);
	if (!next)
		return EXIT_NO_NEIGHBOUR;
	struct hop hop = { .second = *(volatile __u64 *)&next->second };
	order_reads();
	hop.first = *(volatile __u64 *)&next->first;
	hop.interface = *(volatile __u32 *)&next->interface;
	if (!hop.tenancy || hop.tenancy != flow->tenancies[direction & 1])
		return EXIT_NO_NEIGHBOUR;
	if (!fits(skb, &packet, hop.mtu))
		return EXIT_TOO_BIG;
	if (packet.protocol == IPPROTO_TCP && !is_in_window(flow, direction, &packet))
		return EXIT_TCP_WINDOW;
	if (!read_rewrite(&rewrite, flow, direction & 1))
		return EXIT_NO_FLOW;
	rewrite.plain = is_plain(&rewrite, &packet);
	order_reads();
	/* Nobody has changed the flow meanwhile, or the hop. */
	if (*(volatile __u32 *)&flow->turn != turn)
		return EXIT_NO_FLOW;
	if (*(volatile __u64 *)&next->second != hop.second)
		return EXIT_NO_NEIGHBOUR;
	if (!write_packet(skb, &rewrite, &packet, &hop))
		return EXIT_REFUSED;
	if (packet.protocol == IPPROTO_TCP)
		note_segment(flow, direction, &packet);
	count(skb, flow, direction, &packet);
	*out = hop.interface;
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
	__u64 *counter = bpf_map_lookup_elem(&exits, &exit);
	if (counter)
		*counter += 1;
	if (exit == EXIT_FORWARDED)
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

char LICENSE[] SEC("license") = "Apache-2.0";
