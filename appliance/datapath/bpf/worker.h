/* SPDX-License-Identifier: Apache-2.0 */
/* Whose a packet is that is not moved: each worker has a shard of the flows and a door of its own. A packet that comes
 * to another's door is handed over there, so what is said here is never wrong, at worst slow. */
#pragma once

#include "flow.h"

/* Who has a flow with the packet's key, plus one; zero if nobody has. */
always_inline __u32 find_claim_in(__u32 place, __u64 hashed)
{
	return (__u8)find_word(bpf_map_lookup_elem(&shards, &place), hashed >> 8, 8);
}

always_inline __u32 find_claim(const struct packet *packet)
{
	__u64 hashed = hash(packet);
	__u32 tag = hashed >> 32, place = (__u32)hashed & shard_mask;
	__u32 found = find_claim_in(place, hashed);

	return found ? found : find_claim_in(other_place(place, tag) & shard_mask, hashed);
}

/* Where flows of the packet's source begin: src/ebpf/shards.rs has the same. Of IPv6, a network of 64 bits is one source. */
always_inline __u32 choose_worker(const struct packet *packet)
{
	__u32 low = packet->addresses[0], high = 0;

	if (packet->version == 6) {
		low = packet->words[0];
		high = packet->words[0] >> 32;
	}
	return (mix(multiply(low + hash_keys[2], high + hash_keys[3])) >> 32) * workers >> 32;
}

/* Reads headers anew, as only what has been missed gets here. What is no IP, or too short, is the first worker's. */
always_inline __u32 find_worker(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct packet packet = {};
	bool has_ports = true;

	if ((void *)(ethernet + 1) > end)
		return 0;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;
		if ((void *)(ip + 1) > end)
			return 0;
		packet.version = 4;
		packet.protocol = ip->protocol;
		packet.addresses[0] = ip->saddr;
		packet.addresses[1] = ip->daddr;
		has_ports = *(__u8 *)ip == 0x45 && !(ip->frag_off & bpf_htons(0x3fff));
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		if ((void *)(ip + 1) > end)
			return 0;
		__u64 *words = (__u64 *)&ip->saddr;
		packet.version = 6;
		packet.protocol = ip->nexthdr;
		packet.words[0] = words[0];
		packet.words[1] = words[1];
		packet.words[2] = words[2];
		packet.words[3] = words[3];
	} else {
		return 0;
	}
	__u16 *ports = packet.version == 4 ? data + ETH_HLEN + sizeof(struct iphdr)
					   : data + ETH_HLEN + sizeof(struct ipv6hdr);
	has_ports = has_ports && (packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP);
	if (has_ports && (void *)(ports + 2) <= end) {
		packet.ports[0] = ports[0];
		packet.ports[1] = ports[1];
		__u32 found = find_claim(&packet);
		if (found)
			return found - 1;
	}
	return choose_worker(&packet);
}
