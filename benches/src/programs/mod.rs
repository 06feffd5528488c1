//! The fast path's programs on packets in memory (`BPF_PROG_TEST_RUN`): warm caches, nothing that is waited for, nothing
//! that is sent anywhere. Wants root.

mod packet;

use gabion_datapath::ebpf::{
    FastPathLimits, FlowEntry, Hook, HopId, NextHop, TRIAL_INTERFACE, TcpWindow, Trial, WireKey,
};
use gabion_datapath::{LinkAddress, Port};

pub use packet::{Family, Packet, Protocol, sum_header};

/// The hop limit allows no more of one packet.
const REPEAT: u32 = 250;

/// The judgement that flows come from.
pub const STAMP: u32 = 1;
/// That packets come from.
pub const ZONE: u16 = 1;
/// Where they go.
pub const HOP: HopId = HopId { place: 0, tenancy: 1 };
const OURS: LinkAddress = LinkAddress([2, 0, 0, 0, 0, 1]);
/// The loopback device's: what a packet has become is run again, and XDP looks at whom it is sent to.
const NEXT: LinkAddress = LinkAddress([0; 6]);

/// What stands between the packet and its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    None,
    Flow,
    Stamp,
    Window,
}

/// A packet, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    pub packet: Packet,
    /// Whether its flow is translated.
    pub nat: bool,
    pub obstacle: Obstacle,
}

/// Programs with room for so many flows, and one next hop.
///
/// # Errors
/// When the kernel refuses.
pub fn trial(flows: u32) -> anyhow::Result<Trial> {
    let mut trial = Trial::new(FastPathLimits { flows, relays: 0, hops: 1, workers: 1 }, [1, 2])?;
    let table = trial.table();
    let hop = NextHop { interface: TRIAL_INTERFACE, source: OURS, destination: NEXT, mtu: 1_500 };
    table.set_hop(HOP, Some(hop));
    table.set_zone(Port(0), Some(ZONE));
    table.set_stamp(STAMP);
    Ok(trial)
}

impl Subject {
    /// Nanoseconds of a packet, on average over each round of 250.
    ///
    /// # Errors
    /// When the kernel refuses, or something else becomes of the packet.
    pub fn measure(&self, hook: Hook, rounds: usize) -> anyhow::Result<Vec<u32>> {
        let mut trial = trial(1_024)?;
        if self.packet.family != Family::Arp && self.obstacle != Obstacle::Flow {
            for entry in self.flows() {
                trial.table().install(&entry)?;
            }
        }
        let frame = self.packet.frame();
        let covered = self.packet.family != Family::Arp && self.obstacle == Obstacle::None;
        let expected = if covered { hook.sent() } else { hook.left() };
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let result = trial.run(hook, &frame, self.packet.segment, REPEAT)?;
            anyhow::ensure!(result.verdict == expected, "verdict {}", result.verdict);
            times.push(result.nanoseconds);
        }
        Ok(times)
    }

    /// The flow of the packet, and if it is translated another one that turns it into what it was.
    fn flows(&self) -> Vec<FlowEntry> {
        let key = self.packet.key();
        if !self.nat {
            let reply = WireKey { source: key.destination, destination: key.source, ..key };
            return vec![self.entry([key, reply])];
        }
        let (mut there, mut back) = (self.packet.translated(), key);
        std::mem::swap(&mut there.source, &mut there.destination);
        std::mem::swap(&mut back.source, &mut back.destination);
        vec![self.entry([key, there]), self.entry([self.packet.translated(), back])]
    }

    fn entry(&self, keys: [WireKey; 2]) -> FlowEntry {
        let stamp = if self.obstacle == Obstacle::Stamp { STAMP + 1 } else { STAMP };
        let edge = if self.obstacle == Obstacle::Window { 0 } else { 1 << 20 };
        let side =
            TcpWindow { end: 1_000, ack: 1_000, edge, window: 1 << 20, ..TcpWindow::default() };
        let tcp = (self.packet.protocol == Protocol::Tcp).then_some([side; 2]);
        FlowEntry { stamp, keys, zones: [ZONE; 2], hops: [HOP; 2], tcp, legs: [None; 2] }
    }
}
