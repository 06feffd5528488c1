//! The programs of the fast path alone, run by the kernel on packets in memory (`BPF_PROG_TEST_RUN`): what a packet
//! costs that a flow covers, and what one that goes to the engine does. Wants root. Nothing is sent anywhere.
//!
//! Caches are warm and nothing is waited for, so these are the least a packet can cost; differences between lines are
//! what the comparison (`peer`) cannot show. The last lines are of packets of many flows, one run each, of which
//! starting and ending a run is the larger part: only the difference between their numbers of flows means anything, and
//! that between SYNs that are challenged and SYNs that are not.

mod crowd;
mod flood;
mod packet;

use anyhow::Context as _;
use clap::Parser;
use gabion_datapath::ebpf::{
    FastPathLimits, FlowEntry, Hook, HopId, NextHop, TRIAL_INTERFACE, TcpWindow, Trial, WireKey,
};
use gabion_datapath::{LinkAddress, Port};

use self::packet::{Family, Packet, Protocol};

/// Measures the programs of the fast path
#[derive(Debug, Parser)]
struct Options {
    /// Rounds of 250 packets for each line
    #[arg(long, default_value_t = 2_000)]
    rounds: usize,
    /// Flows that one packet each is of, for the last lines
    #[arg(long, default_values_t = [1_000, 1_000_000], value_delimiter = ',')]
    flows: Vec<u32>,
    /// Only lines whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
}

/// The hop limit allows no more of one packet.
const REPEAT: u32 = 250;

const STAMP: u32 = 1;
const ZONE: u16 = 1;
const HOP: HopId = HopId { place: 0, tenancy: 1 };
const OURS: LinkAddress = LinkAddress([2, 0, 0, 0, 0, 1]);
/// The loopback device's: what a packet has become is run again, and XDP looks at whom it is sent to.
const NEXT: LinkAddress = LinkAddress([0; 6]);

/// What stands between the packet and its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    None,
    Flow,
    Stamp,
    Window,
}

/// One line of the report.
#[derive(Debug)]
struct Subject {
    name: String,
    packet: Packet,
    nat: bool,
    obstacle: Obstacle,
}

fn subjects() -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut add = |name: String, packet, nat, obstacle| {
        subjects.push(Subject { name, packet, nat, obstacle });
    };
    let small = |family, protocol| Packet { family, protocol, payload: 18, segment: 0 };
    let udp = small(Family::Ipv4, Protocol::Udp);
    let tcp = small(Family::Ipv4, Protocol::Tcp);
    add("miss/arp".into(), small(Family::Arp, Protocol::Udp), false, Obstacle::None);
    add("miss/udp4/no-flow".into(), udp, false, Obstacle::Flow);
    add("miss/udp4/stale".into(), udp, false, Obstacle::Stamp);
    add("miss/tcp4/no-flow".into(), tcp, false, Obstacle::Flow);
    add("miss/tcp4/window".into(), tcp, false, Obstacle::Window);
    add("miss/udp6/no-flow".into(), small(Family::Ipv6, Protocol::Udp), false, Obstacle::Flow);
    for (family, number) in [(Family::Ipv4, 4), (Family::Ipv6, 6)] {
        for (protocol, label) in [(Protocol::Udp, "udp"), (Protocol::Tcp, "tcp")] {
            for (nat, kind) in [(false, "plain"), (true, "nat")] {
                let packet = small(family, protocol);
                add(format!("hit/{label}{number}/{kind}"), packet, nat, Obstacle::None);
            }
        }
    }
    for (nat, kind) in [(false, "plain"), (true, "nat")] {
        let packet = Packet { payload: 3_000, segment: 1_448, ..tcp };
        add(format!("hit/tcp4-superframe/{kind}"), packet, nat, Obstacle::None);
    }
    subjects
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!("{:40} {:>6} {:>6} {:>6}", "ns/action/family/case", "p10", "p50", "p90");
    let is_asked_for = |name: &String| name.contains(&options.only);
    for hook in [Hook::Tc, Hook::Xdp] {
        for subject in subjects() {
            let name = format!("{}/{}", hook.label(), subject.name);
            if is_asked_for(&name) && (hook == Hook::Tc || subject.packet.segment == 0) {
                let times = subject.measure(hook, options.rounds);
                print(&name, times.with_context(|| name.clone())?);
            }
        }
    }
    for hook in [Hook::Tc, Hook::Xdp] {
        for &flows in &options.flows {
            let name = format!("{}/once/udp4/{flows}-flows", hook.label());
            if is_asked_for(&name) {
                print(&name, crowd::measure(hook, flows).with_context(|| name.clone())?);
            }
        }
    }
    for (kind, is_flood) in [("missed", false), ("challenged", true)] {
        let name = format!("{}/once/syn4/{kind}", Hook::Tc.label());
        if is_asked_for(&name) {
            print(&name, flood::measure(is_flood).with_context(|| name.clone())?);
        }
    }
    Ok(())
}

fn print(name: &str, mut times: Vec<u32>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{name:40} {:>6} {:>6} {:>6}", at(10), at(50), at(90));
}

/// Programs with room for so many flows, and one next hop.
fn trial(flows: u32) -> anyhow::Result<Trial> {
    let mut trial = Trial::new(FastPathLimits { flows, relays: 0, hops: 1, workers: 1 }, [1, 2])?;
    let table = trial.table();
    let hop = NextHop { interface: TRIAL_INTERFACE, source: OURS, destination: NEXT, mtu: 1_500 };
    table.set_hop(HOP, Some(hop));
    table.set_zone(Port(0), Some(ZONE));
    table.set_stamp(STAMP);
    Ok(trial)
}

impl Subject {
    fn measure(&self, hook: Hook, rounds: usize) -> anyhow::Result<Vec<u32>> {
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
