//! Policies that are replaced while packets pass a running gabiond: nothing is lost, and no packet is
//! judged by two policies.
//!
//! A steady stream is allowed by both policies in turn; two probes, sent one after the other, are
//! each allowed by one of them alone. Of every pair of probes exactly one arrives, but where the
//! policy changes between the two.

use std::fs;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gabion_benches::rulesets::{Class, Family, Rule, generate, policy_text};
use gabion_rules::{Query, Transport, ZoneId};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::arms::{Appliance, Arm, masquerade};
use crate::lab::{ArmKind, CLIENT_ADDRESS, Lab, Place, SERVER_ADDRESS};
use crate::process::{join, spawn_in};
use crate::{Interrupt, machine};

/// Of the stream, and of either probe.
const PORTS: [u16; 3] = [7_001, 7_002, 7_003];
const SOURCE_PORT: u16 = 40_001;
/// Pairs of probes, with so many packets of the stream for each.
const PROBE_EVERY: Duration = Duration::from_micros(500);
const STREAM_PER_PROBE: u32 = 5;
const REPLACEMENTS: usize = 6;
/// Between one replacement and the next.
const REST: Duration = Duration::from_millis(500);
/// What is still under way when the last packet has been sent has arrived by then.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes: room for all that may wait for a thread that shares its CPU with a policy's compilation.
const RECEIVE_BUFFER: usize = 32 << 20;

/// What a receiver has seen.
#[derive(Debug, Default)]
struct Seen {
    /// When which number arrived.
    arrivals: Vec<(u32, Instant)>,
}

/// Exit: whether nothing was lost and nothing was judged by two policies.
pub(crate) fn measure(
    rules: usize,
    kind: ArmKind,
    appliance: &Appliance,
    interrupt: &Interrupt,
) -> anyhow::Result<bool> {
    let lab = Lab::build(&[kind])?;
    let arm = Arm::set_up(&lab, kind, appliance, interrupt)?;
    let directory = tempfile::Builder::new().prefix("gab-bench-").tempdir()?;
    let policies = [0, 1].map(|index| directory.path().join(format!("policy-{index}.yaml")));
    for (index, path) in policies.iter().enumerate() {
        fs::write(path, policy(rules, index))?;
    }
    push(&arm, &policies[0])?;

    let stop = Arc::new(AtomicBool::new(false));
    let receivers = PORTS.map(|port| receive(&arm.place, port, Arc::clone(&stop)));
    let sender = send(&arm.place, Arc::clone(&stop));
    let mut pushes = Vec::new();
    for turn in 1..=REPLACEMENTS {
        std::thread::sleep(REST);
        let start = Instant::now();
        let pushed = interrupt.check().and_then(|()| push(&arm, &policies[turn % 2]));
        if let Err(error) = pushed {
            stop.store(true, Ordering::Release);
            return Err(error);
        }
        pushes.push((start, Instant::now()));
    }
    std::thread::sleep(REST);
    stop.store(true, Ordering::Release);
    let sent = join(sender)?;
    let [stream, first, second] = receivers.map(join);
    let (stream, probes) = (stream?, [first?, second?]);
    Ok(report(rules, kind, sent, &stream, &probes, &pushes))
}

fn push(arm: &Arm, policy: &Path) -> anyhow::Result<()> {
    arm.gabiond.as_ref().context("the arm has no gabiond")?.push(policy)
}

/// Rules of an access list that leave our packets alone, then our two: `rules` in all, or a few less.
fn policy(rules: usize, index: usize) -> String {
    let queries = PORTS.map(query);
    let mut list: Vec<Rule> = generate(Class::Acl, Family::V4, rules - 2, index as u64 + 1);
    list.retain(|rule| !queries.iter().any(|query| rule.holds(query)));
    let text = policy_text(&list);
    let lines = text.split_once("rules:\n").map_or("", |(_, lines)| lines);
    let [stream, probes @ ..] = PORTS;
    let probe = probes[index];
    let rules = format!(
        "{lines}  - {{ name: stream, from: inside, to: outside, service: udp/{stream}, action: allow }}
  - {{ name: probe-{index}, from: inside, to: outside, service: udp/{probe}, action: allow }}
"
    );
    masquerade("", &rules)
}

/// What the rules are asked about our packets to a port.
fn query(port: u16) -> Query {
    Query {
        from: ZoneId(1),
        to: ZoneId(0),
        source: (*address(CLIENT_ADDRESS, 0).ip()).into(),
        destination: (*address(SERVER_ADDRESS, 0).ip()).into(),
        transport: Transport::Udp { source_port: SOURCE_PORT, destination_port: port },
    }
}

fn address(ip: &str, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip.parse().expect("the lab's addresses are written right"), port)
}

