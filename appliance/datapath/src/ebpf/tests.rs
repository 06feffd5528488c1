//! The programs on packets that a test hands them (`BPF_PROG_TEST_RUN`), as root with GABION_NETNS=1.
//!
//! What must come out is built anew by etherparse, checksums included.

#![allow(clippy::unwrap_used)]

mod between;
mod challenges;
mod packets;
mod tcp;
mod workers;

use std::cell::RefCell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::packets::{Case, Protocol};
use super::*;
use crate::{LinkAddress, Port};

const ZONES: [u16; 2] = [7, 9];
const STAMP: u32 = 41;
const OURS: LinkAddress = LinkAddress([2, 0, 0, 0, 0, 1]);
const NEXT: LinkAddress = LinkAddress([2, 0, 0, 0, 0, 2]);
const HOP: HopId = HopId { place: 3, tenancy: 5 };
const MTU: u16 = 1500;

/// No interface has this number.
const NOWHERE: u32 = i32::MAX as u32;

const TO_STACK: u32 = Hook::Tc.left();
const REDIRECTED: u32 = Hook::Tc.sent();

struct Rig {
    trial: Trial,
}

impl Rig {
    fn new() -> Option<Self> {
        Self::with_flows(4_096)
    }

    fn with_flows(flows: u32) -> Option<Self> {
        std::env::var_os("GABION_NETNS")?;
        Some(Self::shared_by(flows, 1))
    }

    fn shared_by(flows: u32, workers: u16) -> Self {
        let limits = FastPathLimits { flows, relays: 0, hops: 8, workers };
        Self::of(Trial::new(limits, [1, 2]).unwrap())
    }

    fn of(mut trial: Trial) -> Self {
        let hop = NextHop { interface: TRIAL_INTERFACE, source: OURS, destination: NEXT, mtu: MTU };
        for table in trial.tables() {
            table.set_hop(HOP, Some(hop));
            table.set_stamp(STAMP);
        }
        Self { trial }
    }

    fn table(&mut self) -> &mut FlowTable {
        self.trial.table()
    }

    /// What the program makes of a frame that comes from this zone: its verdict and the frame.
    fn run(&mut self, zone: u16, frame: &[u8]) -> (u32, Vec<u8>) {
        self.run_segments(zone, frame, 0)
    }

    /// The same of a superframe whose segments carry so many bytes.
    fn run_segments(&mut self, zone: u16, frame: &[u8], size: u32) -> (u32, Vec<u8>) {
        self.table().set_zone(Port(0), Some(zone));
        let result = self.trial.run(Hook::Tc, frame, size, 1).unwrap();
        (result.verdict, result.frame)
    }

    fn run_at(&mut self, hook: Hook, zone: u16, frame: &[u8]) -> (u32, Vec<u8>) {
        self.table().set_zone(Port(0), Some(zone));
        let result = self.trial.run(hook, frame, 0, 1).unwrap();
        (result.verdict, result.frame)
    }

