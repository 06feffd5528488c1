// SPDX-License-Identifier: Apache-2.0
/* The fast path before the stack makes anything of a frame, where the driver has a place for programs (native XDP).
 *
 * What a flow covers is rewritten and sent on, and nobody else sees it. Anything else goes on as it came, and nothing is
 * noted of it: behind it stands the program at tc ingress, which sees it as if this one were not there. Frames are as
 * they were on the wire: no superframes, and checksums are whole. */
#include "cover.h"

/* Nobody has looked yet at whom the frame was sent to. */
always_inline bool is_to(const struct port *port, void *data)
{
	return *(__u16 *)data == port->address[0] && *(__u16 *)(data + 2) == port->address[1] &&
	       *(__u16 *)(data + 4) == port->address[2];
}

always_inline void mend_whole(__u16 *checksum, const struct rewrite *rewrite, const struct packet *packet)
{
	bool is_udp = packet->protocol == IPPROTO_UDP;

	/* RFC 768: the sender has made none. */
	if (is_udp && !packet->checksum)
		return;
	__u16 now = mend(packet->checksum, (__u32)rewrite->address_delta + rewrite->port_delta);
	/* RFC 768: zero says that there is none. */
	*checksum = now || !is_udp ? now : 0xffff;
}

/* Returns false where the frame could not be changed; it has not been then. */
always_inline bool write_frame(struct xdp_md *context, const struct rewrite *rewrite, const struct packet *packet,
			       const struct hop *hop, __u32 length)
{
	__u32 filled = length - ETH_HLEN - packet->length;

	/* What fills a short frame is not the packet's (CVE-2003-0001). The card fills it anew. */
	if (filled && bpf_xdp_adjust_tail(context, -(int)filled))
		return false;
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	void *network = data + ETH_HLEN;
	__u16 *ports = network + (packet->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	__u16 *checksum = (void *)ports + (packet->protocol == IPPROTO_UDP ? __builtin_offsetof(struct udphdr, check)
									   : __builtin_offsetof(struct tcphdr, check));

	/* They were there before. */
	if ((void *)(ports + 2) > end || (void *)(checksum + 1) > end)
		return false;
	write_headers(network, ports, rewrite, packet);
	if (!rewrite->plain)
		mend_whole(checksum, rewrite, packet);
	write_link(data, hop);
	return true;
}

/* Moves the packet if a flow covers it. Returns whether it does. */
always_inline bool pass_early(struct xdp_md *context, __u32 *out)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct frame frame = { .length = end - data };
	struct port *port = find_port(context->ingress_ifindex);
	struct packet packet;
	struct cover cover;

	if (!port || read_packet(&packet, data, end) || !is_to(port, data) ||
	    find_entry(&cover, &packet, port->zone))
		return false;
	/* What goes to other nodes is wrapped at tc. */
	if (kind_of(cover.flow) == KIND_RELAY || check_cover(&cover, &packet, &frame))
		return false;
	/* A driver that takes no frames of programs' drops them, and says so to nobody. */
	struct port *way = find_port(cover.hop.interface);
	if (!way || !way->takes_frames || !write_frame(context, &cover.rewrite, &packet, &cover.hop, frame.length))
		return false;
	note_packet(&cover, &packet, &frame);
	*out = cover.hop.interface;
	return true;
}

SEC("xdp")
int fast_path_xdp(struct xdp_md *context)
{
	__u32 out = 0;

	if (!pass_early(context, &out))
		return XDP_PASS;
	count_exit(EXIT_FORWARDED_EARLY);
	return bpf_redirect(out, 0);
}
