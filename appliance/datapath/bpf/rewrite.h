/* SPDX-License-Identifier: Apache-2.0 */
/* What a flow makes of a packet's headers, but for the transport's checksum, which each hook mends in its own way. */
#pragma once

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

/* All but what a hook does to the transport's checksum. */
always_inline void write_headers(void *network, __u16 *ports, const struct rewrite *rewrite, const struct packet *packet)
{
	if (packet->version == 4)
		write_ipv4(network, rewrite, packet);
	else
		write_ipv6(network, rewrite);
	if (!rewrite->plain) {
		ports[0] = rewrite->ports[0];
		ports[1] = rewrite->ports[1];
	}
}

/* Destination and source. No sum that a card has made covers them. */
always_inline void write_link(void *data, const struct hop *hop)
{
	*(__u64 *)data = (hop->first & 0xffffffffffff) | hop->second << 48;
	*(__u32 *)(data + 8) = hop->second >> 16;
}
