/* SPDX-License-Identifier: Apache-2.0 */
/* Reads headers into a value. What is not plain TCP or UDP over IP, whole and in order, is the engine's. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>

#include "layout.h"

#define always_inline static __attribute__((always_inline)) inline

struct packet {
	/* Source and destination as on the wire: one of the two. */
	__u32 addresses[2];
	__u64 words[4];
	__u16 ports[2];
	__u8 version;
	__u8 protocol;
	__u8 hop_limit;
	__u8 dont_fragment;
	/* Of the transport header, as it stands. */
	__u16 checksum;
	/* Of the transport header from the frame's beginning. */
	__u32 transport;
	/* Bytes of the IP packet, and of all headers that each segment of a superframe repeats. */
	__u32 length;
	__u32 headers;
	/* Of TCP. */
	__u32 sequence;
	__u32 acknowledgement;
	__u32 payload;
	__u32 window;
	/* Zero or one: it counts as a byte behind the payload. */
	__u32 fin;
	/* With an acknowledgement; and the scale that it offers. */
	__u32 syn;
	__u32 shift;
};

always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* RFC 1812 section 5.2.2 has a router see whether the header's checksum is right. */
always_inline int read_ipv4(struct packet *packet, struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end)
		return EXIT_HEADER;
	/* No options: version 4, five words. */
	if (*(__u8 *)ip != 0x45)
		return EXIT_HEADER;
	__u32 *words = (__u32 *)ip;
	if (fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
		return EXIT_HEADER;
	/* More fragments, and the offset (RFC 791 section 3.1). */
	if (ip->frag_off & bpf_htons(0x3fff))
		return EXIT_FRAGMENT;
	packet->version = 4;
	packet->protocol = ip->protocol;
	packet->hop_limit = ip->ttl;
	packet->dont_fragment = !!(ip->frag_off & bpf_htons(0x4000));
	packet->addresses[0] = ip->saddr;
	packet->addresses[1] = ip->daddr;
	packet->length = bpf_ntohs(ip->tot_len);
	packet->transport = ETH_HLEN + sizeof(*ip);
	return 0;
}

always_inline int read_ipv6(struct packet *packet, struct ipv6hdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 6)
		return EXIT_HEADER;
	__u64 *words = (__u64 *)&ip->saddr;
	packet->version = 6;
	packet->protocol = ip->nexthdr;
	packet->hop_limit = ip->hop_limit;
	packet->dont_fragment = 1;
	packet->words[0] = words[0];
	packet->words[1] = words[1];
	packet->words[2] = words[2];
	packet->words[3] = words[3];
	packet->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	packet->transport = ETH_HLEN + sizeof(*ip);
	return 0;
}

#define OPTIONS_MAX 10

/* No scale is offered. */
#define NO_SHIFT 0xff
/* RFC 7323 section 2.3: larger ones are taken for this. */
#define MAX_SHIFT 14

/* Options of a SYN, as words of the header: the largest segment, a scale behind a filler, selective acknowledgements
 * behind two, and those together with timestamps, of which two words follow. */
#define IS_MSS(word) (((word) & bpf_htonl(0xffff0000)) == bpf_htonl(0x02040000))
#define IS_SCALE(word) (((word) & bpf_htonl(0xffffff00)) == bpf_htonl(0x01030300))
#define SACK bpf_htonl(0x01010402)
#define SACK_AND_TIMESTAMPS bpf_htonl(0x0402080a)

/* The options of a SYN with an acknowledgement, in the orders in which Linux, BSD and Windows send them: any order
 * would take a loop whose every turn the verifier follows to the program's end. */
always_inline int read_offers(struct packet *packet, __u32 *words, __u32 count, void *end)
{
	__u32 scale = 0;

	packet->shift = NO_SHIFT;
	if (!count)
		return 0;
	if ((void *)(words + count) > end || (void *)(words + 1) > end || !IS_MSS(words[0]))
		return EXIT_TCP_OPTIONS;
	if (count == 2) {
		if ((void *)(words + 2) > end)
			return EXIT_TCP_OPTIONS;
		if (words[1] != SACK)
			scale = words[1];
	} else if (count == 3) {
		if ((void *)(words + 3) > end)
			return EXIT_TCP_OPTIONS;
		scale = words[1] == SACK ? words[2] : words[2] == SACK ? words[1] : 1;
	} else if (count == 4) {
		if ((void *)(words + 4) > end || words[1] != SACK_AND_TIMESTAMPS)
			return EXIT_TCP_OPTIONS;
	} else if (count == 5) {
		if ((void *)(words + 5) > end)
			return EXIT_TCP_OPTIONS;
		scale = words[1] == SACK_AND_TIMESTAMPS ? words[4] : words[2] == SACK_AND_TIMESTAMPS ? words[1] : 1;
	} else if (count > 5) {
		return EXIT_TCP_OPTIONS;
	}
	if (!scale)
		return 0;
	if (!IS_SCALE(scale))
		return EXIT_TCP_OPTIONS;
	packet->shift = bpf_ntohl(scale) & 0xff;
	if (packet->shift > MAX_SHIFT)
		packet->shift = MAX_SHIFT;
	return 0;
}

