/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs and the node share. src/ebpf/layout.rs has the same; both assert sizes. */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* A place of the index: the hash's upper half above, below it twice the flow's slot, plus the direction, plus one.
 * Zero is free. One word, so that it is read and written whole. */
struct bucket {
	__u64 ways[8];
};

/* One side of a TCP connection: engine/src/tcp/window.rs says what the words mean. */
struct side {
	__u32 end;
	__u32 ack;
	__u32 edge;
	/* 2^30 at most, and SENT_FIN; zero while nothing is known of the side. */
	__u32 window;
};

/* A connection. Arrays are indexed by direction. A packet of a direction arrives with its addresses and ports and
 * leaves with the other's, turned round. */
struct flow {
	/* The first line: the node writes it; odd while it does, and while nobody has the slot. */
	__u32 turn;
	/* The judgement that it comes from: another than `control.stamp` is outdated. The uppermost bits say of which
	 * worker's judgements it is one. */
	__u32 stamp;
	/* Source and destination as on the wire. Of IPv6, the first word is the place in `wide`. */
	__u32 addresses[2][2];
	__u16 ports[2][2];
	__u32 hops[2];
	__u16 tenancies[2];
	/* That packets of the direction come from. */
	__u16 zones[2];
	/* What the original direction does to a sum over addresses, and over ports, as the words stand in memory. The
	 * other direction does the opposite. */
	__u16 address_delta;
	__u16 port_delta;
	__u8 version;
	__u8 protocol;
	/* By how much announced windows are shifted, 14 at most, and UNSCALED; in the first one KIND and OPENING, in the
	 * second ANSWERED. The programs write the second, once, with the replier's SYN. */
	__u8 shifts[2];
	/* In units of 2^30 ns of CLOCK_MONOTONIC: the programs write these and what follows. */
	__u32 last_seen[2];
	/* The second line. */
	__u64 packets[2];
	__u64 bytes[2];
	struct side sides[2];
};

/* Of a side's window: it has sent its FIN, the last of what lies before its end. Written behind the end. */
#define SENT_FIN 0x80000000u

/* Of the originator nothing but its SYN was known to have been sent. */
#define OPENING 0x80
/* This side has not offered to scale windows, so that nobody does (RFC 7323 section 2.2). */
#define UNSCALED 0x10
/* The programs have seen the replier's SYN: `past.sequence`. */
#define ANSWERED 0x20

/* Whose packets a flow's are, by how it comes. */
#define KIND 0x60
/* Those of both directions come in by interfaces here. */
#define KIND_OWN 0
/* Another node hands over those of a direction, whose zone is ZONE_OF_PEERS. */
#define KIND_LEGS 0x20
/* Another node's flow, to which packets are handed over: `hops` are nodes, and `tenancies` bytes of the largest packet. */
#define KIND_RELAY 0x40

/* No zone of the node's has this number. */
#define ZONE_OF_PEERS 0xfffe

/* The addresses of an IPv6 connection: source and destination of each direction. */
struct wide {
	__u64 words[2][4];
};

/* Where packets go next. `tenancy` is zero while nobody is there. */
struct hop {
	union {
		struct {
			__u8 destination[6];
			__u16 mtu;
		};
		__u64 first;
	};
	union {
		struct {
			__u8 source[6];
			__u16 tenancy;
		};
		__u64 second;
	};
	__u32 interface;
	__u32 unused;
};

/* At most: the upper bits of a stamp are a worker's number. */
#define WORKERS 16
#define WORKER_SHIFT 28

/* A data interface, at its number modulo the size or shortly behind. */
struct port {
	__u32 interface;
	__u16 zone;
	/* Its link address. */
	__u16 address[3];
	/* Whether its driver sends frames of XDP programs. */
	__u32 takes_frames;
	/* Where packets wait for each worker; zero while there is none. */
	__u32 doors[WORKERS];
};

#define HOST_PORTS 8

/* Of a flow that several nodes have to do with: what stands before packets of each direction on their way between
 * them, GENEVE and its option (docs/cluster.md section 7). */
struct head {
	__u64 words[2][4];
};

/* Another node, at its number. */
struct peer {
	/* Odd while the node writes it. */
	__u32 turn;
	/* Whether packets are handed over to it. */
	__u32 open;
	/* By which interface; zero where none is known. */
	__u32 interface;
	/* Of the addresses, 4 or 6, and of the next hop on the way there; zero is nobody. */
	__u16 version;
	__u16 next_version;
	/* This node's address, the other's, and the next hop's; of IPv4 the first word. */
	__u32 local[4];
	__u32 remote[4];
	__u32 next[4];
};

/* Of each worker; what is said of the ports and the tables, the first has. */
struct control {
	/* Zero: nothing passes by itself. */
	__u32 stamp;
	/* TCP ports that the guard leaves to the host on data interfaces, as on the wire; zero is none. Nothing is kept
	 * from the host while the first is zero. */
	__u16 host_ports[HOST_PORTS];
	/* Until when the node has confirmed it, in units of 2^30 ns of CLOCK_MONOTONIC; zero for ever. */
	__u32 confirmed;
	/* Of the node alone: what a later process has to know of the tables. */
	__u64 layout;
	__u64 seeds[2];
	__u32 hops;
	__u32 resuming;
	/* Until when any of `floods` may be one, in the same units. */
	__u32 flooded;
	/* Until when flows of this node's are moved that another hands packets over of, in units of 2^24 ns and modulo
	 * 2^32; zero is not at all. */
	__u32 between;
};

