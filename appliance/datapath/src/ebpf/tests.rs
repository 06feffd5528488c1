//! The programs on packets that a test hands them (`BPF_PROG_TEST_RUN`), as root with GABION_NETNS=1.
//!
//! What must come out is built anew by etherparse, checksums included.

#![allow(clippy::unwrap_used)]

mod between;
mod challenges;
mod packets;
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
fn a_segment_at_the_edge_of_the_windows_passes() {
    let Some(mut rig) = Rig::new() else { return };
    type Change = fn(&mut [TcpWindow; 2]);
    let changes: [Change; 4] = [
        // What is acknowledged is all that was sent.
        |_| (),
        // The last byte that the receiver takes, and the first that it may ask for again.
        |windows| windows[1].edge -= 900,
        |windows| windows[0].end += 1_102,
        // The oldest acknowledgement that may be on its way.
        |windows| windows[0].ack += 1,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let case = good();
        let mut entry = entry(&case);
        change(entry.tcp.as_mut().unwrap());
        let place = rig.table().install(&entry).unwrap();
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED, "{at}: {:?}", rig.exits());
        rig.table().remove(place);
    }
}

#[test]
fn a_segment_outside_the_windows_goes_to_the_engine() {
    type Change = fn(&mut [TcpWindow; 2]);
    let changes: [Change; 4] = [
        // Beyond what the receiver has granted; long before what it may still ask for.
        |windows| windows[1].edge -= 901,
        |windows| windows[0].end += 1_103,
        // Acknowledges what was never sent, or what was acknowledged long ago.
        |windows| windows[1].end -= 1,
        |windows| windows[0].ack += 2,
    ];
    for change in changes {
        assert_missed(Exit::TcpWindow, |_, entry, _| change(entry.tcp.as_mut().unwrap()));
    }
}

#[test]
fn whoever_has_sent_a_fin_sends_nothing_new() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    // What it has sent before ends with the segment, or a byte before that; the other may go on.
    for (behind, sent, passes) in
        [(0, [true, false], true), (1, [true, false], false), (1, [false, true], true)]
    {
        let mut entry = entry(&case);
        let windows = entry.tcp.as_mut().unwrap();
        windows[0].end = case.sequence + case.payload.len() as u32 - behind;
        windows[0].shift = 7;
        for (window, fin) in windows.iter_mut().zip(sent) {
            window.fin = fin;
        }
        let place = rig.table().install(&entry).unwrap();
        let verdict = rig.run(ZONES[0], &case.arrives()).0;
        assert_eq!(verdict == REDIRECTED, passes, "{behind} {sent:?}: {:?}", rig.exits());
        let usage = rig.table().remove(place);
        assert_eq!(usage.tcp.map(|window| window.fin), sent);
        assert_eq!(usage.tcp[0].shift, 7);
    }
}

/// Of a TCP segment.
const FIN: u8 = 1;

#[test]
fn a_fin_passes_once_and_ends_what_its_sender_may_send() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let mut entry = entry(&case);
    let start = entry.tcp.unwrap();
    let last = case.sequence + case.payload.len() as u32;
    // Nothing that was sent before lies behind it.
    entry.tcp.as_mut().unwrap()[0].end = last + 2;
    let place = rig.table().install(&entry).unwrap();
    let mut frame = case.arrives();
    frame[47] |= FIN;
    assert_eq!(rig.run(ZONES[0], &frame).0, TO_STACK);
    rig.table().remove(place);
    entry.tcp = Some(start);
    let place = rig.table().install(&entry).unwrap();
    assert_eq!(rig.run(ZONES[0], &frame).0, REDIRECTED);
    let sides = rig.table().take_usage(place).tcp;
    assert_eq!(sides.map(|side| side.fin), [true, false]);
    assert_eq!((sides[0].end, sides[0].window), (last + 1, start[0].window));
    // Again, and the same data without it.
    assert_eq!(rig.run(ZONES[0], &frame).0, TO_STACK);
    assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
    let exits = [(Exit::Forwarded, 2), (Exit::TcpWindow, 2)];
    assert_eq!(rig.exits(), exits);
}

#[test]
fn nothing_passes_when_both_have_acknowledged_the_others_fin() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let last = case.sequence + case.payload.len() as u32;
    for (missing, passes) in [(0, false), (1, true)] {
        let mut entry = entry(&case);
        let [sender, receiver] = entry.tcp.as_mut().unwrap();
        (sender.end, sender.fin, sender.ack) = (last, true, case.acknowledgement);
        (receiver.end, receiver.fin) = (case.acknowledgement, true);
        receiver.ack = last - missing;
        let place = rig.table().install(&entry).unwrap();
        let verdict = rig.run(ZONES[0], &case.arrives()).0;
        assert_eq!(verdict == REDIRECTED, passes, "{missing}: {:?}", rig.exits());
        rig.table().remove(place);
    }
    assert_eq!(rig.exits(), [(Exit::Forwarded, 1), (Exit::TcpFlags, 1)]);
}

#[test]
fn behind_a_syn_nothing_lies_below_and_what_passes_is_noted() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    // Where the first segment begins and what it acknowledges, against what is expected.
    for (sequence, acknowledgement, passes) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
        let mut entry = entry(&case);
        let sender = &mut entry.tcp.as_mut().unwrap()[0];
        sender.end = case.sequence + sequence;
        sender.ack = case.acknowledgement + acknowledgement;
        sender.opening = true;
        let place = rig.table().install(&entry).unwrap();
        assert!(rig.table().take_usage(place).tcp[0].opening);
        let verdict = rig.run(ZONES[0], &case.arrives()).0;
        assert_eq!(verdict == REDIRECTED, passes, "{sequence} {acknowledgement}");
        let usage = rig.table().take_usage(place);
        assert_eq!(usage.tcp[0].opening, !passes);
        // As soon as the engine knows more, a segment may come again.
        entry.tcp.as_mut().unwrap()[0].opening = false;
        rig.table().renew(place, &entry);
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
        rig.table().remove(place);
    }
}