    fn exits(&mut self) -> Vec<(Exit, u64)> {
        let all = self.trial.programs().exits().unwrap();
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

fn entry(case: &Case) -> FlowEntry {
    FlowEntry {
        stamp: STAMP,
        keys: case.keys(),
        zones: ZONES,
        hops: [HOP; 2],
        tcp: (case.protocol == Protocol::Tcp).then(|| case.windows()),
        legs: [None; 2],
    }
}

#[test]
fn what_leaves_is_what_a_router_with_nat_would_have_built() {
    let Some(rig) = Rig::new() else { return };
    let rig = RefCell::new(rig);
    let mut runner =
        TestRunner::new(Config { cases: 512, failure_persistence: None, ..Config::default() });
    runner
        .run(&packets::case(), |case| {
            let mut rig = rig.borrow_mut();
            let place = rig.table().install(&entry(&case)).unwrap();
            for hook in [Hook::Tc, Hook::Xdp] {
                let (verdict, out) = rig.run_at(hook, ZONES[case.direction], &case.arrives());
                let usage = rig.table().take_usage(place);
                prop_assert_eq!(verdict, hook.sent(), "{:?}", rig.exits());
                case.assert_leaves(&out);
                let mut packets = [0; 2];
                packets[case.direction] = 1;
                prop_assert_eq!(usage.packets, packets);
                let mut bytes = [0; 2];
                bytes[case.direction] = case.length() as u64;
                prop_assert_eq!(usage.bytes, bytes);
                prop_assert!(usage.last_seen[case.direction] > Duration::ZERO);
            }
            rig.table().remove(place);
            Ok(())
        })
        .unwrap();
}

/// A packet of TCP that its flow covers, for tests that change something about it.
fn good() -> Case {
    let end = |last: u8, port| WireEndpoint { address: [192, 0, 2, last].into(), port };
    Case {
        protocol: Protocol::Tcp,
        inside: [end(1, 1_000), end(2, 80)],
        outside: [end(3, 2_000), end(2, 80)],
        direction: 0,
        hop_limit: 64,
        dont_fragment: true,
        identification: 1,
        sequence: 7_000,
        acknowledgement: 9_000,
        timestamps: true,
        payload: vec![5; 100],
        padding: 0,
    }
}

/// Mends the checksum of an IPv4 header without options.
fn sum_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let words =
        frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
}

/// Runs a changed packet, which must go to the engine for this reason, as it is.
fn assert_missed(reason: Exit, change: impl FnOnce(&mut Rig, &mut FlowEntry, &mut Vec<u8>)) {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let (mut entry, mut frame) = (entry(&case), case.arrives());
    change(&mut rig, &mut entry, &mut frame);
    let place = rig.table().install(&entry).unwrap();
    // Before the stack nothing is said or done of it, whatever the reason.
    assert_eq!(rig.run_at(Hook::Xdp, ZONES[0], &frame), (Hook::Xdp.left(), frame.clone()));
    assert_eq!(rig.exits(), []);
    let (verdict, out) = rig.run(ZONES[0], &frame);
    assert_eq!(rig.exits(), [(reason, 1)]);
    assert_eq!(verdict, TO_STACK, "{reason:?}");
    assert_eq!(out, frame, "{reason:?}");
    let usage = rig.table().take_usage(place);
    assert_eq!((usage.packets, usage.tcp), ([0, 0], entry.tcp.unwrap()), "{reason:?}");
}

#[test]
fn what_a_flow_does_not_cover_goes_to_the_engine_untouched() {
    assert_missed(Exit::NotIp, |_, _, frame| frame[12..14].copy_from_slice(&[8, 6]));
    assert_missed(Exit::NoFlow, |_, entry, _| entry.keys[0].source.port += 1);
    assert_missed(Exit::Stale, |_, entry, _| entry.stamp += 1);
    assert_missed(Exit::Stale, |rig, entry, _| {
        entry.stamp = 0;
        rig.table().set_stamp(0);
    });
    assert_missed(Exit::WrongZone, |_, entry, _| entry.zones[0] += 1);
    assert_missed(Exit::OtherHost, |_, _, frame| frame[0] = 2);
    assert_missed(Exit::Header, |_, _, frame| frame[24] ^= 1);
    assert_missed(Exit::Fragment, |_, _, frame| {
        frame[20] |= 0x20;
        sum_header(frame);
    });
    assert_missed(Exit::Protocol, |_, _, frame| {
        frame[23] = 47;
        sum_header(frame);
    });
    assert_missed(Exit::HopLimit, |_, _, frame| {
        frame[22] = 1;
        sum_header(frame);
    });
    for flags in [0x13, 0x14, 0x04, 0x02, 0x08, 0x01, 0x00] {
        assert_missed(Exit::TcpFlags, |_, _, frame| frame[47] = flags);
    }
    // A length beyond the header's, one too short to be, and an option that only a SYN carries.
    for option in [[8, 12], [8, 1], [2, 4]] {
        assert_missed(Exit::TcpOptions, |_, _, frame| frame[56..58].copy_from_slice(&option));
    }
    assert_missed(Exit::TooBig, |rig, _, _| {
        let small =
            NextHop { interface: TRIAL_INTERFACE, source: OURS, destination: NEXT, mtu: 100 };
        rig.table().set_hop(HOP, Some(small));
    });
    assert_missed(Exit::TooBig, |_, _, frame| frame.truncate(frame.len() - 1));
    assert_missed(Exit::NoNeighbour, |rig, _, _| rig.table().set_hop(HOP, None));
    assert_missed(Exit::NoNeighbour, |_, entry, _| entry.hops[0].tenancy += 1);
}

/// Runs a packet that has been changed, and says what became of it.
fn exit_of(rig: &mut Rig, case: &Case, change: impl FnOnce(&mut Vec<u8>)) -> Exit {
    let place = rig.table().install(&entry(case)).unwrap();
    let mut frame = case.arrives();
    change(&mut frame);
    if frame[14] == 0x45 {
        sum_header(&mut frame);
    }
    let before = rig.exits();
    let (_, out) = rig.run(ZONES[case.direction], &frame);
    let after = rig.exits();
    let (exit, _) = *after.iter().find(|exit| !before.contains(exit)).unwrap();
    assert!(exit == Exit::Forwarded || out == frame, "{exit:?}");
    let (verdict, early) = rig.run_at(Hook::Xdp, ZONES[case.direction], &frame);
    rig.table().remove(place);
    if exit == Exit::Forwarded {
        assert_eq!((verdict, early), (Hook::Xdp.sent(), out));
    } else {
        assert_eq!((verdict, early, rig.exits()), (Hook::Xdp.left(), frame, after), "{exit:?}");
    }
    exit
}

#[test]
fn lengths_that_contradict_each_other_go_to_the_engine() {
    let Some(mut rig) = Rig::new() else { return };
    let tcp = good();
    let udp = Case { protocol: Protocol::Udp, ..good() };
    let mut wide = udp.clone();
    for (end, last) in wide.inside.iter_mut().chain(&mut wide.outside).zip([1, 2, 3, 2]) {
        end.address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
    }
    let mut check = |case: &Case, at: usize, bytes: &[u8], expected| {
        let exit = exit_of(&mut rig, case, |frame| {
            frame[at..at + bytes.len()].copy_from_slice(bytes);
        });
        assert_eq!(exit, expected, "{:?}: {bytes:?} at {at}", case.protocol);
    };
    // Of the IP packet: none, the header's alone, all but a byte of the transport's header, beyond the frame.
    for (length, expected) in
        [(0, Exit::Header), (20, Exit::Header), (51, Exit::Header), (153, Exit::TooBig)]
    {
        check(&tcp, 16, &u16::to_be_bytes(length), expected);
    }
    for (length, expected) in [(0, Exit::Header), (27, Exit::Header), (129, Exit::TooBig)] {
        check(&udp, 16, &u16::to_be_bytes(length), expected);
    }
    check(&wide, 18, &[0, 0], Exit::Header);
    check(&wide, 18, &109_u16.to_be_bytes(), Exit::TooBig);
    // Options of IP; a TCP header too short, and one longer than the packet.
    check(&tcp, 14, &[0x46], Exit::Header);
    check(&tcp, 14, &[0x44], Exit::Header);
    check(&tcp, 46, &[0x40], Exit::Header);
    let short = Case { payload: Vec::new(), ..good() };
    check(&short, 46, &[0xf0], Exit::Header);
    // Of the datagram: shorter than its header, longer than the packet; shorter than the packet is allowed.
    check(&udp, 38, &[0, 7], Exit::Header);
    check(&udp, 38, &109_u16.to_be_bytes(), Exit::Header);
    check(&udp, 38, &107_u16.to_be_bytes(), Exit::Forwarded);
    // A datagram over IPv6 has a checksum (RFC 8200 section 8.1), and another version is not what the frame says.
    check(&wide, 60, &[0, 0], Exit::Header);
    check(&wide, 14, &[0x45], Exit::Header);
    // Extension headers, and a tag.
    for next in [0, 43, 44, 60] {
        check(&wide, 20, &[next], Exit::Protocol);
    }
    check(&tcp, 12, &[0x81, 0], Exit::NotIp);
    // A fragment in the middle, and the last one.
    check(&udp, 20, &[0x20, 1], Exit::Fragment);
    check(&udp, 20, &[0, 1], Exit::Fragment);
    check(&tcp, 22, &[1], Exit::HopLimit);
    check(&tcp, 22, &[0], Exit::HopLimit);
    check(&tcp, 22, &[2], Exit::Forwarded);
}

#[test]
fn a_superframe_counts_as_its_segments_and_must_fit_by_them() {
    let Some(mut rig) = Rig::new() else { return };
    let mut case = good();
    case.payload = vec![5; 3_000];
    let mut entry = entry(&case);
    entry.tcp.as_mut().unwrap()[1].edge += 3_000;
    let place = rig.table().install(&entry).unwrap();
    assert_eq!(rig.run_segments(ZONES[0], &case.arrives(), 1_448).0, REDIRECTED);
    let usage = rig.table().take_usage(place);
    assert_eq!(usage.packets, [3, 0]);
    assert_eq!(usage.bytes, [3_000 + 3 * 52, 0]);
    // A byte more than fits behind 52 bytes of headers.
    assert_eq!(rig.run_segments(ZONES[0], &case.arrives(), 1_449).0, TO_STACK);
    assert_eq!(rig.exits(), [(Exit::Forwarded, 1), (Exit::TooBig, 1)]);
}

#[test]
fn a_full_table_leaves_flows_to_the_engine_and_a_slot_rests_before_it_is_used_again() {
    let Some(mut rig) = Rig::with_flows(1) else { return };
    let case = good();
    let place = rig.table().install(&entry(&case)).unwrap();
    let mut other = entry(&case);
    other.keys[0].source.port += 1;
    other.keys[1].destination.port += 1;
    assert_eq!(rig.table().install(&other), Err(InstallFlowError::Full { limit: 1 }));
    assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
    rig.table().remove(place);
    assert_eq!(rig.run(ZONES[0], &case.arrives()).0, TO_STACK);
    assert_eq!(rig.table().install(&other), Err(InstallFlowError::Full { limit: 1 }));
}

/// Buckets were filled one after the other, and one flow of some thousands found none.
#[test]
fn every_flow_finds_room_up_to_the_limit() {
    let Some(mut rig) = Rig::with_flows(65_536) else { return };
    let case = good();
    for number in 0..65_536_u32 {
        let mut entry = entry(&case);
        let inside = std::net::Ipv4Addr::from(0x0a00_0000 | number).into();
        entry.keys[0].source.address = inside;
        entry.keys[1].destination.port = number as u16;
        assert!(rig.table().install(&entry).is_ok(), "{number}");
    }
}

#[test]
fn two_flows_cannot_have_one_key() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    rig.table().install(&entry(&case)).unwrap();
    let mut other = entry(&case);
    other.keys[0].source.port += 1;
    assert_eq!(rig.table().install(&other), Err(InstallFlowError::KeyTaken));
    // Its other key leads nowhere.
    other.keys[1].destination.port += 1;
    assert!(rig.table().install(&other).is_ok());
}

