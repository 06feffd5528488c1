/* SPDX-License-Identifier: Apache-2.0 */
/* Packets that are made in the client and end in the server, inside the kernel: no system call, no copy and no wake for
 * any of them. All of it runs on one processor, so that nothing here is atomic. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADERS (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr))
/* How many packets are made between two looks at the clock. */
#define CLOCK_EVERY 1024

/* src/bin/peer/packets/generator.rs has the same words in the same order. */
struct state {
	/* Of the next packet. */
	__u64 number;
	/* Flows that packets are of in turn. */
	__u64 flows;
	/* Ports of the client that flows have in turn; then the server's address is the next. */
	__u64 ports;
	/* The server's first address, and the ports of client and server, as numbers. */
	__u64 address;
	__u64 first_port;
	__u64 service;
	/* Whether the server sends packets back instead of dropping them. */
	__u64 echo;
	/* Whether the clock is read at each packet that arrives. */
	__u64 timed;
	/* The client's. */
	__u64 interface;
	/* CLOCK_MONOTONIC: of the first packet made since it was zero, and of what was last looked at. */
	__u64 first;
	__u64 last;
	/* Packets at the server, and back at the client. */
	__u64 arrived;
	__u64 returned;
	/* Ethernet, IPv4 without the server's address and with no sum, UDP; and what the IPv4 words sum up to. */
	__u64 sum;
	__u8 headers[48];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

static __always_inline struct state *the_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&state, &zero);
}

/* A page comes back as the packet left it: every header is written anew. */
SEC("xdp")
int generate(struct xdp_md *context)
{
	struct state *state = the_state();
	void *data = (void *)(long)context->data;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	__u64 number, flow;
	__u32 address, sum;

	if (!state || data + HEADERS > (void *)(long)context->data_end || !state->flows || !state->ports)
		return XDP_ABORTED;
	number = state->number++;
	if (!state->first)
		state->first = bpf_ktime_get_ns();
	else if (!state->timed && number % CLOCK_EVERY == 0)
		state->last = bpf_ktime_get_ns();
	flow = number % state->flows;
	address = state->address + flow / state->ports;
	sum = state->sum + (address >> 16) + (address & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	__builtin_memcpy(data, state->headers, HEADERS);
	ip->daddr = bpf_htonl(address);
	ip->check = bpf_htons(~sum);
	udp->source = bpf_htons(state->first_port + flow % state->ports);
	return bpf_redirect(state->interface, 0);
}

/* What becomes of a frame. */
enum fate { STRANGE, TAKEN, RETURNED };

static __always_inline enum fate take(void *data, void *end)
{
	struct state *state = the_state();
	struct ethhdr *link = data;
	struct iphdr *ip = (void *)(link + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u8 mac[ETH_ALEN];
	__u32 address;
	__u16 port;

	if (!state || (void *)(udp + 1) > end)
		return STRANGE;
	if (link->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return STRANGE;
	if (udp->source == bpf_htons(state->service)) {
		state->returned++;
		return TAKEN;
	}
	if (udp->dest != bpf_htons(state->service))
		return STRANGE;
	state->arrived++;
	if (state->timed)
		state->last = bpf_ktime_get_ns();
	if (!state->echo)
		return TAKEN;
	__builtin_memcpy(mac, link->h_dest, ETH_ALEN);
	__builtin_memcpy(link->h_dest, link->h_source, ETH_ALEN);
	__builtin_memcpy(link->h_source, mac, ETH_ALEN);
	address = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = address;
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	return RETURNED;
}

/* Where packets come in, at server and client. */
SEC("classifier")
int arrive(struct __sk_buff *skb)
{
	switch (take((void *)(long)skb->data, (void *)(long)skb->data_end)) {
	case TAKEN:
		return TC_ACT_SHOT;
	case RETURNED:
		return bpf_redirect(skb->ifindex, 0);
	default:
		return TC_ACT_UNSPEC;
	}
}

/* The same where frames come from a driver, and no socket buffer is to be made of them. */
SEC("xdp")
int arrive_early(struct xdp_md *context)
{
	switch (take((void *)(long)context->data, (void *)(long)context->data_end)) {
	case TAKEN:
		return XDP_DROP;
	case RETURNED:
		return XDP_TX;
	default:
		return XDP_PASS;
	}
}

char LICENSE[] SEC("license") = "Apache-2.0";
