/* SPDX-License-Identifier: Apache-2.0 */
/* Asks unknown sources of SYNs whether they are there, while the engine does so for the same destination:
 * engine/src/challenge.rs has the whole. The frame goes back as an empty acknowledgement of something that its sender
 * has not sent. Nothing is allocated, and nothing is kept but that it was asked, in a table that does not grow. */
#pragma once

#include "cover.h"

#define PLAIN_TCP 20
#define HOP_LIMIT 64

/* RFC 6298 section 2.1 has a SYN repeated after a second, two more, and four more. In units of the clock. */
#define REPEATED_WITHIN 9

always_inline void sip_round(__u64 *v)
{
#define ROTATE(word, bits) ((word) << (bits) | (word) >> (64 - (bits)))
	v[0] += v[1];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[3];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[2] = ROTATE(v[2], 32);
#undef ROTATE
}

always_inline void sip_word(__u64 *v, __u64 word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/* SipHash-1-3 over addresses, ports, protocol and epoch: `KeyedHash::flow_in` of the engine. */
always_inline __u32 number(const struct packet *packet, const __u64 *state, __u32 now)
{
	__u64 v[4] = { state[0], state[1], state[2], state[3] };
	__u64 last = bpf_ntohs(packet->ports[0]) | (__u64)bpf_ntohs(packet->ports[1]) << 16 |
		     (__u64)IPPROTO_TCP << 32 | (__u64)(now >> EPOCH_SHIFT & 0xffff) << 40;

	if (packet->version == 4) {
		sip_word(v, packet->addresses[0] | (__u64)packet->addresses[1] << 32);
		last |= 13ull << 56;
	} else {
#pragma unroll
		for (int at = 0; at < 4; at++)
			sip_word(v, packet->words[at]);
		last |= 37ull << 56;
	}
	sip_word(v, last);
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Whether so many handshakes are open to where the packet goes that unknown sources are asked. */
always_inline bool is_flooded(const struct packet *packet, const struct port *port, __u32 now)
{
	struct packet end = { .version = packet->version, .ports = { 0, packet->ports[1] } };

	if (packet->version == 4) {
		end.addresses[1] = packet->addresses[1];
	} else {
		end.words[2] = packet->words[2];
		end.words[3] = packet->words[3];
	}
	__u32 place = hash(&end) & (FLOODS - 1);
	struct flood *flood = bpf_map_lookup_elem(&floods, &place);
	if (!flood || now >= *(volatile __u32 *)&flood->until || flood->port != packet->ports[1] ||
	    flood->zone != port->zone)
		return false;
	if (packet->version == 4)
		return flood->words[0] == packet->addresses[1] && flood->words[1] == 0;
	return flood->words[0] == packet->words[2] && flood->words[1] == packet->words[3];
}

/* A source that has shown that it is there; of IPv6, its network. */
always_inline bool is_known(const struct packet *packet, __u32 now)
{
	struct packet source = { .version = packet->version };

	if (packet->version == 4)
		source.addresses[0] = packet->addresses[0];
	else
		source.words[0] = packet->words[0];
	__u64 hashed = hash(&source);
	__u32 place = hashed & (KNOWN - 1);
	__u64 *mark = bpf_map_lookup_elem(&known, &place);
	return mark && *mark >> 32 == hashed >> 32 && now - (__u32)*mark <= KNOWN_FOR;
}

/* Whether the same SYN was asked before, some time ago: to some no question comes, and the engine lets them in. */
always_inline bool is_repeated(const struct packet *packet, __u32 now)
{
	__u64 hashed = mix(hash(packet) ^ packet->sequence);
	__u32 place = hashed & (ASKED - 1);
	__u64 *mark = bpf_map_lookup_elem(&asked, &place);

	if (!mark)
		return true;
	__u32 age = now - (__u32)*mark;
	if (*mark >> 32 == hashed >> 32 && age <= REPEATED_WITHIN)
		return age > 0;
	*mark = hashed >> 32 << 32 | now;
	return false;
}

/* Groups, loopback and nobody ask for nothing: the engine says what they are. */
always_inline bool is_host(const struct packet *packet)
{
	if (packet->version == 4) {
		__u8 first = packet->addresses[0];

		return first != 0 && first != 127 && first < 224 && packet->addresses[0] != packet->addresses[1];
	}
	return (packet->words[0] & 0xff) != 0 && (packet->words[0] & 0xff) != 0xff &&
	       (packet->words[0] != packet->words[2] || packet->words[1] != packet->words[3]);
}

always_inline __u64 sum_pseudo_header(const struct packet *packet, __u16 length)
{
	__u64 sum = bpf_htons(IPPROTO_TCP) + bpf_htons(length);

	if (packet->version == 4)
		return sum + packet->addresses[0] + packet->addresses[1];
#pragma unroll
	for (int at = 0; at < 4; at++)
		sum += (packet->words[at] & 0xffffffff) + (packet->words[at] >> 32);
	return sum;
}

enum sum { SUM_WRONG, SUM_WHOLE, SUM_PARTIAL };

/* What the checksum of a bare header is: right, that of the pseudo-header, which somebody will complete, or neither. */
always_inline enum sum check_sum(const struct packet *packet, const struct tcphdr *tcp, __u32 header, void *end)
{
	__u64 pseudo = sum_pseudo_header(packet, header), sum = pseudo;
	__u32 *words = (__u32 *)tcp;

#pragma unroll
	for (__u32 at = 0; at < 15; at++) {
		if (4 * at < header && (void *)(words + at + 1) <= end)
			sum += words[at];
	}
	if (fold(sum) == 0xffff)
		return SUM_WHOLE;
	return tcp->check == fold(pseudo) ? SUM_PARTIAL : SUM_WRONG;
}

/* Reads a SYN without data, behind a network header that has been read. */
always_inline bool read_syn(struct packet *packet, struct tcphdr *tcp, enum sum *sum, void *end)
{
	if ((void *)(tcp + 1) > end || !tcp->syn || tcp->ack || tcp->fin || tcp->rst)
		return false;
	__u32 header = tcp->doff * 4, network = packet->transport - ETH_HLEN;
	if (header < PLAIN_TCP || network + header != packet->length || !tcp->source || !tcp->dest)
		return false;
	packet->ports[0] = tcp->source;
	packet->ports[1] = tcp->dest;
	packet->sequence = bpf_ntohl(tcp->seq);
	*sum = check_sum(packet, tcp, header, end);
	return *sum != SUM_WRONG && packet->hop_limit > 1 && is_host(packet);
}

always_inline void write_challenge_ipv4(struct iphdr *ip, const struct packet *packet)
{
	__u32 *words = (__u32 *)ip;

	words[0] = bpf_htonl(0x45000000 | (sizeof(*ip) + PLAIN_TCP));
	/* Atomic (RFC 6864 section 4.1). */
	words[1] = bpf_htonl(0x4000);
	words[2] = bpf_htonl(HOP_LIMIT << 24 | IPPROTO_TCP << 16);
	words[3] = packet->addresses[1];
	words[4] = packet->addresses[0];
	ip->check = ~fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
}

always_inline void write_challenge_ipv6(struct ipv6hdr *ip, const struct packet *packet)
{
	__u32 *words = (__u32 *)ip;
	__u64 *addresses = (__u64 *)&ip->saddr;

	words[0] = bpf_htonl(0x60000000);
	words[1] = bpf_htonl(PLAIN_TCP << 16 | IPPROTO_TCP << 8 | HOP_LIMIT);
	addresses[0] = packet->words[2];
	addresses[1] = packet->words[3];
	addresses[2] = packet->words[0];
	addresses[3] = packet->words[1];
}

always_inline void write_challenge_tcp(struct tcphdr *tcp, const struct packet *packet, __u32 acknowledged,
				       enum sum kind)
{
	__u32 *words = (__u32 *)tcp;
	__u64 sum = sum_pseudo_header(packet, PLAIN_TCP);

	words[0] = packet->ports[1] | (__u32)packet->ports[0] << 16;
	words[1] = 0;
	words[2] = bpf_htonl(acknowledged);
	/* Five words, ACK, no window. */
	words[3] = bpf_htonl(0x50100000);
	words[4] = 0;
	if (kind == SUM_PARTIAL)
		tcp->check = fold(sum);
	else
		tcp->check = ~fold(sum + words[0] + words[2] + words[3]);
}

always_inline void turn_round(struct ethhdr *ethernet)
{
	__u16 *words = (__u16 *)ethernet;

#pragma unroll
	for (int at = 0; at < 3; at++) {
		__u16 word = words[at];
		words[at] = words[at + 3];
		words[at + 3] = word;
	}
}

/* Makes the answer of a SYN if its source is to be asked; `packet` is what was read of it so far. Returns false where
 * it is the engine's. */
always_inline bool ask(struct __sk_buff *skb, const struct port *port, struct packet *packet)
{
	__u32 zero = 0, now = read_clock();
	struct control *told = bpf_map_lookup_elem(&control, &zero);
	__u64 *state = bpf_map_lookup_elem(&challenge_state, &zero);
	enum sum sum = SUM_WRONG;

	if (!told || !state || now >= *(volatile __u32 *)&told->flooded)
		return false;
	/* Judged no more, or not by this process: nobody would hear the answer. */
	if (!told->stamp || (told->confirmed && told->confirmed < now))
		return false;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 network = packet->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	if (skb->pkt_type != 0 || skb->gso_size || !read_syn(packet, data + ETH_HLEN + network, &sum, end))
		return false;
	if (!is_flooded(packet, port, now) || is_known(packet, now) || is_repeated(packet, now))
		return false;
	/* A sum over the whole frame, of a card's, would be wrong behind it. */
	if (bpf_csum_update(skb, 0) >= 0)
		return false;
	if (bpf_skb_change_tail(skb, ETH_HLEN + network + PLAIN_TCP, 0))
		return false;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + ETH_HLEN + network + PLAIN_TCP > end)
		return false;
	__u32 acknowledged = number(packet, state, now) & 0x7fffffff;
	/* Behind the SYN: nothing that was sent. */
	if (!is_at_most(acknowledged, packet->sequence))
		acknowledged ^= 0x80000000;
	turn_round(data);
	if (packet->version == 4)
		write_challenge_ipv4(data + ETH_HLEN, packet);
	else
		write_challenge_ipv6(data + ETH_HLEN, packet);
	write_challenge_tcp(data + ETH_HLEN + network, packet, acknowledged, sum);
	return true;
}