/// The answer to a SYN, with a scale of 5 or without one.
fn answer(case: &Case, scale: bool) -> Vec<u8> {
    let mut frame = case.arrives();
    frame[47] = 0x12;
    // In the place of two fillers and timestamps.
    let options: [u8; 12] = [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 5];
    frame[54..66].copy_from_slice(&options);
    if scale { frame } else { without_option(frame) }
}

/// Without the last word of its header.
fn without_option(mut frame: Vec<u8>) -> Vec<u8> {
    frame.drain(62..66);
    frame[46] -= 0x10;
    let length = frame.len() as u16 - 14;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    sum_header(&mut frame);
    frame
}

/// The flow of an answer, before it.
fn asked(case: &Case, unscaled: bool) -> FlowEntry {
    let mut entry = entry(case);
    let end = case.acknowledgement;
    let asking =
        TcpWindow { end, window: 500, shift: 7, opening: true, unscaled, ..TcpWindow::default() };
    entry.tcp = Some([asking, TcpWindow::default()]);
    entry
}

#[test]
fn the_answer_to_a_syn_passes_once_and_says_how_windows_are_scaled() {
    let Some(mut rig) = Rig::new() else { return };
    let case = Case { direction: 1, payload: vec![], ..good() };
    let (isn, ack) = (case.sequence, case.acknowledgement);
    for (unscaled, scale) in [(false, true), (false, false), (true, true)] {
        let place = rig.table().install(&asked(&case, unscaled)).unwrap();
        // Nothing else passes before.
        assert_eq!(rig.run(ZONES[1], &case.arrives()).0, TO_STACK);
        assert_eq!(rig.run(ZONES[1], &answer(&case, scale)).0, REDIRECTED, "{:?}", rig.exits());
        let FlowUsage { tcp: [originator, replier], answer: seen, .. } =
            rig.table().take_usage(place);
        assert_eq!(seen, Some(TcpAnswer { sequence: isn, shift: scale.then_some(5) }));
        let shifts = if scale && !unscaled { [7, 5] } else { [0, 0] };
        assert_eq!([originator.shift, replier.shift], shifts);
        assert_eq!(
            (originator.ack, originator.edge, originator.opening),
            (isn + 1, isn + 501, true)
        );
        let window = replier.window;
        assert_eq!((replier.end, replier.ack, replier.edge), (isn + 1, ack, ack + window));
        // Again it is for the engine to see which it is.
        assert_eq!(rig.run(ZONES[1], &answer(&case, scale)).0, TO_STACK);
        rig.table().remove(place);
    }
    assert_eq!(rig.exits(), [(Exit::Forwarded, 3), (Exit::TcpFlags, 6)]);
}

#[test]
fn what_is_no_plain_answer_to_the_syn_goes_to_the_engine() {
    let Some(mut rig) = Rig::new() else { return };
    let case = Case { direction: 1, payload: vec![], ..good() };
    let place = rig.table().install(&asked(&case, false)).unwrap();
    let good = answer(&case, true);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let others: [(Exit, Vec<u8>); 7] = [
        // It acknowledges something else, with a FIN or urgent data, or carries data.
        (Exit::TcpFlags, changed(&|frame| frame[45] ^= 1)),
        (Exit::TcpFlags, changed(&|frame| frame[47] |= FIN)),
        (Exit::TcpFlags, changed(&|frame| frame[47] |= 0x20)),
        (Exit::TcpFlags, answer(&Case { payload: vec![1; 4], ..case.clone() }, true)),
        // Two scales, another order, and an option that says nothing to the programs.
        (Exit::TcpOptions, changed(&|frame| frame[58..62].copy_from_slice(&[1, 3, 3, 2]))),
        (Exit::TcpOptions, changed(&|frame| frame[54..66].rotate_left(4))),
        (Exit::TcpOptions, changed(&|frame| frame[58..62].copy_from_slice(&[34, 2, 1, 1]))),
    ];
    for (exit, frame) in others {
        let before = rig.exits();
        assert_eq!(rig.run(ZONES[1], &frame).0, TO_STACK);
        assert_ne!(rig.exits(), before);
        assert!(rig.exits().iter().any(|(seen, _)| *seen == exit), "{exit:?}: {:?}", rig.exits());
        assert_eq!(rig.table().take_usage(place).answer, None);
    }
    assert_eq!(rig.run(ZONES[1], &good).0, REDIRECTED);
}

#[test]
fn windows_follow_what_passes() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let mut entry = entry(&case);
    entry.tcp.as_mut().unwrap()[0].shift = 3;
    let place = rig.table().install(&entry).unwrap();
    let mut frame = case.arrives();
    frame[48..50].copy_from_slice(&500_u16.to_be_bytes());
    assert_eq!(rig.run(ZONES[0], &frame).0, REDIRECTED);
    let [sender, receiver] = rig.table().take_usage(place).tcp;
    let edge = 9_000 + (500 << 3);
    let window = 500 << 3;
    let expected =
        TcpWindow { end: 7_100, ack: 9_000, edge, window, shift: 3, ..TcpWindow::default() };
    assert_eq!(sender, expected);
    assert_eq!(receiver, entry.tcp.unwrap()[1]);
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