/* Options of an established connection: timestamps and selective acknowledgements (RFC 7323, RFC 2018). */
always_inline int check_options(__u8 *at, __u8 *options_end, void *end)
{
#pragma unroll
	for (int count = 0; count < OPTIONS_MAX; count++) {
		if (at >= options_end)
			return 0;
		if ((void *)(at + 2) > end)
			return EXIT_TCP_OPTIONS;
		__u8 kind = at[0], length = at[1];
		if (kind == 0)
			return 0;
		if (kind == 1) {
			at += 1;
			continue;
		}
		_Bool timestamps = kind == 8 && length == 10;
		_Bool blocks = kind == 5 && (length == 10 || length == 18 || length == 26 || length == 34);
		if ((!timestamps && !blocks) || at + length > options_end)
			return EXIT_TCP_OPTIONS;
		at += length;
	}
	return at >= options_end ? 0 : EXIT_TCP_OPTIONS;
}

always_inline int read_tcp(struct packet *packet, struct tcphdr *tcp, void *end)
{
	if ((void *)(tcp + 1) > end)
		return EXIT_HEADER;
	__u32 header = tcp->doff * 4;
	__u32 network = packet->transport - ETH_HLEN;
	if (header < sizeof(*tcp) || network + header > packet->length)
		return EXIT_HEADER;
	if (!tcp->ack || tcp->rst || (tcp->syn && (tcp->fin || tcp->urg)))
		return EXIT_TCP_FLAGS;
	packet->syn = tcp->syn;
	if (tcp->syn) {
		int wrong = read_offers(packet, (__u32 *)(tcp + 1), tcp->doff - 5, end);
		if (wrong)
			return wrong;
	} else if (header > sizeof(*tcp)) {
		__u8 *options = (__u8 *)(tcp + 1);
		int wrong = check_options(options, (__u8 *)tcp + header, end);
		if (wrong)
			return wrong;
	}
	packet->ports[0] = tcp->source;
	packet->ports[1] = tcp->dest;
	packet->sequence = bpf_ntohl(tcp->seq);
	packet->acknowledgement = bpf_ntohl(tcp->ack_seq);
	packet->window = bpf_ntohs(tcp->window);
	packet->fin = tcp->fin;
	packet->checksum = tcp->check;
	packet->headers = network + header;
	packet->payload = packet->length - packet->headers;
	return 0;
}

always_inline int read_udp(struct packet *packet, struct udphdr *udp, void *end)
{
	if ((void *)(udp + 1) > end)
		return EXIT_HEADER;
	__u32 network = packet->transport - ETH_HLEN;
	__u32 length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || network + length > packet->length)
		return EXIT_HEADER;
	/* RFC 8200 section 8.1. */
	if (packet->version == 6 && udp->check == 0)
		return EXIT_HEADER;
	packet->ports[0] = udp->source;
	packet->ports[1] = udp->dest;
	packet->checksum = udp->check;
	packet->headers = network + sizeof(*udp);
	return 0;
}

/* Reads what stands at `network`. Returns zero, or why the engine has to look. */
always_inline int read_network(struct packet *packet, __be16 ethertype, void *network, void *end)
{
	int wrong;

	if (ethertype == bpf_htons(ETH_P_IP))
		wrong = read_ipv4(packet, network, end);
	else if (ethertype == bpf_htons(ETH_P_IPV6))
		wrong = read_ipv6(packet, network, end);
	else
		wrong = EXIT_NOT_IP;
	if (wrong)
		return wrong;
	void *transport = packet->version == 4 ? network + sizeof(struct iphdr) : network + sizeof(struct ipv6hdr);
	if (packet->protocol == IPPROTO_TCP)
		return read_tcp(packet, transport, end);
	if (packet->protocol == IPPROTO_UDP)
		return read_udp(packet, transport, end);
	return EXIT_PROTOCOL;
}

always_inline int read_packet(struct packet *packet, void *data, void *end)
{
	struct ethhdr *ethernet = data;

	if ((void *)(ethernet + 1) > end)
		return EXIT_NOT_IP;
	return read_network(packet, ethernet->h_proto, ethernet + 1, end);
}