/// Returns how many pairs of probes were sent.
fn send(place: &Place, stop: Arc<AtomicBool>) -> JoinHandle<anyhow::Result<u32>> {
    spawn_in(&place.client, move || {
        let socket = UdpSocket::bind((CLIENT_ADDRESS, SOURCE_PORT))?;
        let targets = PORTS.map(|port| address(SERVER_ADDRESS, port));
        let [stream, probes @ ..] = targets;
        let (start, mut number) = (Instant::now(), 0_u32);
        while !stop.load(Ordering::Acquire) {
            for packet in 0..STREAM_PER_PROBE {
                socket.send_to(&(number * STREAM_PER_PROBE + packet).to_be_bytes(), stream)?;
            }
            for probe in probes {
                socket.send_to(&number.to_be_bytes(), probe)?;
            }
            number += 1;
            // Late ones are made up for: the load is open.
            let next = start + PROBE_EVERY * number;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(number)
    })
}

fn receive(place: &Place, port: u16, stop: Arc<AtomicBool>) -> JoinHandle<anyhow::Result<Seen>> {
    spawn_in(&place.server, move || {
        let socket = UdpSocket::bind((SERVER_ADDRESS, port))?;
        set_socket_recv_buffer_size_force(socket.as_fd(), RECEIVE_BUFFER)?;
        socket.set_read_timeout(Some(LINGER))?;
        let (mut seen, mut bytes) = (Seen::default(), [0; 4]);
        loop {
            match socket.recv(&mut bytes) {
                Ok(_) => seen.arrivals.push((u32::from_be_bytes(bytes), Instant::now())),
                Err(_) if stop.load(Ordering::Acquire) => return Ok(seen),
                Err(_) => {}
            }
        }
    })
}

/// Prints what was found; whether it is as promised.
fn report(
    rules: usize,
    kind: ArmKind,
    pairs: u32,
    stream: &Seen,
    probes: &[Seen; 2],
    pushes: &[(Instant, Instant)],
) -> bool {
    let sent = u64::from(pairs) * u64::from(STREAM_PER_PROBE);
    let lost = sent - stream.arrivals.len() as u64;
    let gaps = stream.arrivals.windows(2).map(|pair| pair[1].1 - pair[0].1);
    let gap = gaps.max().unwrap_or_default();
    let Judged { changes, mixed } = judge(pairs, probes);
    println!("load average {}", machine::load());
    println!("{}, {rules} rules, replaced {REPLACEMENTS} times", kind.label());
    println!("stream: {sent} packets sent, {lost} lost, longest silence {gap:.1?}");
    println!(
        "probes: {pairs} pairs sent, {changes} changes of the policy seen, {mixed} pairs judged by no policy alone"
    );
    for (turn, (start, end)) in pushes.iter().enumerate() {
        let seen = &probes[(turn + 1) % 2];
        let first = seen.arrivals.iter().find(|(_, at)| at > start);
        let in_force = first.map_or_else(String::new, |(_, at)| format!("{:.0?}", *at - *start));
        println!(
            "push {}: in force after {in_force}, answered after {:.0?}",
            turn + 1,
            *end - *start
        );
    }
    lost == 0 && mixed == 0 && changes == REPLACEMENTS
}

/// What pairs of probes say.
struct Judged {
    changes: usize,
    /// Pairs of which both or neither arrived, elsewhere than at a change.
    mixed: usize,
}

fn judge(pairs: u32, probes: &[Seen; 2]) -> Judged {
    let mut arrived = vec![[false; 2]; pairs as usize];
    for (index, seen) in probes.iter().enumerate() {
        for (number, _) in &seen.arrivals {
            arrived[*number as usize][index] = true;
        }
    }
    let (mut changes, mut mixed) = (0, 0);
    let mut last = None;
    let mut doubtful = 0;
    for [first, second] in arrived {
        if first == second {
            doubtful += 1;
            continue;
        }
        let is_change = last.is_some_and(|last| last != first);
        changes += usize::from(is_change);
        // One pair may lie on either side of a change.
        mixed += if is_change { doubtful.max(1) - 1 } else { doubtful };
        (last, doubtful) = (Some(first), 0);
    }
    Judged { changes, mixed: mixed + doubtful }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn seen(numbers: &[u32]) -> Seen {
        Seen { arrivals: numbers.iter().map(|number| (*number, Instant::now())).collect() }
    }

    #[test]
    fn a_pair_may_be_split_by_a_change_and_by_nothing_else() {
        let check = |first: &[u32], second: &[u32], changes, mixed| {
            let judged = judge(6, &[seen(first), seen(second)]);
            assert_eq!((judged.changes, judged.mixed), (changes, mixed), "{first:?} {second:?}");
        };
        check(&[0, 1, 2], &[3, 4, 5], 1, 0);
        check(&[0, 1, 2], &[2, 3, 4, 5], 1, 0);
        check(&[0, 1], &[3, 4, 5], 1, 0);
        check(&[0, 1], &[4, 5], 1, 1);
        check(&[0, 1, 2, 4, 5], &[], 0, 1);
        check(&[0, 1, 4, 5], &[2, 3], 2, 0);
        check(&[0, 1, 2, 3, 4, 5], &[3], 0, 1);
    }

    #[test]
    fn either_policy_is_valid_and_allows_one_probe() {
        for index in [0, 1] {
            let loaded = gabion_rules::load("replace.yaml", &policy(50, index), None).unwrap();
            let decide = |port| {
                loaded.rule_set.decide(&query(port), &mut |_| {}).action
                    == gabion_rules::Action::Allow
            };
            assert_eq!(PORTS.map(decide), [true, index == 0, index == 1]);
        }
    }
}
