//! The programs of the fast path alone, run by the kernel on packets in memory (`BPF_PROG_TEST_RUN`): what a packet
//! costs that a flow covers, and what one that goes to the engine does. Wants root. Nothing is sent anywhere.
//!
//! Caches are warm and nothing is waited for, so these are the least a packet can cost; differences between lines are
//! what the comparison (`peer`) cannot show. The last lines are of packets of many flows, one run each, of which
//! starting and ending a run is the larger part: only the difference between their numbers of flows means anything, and
//! that between SYNs that are challenged and SYNs that are not.

mod crowd;
mod flood;

use anyhow::Context as _;
use clap::Parser;
use gabion_benches::programs::{Family, Obstacle, Packet, Protocol, Subject};
use gabion_datapath::ebpf::Hook;

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

/// One line of the report.
#[derive(Debug)]
struct Line {
    name: String,
    subject: Subject,
}

fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |name: String, packet, nat, obstacle| {
        lines.push(Line { name, subject: Subject { packet, nat, obstacle } });
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
    lines
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!("{:40} {:>6} {:>6} {:>6}", "ns/action/family/case", "p10", "p50", "p90");
    let is_asked_for = |name: &String| name.contains(&options.only);
    for hook in [Hook::Tc, Hook::Xdp] {
        for Line { name, subject } in lines() {
            let name = format!("{}/{name}", hook.label());
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
