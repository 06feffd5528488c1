//! What the programs and the node share, as `bpf/layout.h` has it: every field an atomic, as the kernel reads and
//! writes it at the same time.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Places for nodes: they have numbers from 1 to 16.
pub(super) const PEERS: u32 = 17;
/// Of the first of `Flow::shifts`: whose packets a flow's are, by how it comes.
pub(super) const KIND: u8 = 0x60;
pub(super) const KIND_OWN: u8 = 0;
pub(super) const KIND_LEGS: u8 = 0x20;
pub(super) const KIND_RELAY: u8 = 0x40;
/// Of `Flow::shifts`: the shift itself.
pub(super) const SHIFT: u8 = 0x0f;
/// That packets come from which another node hands over: no zone has the number.
pub(super) const ZONE_OF_PEERS: u16 = 0xfffe;

/// Ways of a bucket of the index.
pub(super) const WAYS: usize = 8;
/// Places for data interfaces, and how many are tried from an interface's own.
pub(super) const PORTS: u32 = 256;
pub(super) const PORTS_TRIED: u32 = 4;
/// Workers at most, and where their numbers stand in a stamp.
pub(super) const WORKERS: usize = 16;
pub(super) const WORKER_SHIFT: u32 = 28;
/// Places for the host's ports.
pub(super) const HOST_PORTS: usize = 8;
/// Of the first of `Flow::shifts`: of the originator nothing but its SYN was known to have been sent.
pub(super) const OPENING: u8 = 0x80;
/// Of `Flow::shifts`: the side has not offered to scale windows.
pub(super) const UNSCALED: u8 = 0x10;
/// Of the second of `Flow::shifts`: the programs have seen the replier's SYN.
pub(super) const ANSWERED: u8 = 0x20;
/// Of `Side::window`: the side has sent its FIN.
pub(super) const SENT_FIN: u32 = 1 << 31;
/// Counters of IPv4 identifications, of which the programs alone know.
pub(super) const IDENTIFICATIONS: u32 = 4_096;
/// Places for destinations under flood, for sources that are known, and for SYNs that were asked, of which the programs
/// alone know.
pub(super) const FLOODS: u32 = 64;
pub(super) const KNOWN: u32 = 1 << 16;
pub(super) const ASKED: u32 = 1 << 19;

#[derive(Debug)]
#[repr(C)]
pub(super) struct Bucket {
    pub(super) ways: [AtomicU64; WAYS],
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Side {
    pub(super) end: AtomicU32,
    pub(super) ack: AtomicU32,
    pub(super) edge: AtomicU32,
    pub(super) window: AtomicU32,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Flow {
    pub(super) turn: AtomicU32,
    pub(super) stamp: AtomicU32,
    pub(super) addresses: [[AtomicU32; 2]; 2],
    pub(super) ports: [[AtomicU16; 2]; 2],
    pub(super) hops: [AtomicU32; 2],
    pub(super) tenancies: [AtomicU16; 2],
    pub(super) zones: [AtomicU16; 2],
    pub(super) address_delta: AtomicU16,
    pub(super) port_delta: AtomicU16,
    pub(super) version: AtomicU8,
    pub(super) protocol: AtomicU8,
    pub(super) shifts: [AtomicU8; 2],
    pub(super) last_seen: [AtomicU32; 2],
    pub(super) packets: [AtomicU64; 2],
    pub(super) bytes: [AtomicU64; 2],
    pub(super) sides: [Side; 2],
}

impl Flow {
    /// Whether a flow is there, and written whole.
    pub(super) fn is_used(&self) -> bool {
        let turn = self.turn.load(Relaxed);
        turn != 0 && turn & 1 == 0
    }
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Wide {
    pub(super) words: [[AtomicU64; 4]; 2],
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Head {
    pub(super) words: [[AtomicU64; 4]; 2],
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Peer {
    pub(super) turn: AtomicU32,
    pub(super) open: AtomicU32,
    pub(super) interface: AtomicU32,
    pub(super) version: AtomicU16,
    pub(super) next_version: AtomicU16,
    pub(super) local: [AtomicU32; 4],
    pub(super) remote: [AtomicU32; 4],
    pub(super) next: [AtomicU32; 4],
}

/// Link addresses lie in the lower six bytes of a word, MTU or tenancy in the upper two.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Hop {
    pub(super) destination_and_mtu: AtomicU64,
    pub(super) source_and_tenancy: AtomicU64,
    pub(super) interface: AtomicU32,
    pub(super) unused: AtomicU32,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct PortPlace {
    pub(super) interface: AtomicU32,
    pub(super) zone: AtomicU16,
    pub(super) address: [AtomicU16; 3],
    pub(super) takes_frames: AtomicU32,
    pub(super) doors: [AtomicU32; WORKERS],
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Control {
    pub(super) stamp: AtomicU32,
    pub(super) host_ports: [AtomicU16; HOST_PORTS],
    pub(super) confirmed: AtomicU32,
    pub(super) layout: AtomicU64,
    pub(super) seeds: [AtomicU64; 2],
    /// Which half of `hops` the flows name.
    pub(super) hops: AtomicU32,
    /// Whether flows of both halves are there.
    pub(super) resuming: AtomicU32,
    /// Until when any of `floods` may be one, in units of 2^30 ns.
    pub(super) flooded: AtomicU32,
    /// Until when packets go between nodes, in units of 2^24 ns; zero is not at all.
    pub(super) between: AtomicU32,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Flood {
    pub(super) words: [AtomicU64; 2],
    pub(super) port: AtomicU16,
    pub(super) zone: AtomicU16,
    pub(super) until: AtomicU32,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct ChallengeState {
    pub(super) words: [AtomicU64; 4],
}

/// The upper half of a hash above, a time below.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Mark(pub(super) AtomicU64);

#[derive(Debug)]
#[repr(C)]
pub(super) struct Past {
    pub(super) opened: AtomicU64,
    pub(super) seen: AtomicU64,
    pub(super) ingress: [AtomicU32; 2],
    pub(super) packets: [AtomicU64; 2],
    pub(super) bytes: [AtomicU64; 2],
    /// Of the replier's SYN, where the programs have seen it.
    pub(super) sequence: AtomicU32,
    pub(super) unused: AtomicU32,
}

/// What `bpf/layout.h` and `bpf/flow.h` say, as a number: tables of a process that was built from others mean nothing here.
pub(super) const LAYOUT: u64 = match u64::from_str_radix(env!("GABION_LAYOUT"), 16) {
    Ok(number) => number,
    Err(_) => panic!("build.rs writes a number"),
};

const _: () = {
    assert!(size_of::<Bucket>() == 64);
    assert!(size_of::<Flow>() == 128);
    assert!(std::mem::offset_of!(Flow, packets) == 64);
    assert!(size_of::<Wide>() == 64);
    assert!(size_of::<Head>() == 64);
    assert!(size_of::<Peer>() == 64);
    assert!(size_of::<Hop>() == 24);
    assert!(size_of::<PortPlace>() == 80);
    assert!(size_of::<Control>() == 64);
    assert!(size_of::<Past>() == 64);
    assert!(size_of::<Flood>() == 24);
    assert!(size_of::<ChallengeState>() == 32);
    assert!(size_of::<Mark>() == 8);
};