#[test]
fn the_host_sees_only_what_the_guard_would_leave_it() {
    let Some(mut rig) = Rig::new() else { return };
    assert!(rig.table().ports.set(Port(0), TRIAL_INTERFACE, &[NOWHERE]));
    let tcp = good();
    let udp = Case { protocol: Protocol::Udp, ..good() };
    let with_port = |case: &Case, port| {
        let mut case = case.clone();
        case.inside[1].port = port;
        case.outside[1].port = port;
        case.arrives()
    };
    let mut seen = |ports: &[u16], frame: &[u8]| {
        rig.table().set_host_ports(ports);
        let (verdict, out) = rig.run(ZONES[0], frame);
        assert_eq!(out, frame);
        assert!(verdict == TO_STACK || verdict == REDIRECTED, "{verdict}");
        verdict == TO_STACK
    };
    let (many, probes) = ([4480; 9], [4480, 4481]);
    // TCP, also that which opens a connection, is the host's at its ports, or while nobody has said which these are.
    for (ports, port, is_host) in [
        (&probes[..], 80, false),
        (&probes[..], 4480, true),
        (&probes[..], 4481, true),
        (&probes[..1], 4481, false),
        (&[], 80, true),
        (&many, 80, true),
    ] {
        let mut frame = with_port(&tcp, port);
        assert_eq!(seen(ports, &frame), is_host, "{ports:?} {port}");
        frame[47] = 2;
        assert_eq!(seen(ports, &frame), is_host, "{ports:?} {port}");
    }
    assert!(!seen(&probes, &with_port(&udp, 4480)));
    // DHCP replies.
    assert!(seen(&probes, &with_port(&udp, 68)));
    assert!(seen(&probes, &with_port(&udp, 546)));
    // ICMP over IPv4 is not the host's; ARP is, and so is all that takes a closer look.
    let changed = |at: usize, value| {
        let mut frame = with_port(&udp, 80);
        frame[at] = value;
        sum_header(&mut frame);
        frame
    };
    assert!(!seen(&probes, &changed(23, 1)));
    assert!(seen(&probes, &changed(13, 6)));
    assert!(seen(&probes, &changed(20, 0x20)));
    assert!(seen(&probes, &changed(14, 0x46)));
    let mut wide = udp;
    for end in wide.inside.iter_mut().chain(&mut wide.outside) {
        end.address = std::net::Ipv6Addr::LOCALHOST.into();
    }
    assert!(!seen(&probes, &with_port(&wide, 80)));
    // ICMPv6, of which neighbour discovery is one part.
    let mut frame = with_port(&wide, 80);
    frame[20] = 58;
    assert!(seen(&probes, &frame));
}