/* A destination to which many handshakes are open, as packets to it show it. */
struct flood {
	/* Of the address as it stands in memory; of IPv4, the first alone. */
	__u64 words[2];
	/* As on the wire. */
	__u16 port;
	/* That its packets come from. */
	__u16 zone;
	/* In units of 2^30 ns of CLOCK_MONOTONIC. */
	__u32 until;
};

/* Of the keyed hash whose value is asked for. */
struct challenge_state {
	__u64 words[4];
};

/* What a later process wants to know of a flow: the node's alone, but for the last. */
struct past {
	/* Nanoseconds of CLOCK_MONOTONIC. */
	__u64 opened;
	__u64 seen;
	/* That packets of each direction come in by. */
	__u32 ingress[2];
	/* What is not in the flow's own counters. */
	__u64 packets[2];
	__u64 bytes[2];
	/* Of the replier's SYN. */
	__u32 sequence;
	__u32 unused;
};

_Static_assert(sizeof(struct bucket) == 64, "a line of the cache");
_Static_assert(sizeof(struct flow) == 128, "two lines of the cache");
_Static_assert(__builtin_offsetof(struct flow, packets) == 64, "the second line");
_Static_assert(sizeof(struct wide) == 64, "a line of the cache");
_Static_assert(sizeof(struct head) == 64, "a line of the cache");
_Static_assert(sizeof(struct peer) == 64, "a line of the cache");
_Static_assert(sizeof(struct hop) == 24, "three words");
_Static_assert(sizeof(struct port) == 80, "ten words");
_Static_assert(sizeof(struct control) == 64, "a line of the cache");
_Static_assert(sizeof(struct past) == 64, "a line of the cache");
_Static_assert(sizeof(struct flood) == 24, "three words");
_Static_assert(sizeof(struct challenge_state) == 32, "four words");

#define PORTS 256
#define PORTS_TRIED 4
#define IDENTIFICATIONS 4096
/* Places by hash, in each of which the last one counts. */
#define FLOODS 64
#define KNOWN 65536
#define ASKED 524288
/* Ten minutes, in units of 2^30 ns; and how many of those an epoch has, as a shift: engine/src/challenge.rs. */
#define KNOWN_FOR 558
#define EPOCH_SHIFT 3

/* Nodes have numbers from 1 to 16. */
#define PEERS 17

/* What became of a packet: src/ebpf/exits.rs has the names. All but the first four and the last go to the engine. */
enum exit {
	EXIT_FORWARDED,
	/* By XDP. */
	EXIT_FORWARDED_EARLY,
	/* To another node, and from one. */
	EXIT_WRAPPED,
	EXIT_UNWRAPPED,
	EXIT_NOT_IP,
	EXIT_NO_FLOW,
	EXIT_STALE,
	EXIT_WRONG_ZONE,
	EXIT_OTHER_HOST,
	EXIT_HEADER,
	EXIT_FRAGMENT,
	EXIT_PROTOCOL,
	EXIT_HOP_LIMIT,
	EXIT_TCP_FLAGS,
	EXIT_TCP_OPTIONS,
	EXIT_TCP_WINDOW,
	EXIT_TOO_BIG,
	EXIT_NO_NEIGHBOUR,
	EXIT_REFUSED,
	EXIT_UNCONFIRMED,
	EXIT_NO_PEER,
	EXIT_OTHER_HEAD,
	/* A SYN that was answered (challenge.h). */
	EXIT_CHALLENGED,
	EXITS,
};

#define SHARED_ARRAY(name, of, entries)                                                                              \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, entries);                                                                          \
		__type(key, __u32);                                                                                    \
		__type(value, of);                                                                                   \
	} name SEC(".maps")

/* Sizes that depend on the node's limits are set by the loader. */
SHARED_ARRAY(flow_index, struct bucket, 1);
/* Whose keys are: a hash's upper 56 bits, and below them the worker's number plus one. Zero is free. */
SHARED_ARRAY(shards, struct bucket, 1);
SHARED_ARRAY(flows, struct flow, 1);
SHARED_ARRAY(wide, struct wide, 1);
SHARED_ARRAY(hops, struct hop, 1);
SHARED_ARRAY(ports, struct port, PORTS);
SHARED_ARRAY(control, struct control, 1);
SHARED_ARRAY(pasts, struct past, 1);
SHARED_ARRAY(heads, struct head, 1);
SHARED_ARRAY(peers, struct peer, PEERS);
SHARED_ARRAY(identifications, __u32, IDENTIFICATIONS);
SHARED_ARRAY(floods, struct flood, FLOODS);
SHARED_ARRAY(challenge_state, struct challenge_state, 1);
/* Sources that are known, and SYNs that were asked: the hash's upper half above, the time below. */
SHARED_ARRAY(known, __u64, KNOWN);
SHARED_ARRAY(asked, __u64, ASKED);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EXITS);
	__type(key, __u32);
	__type(value, __u64);
} exits SEC(".maps");

/* Chosen by the loader: the index has a power of two of buckets. */
const volatile __u32 bucket_mask = 0;
const volatile __u32 shard_mask = 0;
const volatile __u32 workers = 1;
const volatile __u32 hash_keys[10] = {};
const volatile __u64 seed = 0;
/* UDP port of packets between nodes, as on the wire. */
const volatile __u16 wrapped_port = 0;
/* Of the addresses between nodes, 4 or 6: what is of the other need not be looked through before programs are loaded. */
const volatile __u8 outer_version = 4;
