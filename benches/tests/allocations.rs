//! The promise of the packet path: no packet of a flow that is open allocates memory, and no flow
//! that is opened, closed or expires.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use gabion_benches::{EXTERNAL, Established, INTERNAL, Kind, Pair, START, Subject, policy};
use gabion_engine::{Frame, InterfaceId, Offload, Segments, Time, Unwrapped, Verdict, build};

/// Enough to meet anything that allocates once in a while.
const ROUNDS: usize = 1_000;

#[test]
fn packets_of_established_flows_allocate_nothing() {
    for kind in Kind::ALL {
        let mut subject = Subject::new(&policy(10), 1_024);
        let flows: Vec<_> =
            (0..16).map(|number| Established::open(&mut subject, kind, number)).collect();
        let mut frames: Vec<_> =
            flows.iter().flat_map(|flow| [flow.original.clone(), flow.reply.clone()]).collect();
        let fresh = frames.clone();
        let mut forwarded = 0;
        let counted = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                for ((from, frame), (_, fresh)) in frames.iter_mut().zip(&fresh) {
                    frame.copy_from_slice(fresh);
                    let verdict = subject.handle(*from, frame);
                    forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
                    while subject.engine.poll_transmit().is_some() {}
                    while subject.engine.poll_event().is_some() {}
                }
            }
        });
        assert_eq!(forwarded, ROUNDS * fresh.len(), "{}", kind.label());
        assert_eq!(counted.count_total, 0, "{}: {counted:?}", kind.label());
    }
}

/// Source NAT of either kind for IPv4, none for IPv6.
const TRANSLATED: &str = "
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
nat:
  - { name: tcp, kind: snat, from: spokes, out: internet, service: tcp, mapping: symmetric, address: 203.0.113.4, ports: 1024-65535 }
  - { name: rest, kind: snat, from: spokes, out: internet, service: [udp, icmp], address: 203.0.113.5, ports: 1024-65535 }
rules:
  - { name: out, from: spokes, to: internet, action: allow, log: all }
";

/// Long enough for all flows to expire.
const LATER: Duration = Duration::from_secs(20_000);

/// Flows of each kind in a round: more than a list of ports takes for either server.
const FLOWS: u16 = 300;

/// The packets of round `round` from inside: each opens a flow, or ends one.
fn opening_packets(round: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..FLOWS {
        let port = 1_024 + round * FLOWS + number;
        let (from, server) = (format!("10.1.1.1:{port}"), format!("198.51.100.{}:443", number % 2));
        let tcp = || build::tcp().from(&from).to(&server).window(9_000);
        frames.push(tcp().syn().seq(1_000).frame());
        frames.push(build::udp().from(&from).to(&server).frame());
        // The second flow of one mapping.
        frames.push(build::udp().from(&from).to("198.51.100.99:53").frame());
        frames.push(build::icmp_echo().id(port).from("10.1.1.1").to("198.51.100.1").frame());
        let long = format!("[2600:2::77]:{port}");
        frames.push(build::udp().from(&long).to("[2600:9::1]:53").frame());
        // Some connections are given up, and their flows closed.
        if number % 4 == 0 {
            frames.push(tcp().rst().seq(1_001).frame());
        }
    }
    frames
}

/// What the server answers to an IPv4 packet as it left; nothing to a reset.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let address =
        |at: usize| format!("{}.{}.{}.{}", frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let [client, server] =
        [(26, 34), (30, 36)].map(|(at, port)| format!("{}:{}", address(at), number(port)));
    let is_ipv4 = number(12) == 0x0800;
    match frame[23] {
        1 if is_ipv4 => {
            let echo = build::icmp_echo_reply().id(number(38));
            Some(echo.from(&address(30)).to(&address(26)).frame())
        }
        6 if is_ipv4 && frame[47] & 4 == 0 => {
            let tcp = build::tcp().from(&server).to(&client).window(9_000);
            Some(tcp.syn().seq(1).ack(1_001).frame())
        }
        17 if is_ipv4 => Some(build::udp().from(&server).to(&client).frame()),
        _ => None,
    }
}

/// How many of the frames are forwarded; they are changed as they leave.
fn pass(subject: &mut Subject, now: Time, from: InterfaceId, frames: &mut [Vec<u8>]) -> usize {
    let mut forwarded = 0;
    for bytes in frames {
        let mut frame = Frame { bytes, offload: Offload::default() };
        let verdict = subject.engine.handle_frame(now, from, &mut frame);
        forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
        while subject.engine.poll_event().is_some() {}
    }
    forwarded
}

#[test]
fn flows_with_and_without_nat_open_close_and_expire_without_allocating() {
    let mut subject = Subject::new(TRANSLATED, 4_096);
    // The first of each kind makes neighbours known, and what is kept of an external address.
    for frame in &opening_packets(0)[..5] {
        subject.pass(INTERNAL, frame);
    }
    let mut first = opening_packets(0);
    pass(&mut subject, START, INTERNAL, &mut first[..5]);
    for answer in first[..5].iter().filter_map(|frame| answer(frame)) {
        subject.pass(EXTERNAL, &answer);
    }
    let mut now = START;
    for round in 1..4 {
        now = now + LATER * 2;
        let mut frames = opening_packets(round);
        let mut forwarded = 0;
        let opening = allocation_counter::measure(|| {
            forwarded = pass(&mut subject, now, INTERNAL, &mut frames);
        });
        assert_eq!((forwarded, opening.count_total), (frames.len(), 0), "{round}: {opening:?}");
        let reset = |number: usize| number.is_multiple_of(4);
        let mut answers: Vec<_> = frames.iter().filter_map(|frame| answer(frame)).collect();
        let answering = allocation_counter::measure(|| {
            forwarded = pass(&mut subject, now, EXTERNAL, &mut answers);
        });
        let expected = answers.len() - (0..usize::from(FLOWS)).filter(|flow| reset(*flow)).count();
        assert_eq!((forwarded, answering.count_total), (expected, 0), "{round}: {answering:?}");
        let ending = allocation_counter::measure(|| {
            subject.engine.handle_timeout(now + LATER);
            while subject.engine.poll_event().is_some() {}
        });
        assert_eq!(subject.engine.flows(0, u32::MAX).0.len(), 0);
        assert_eq!(ending.count_total, 0, "{round}: {ending:?}");
    }
}

/// Packets and superframes of an established connection that come to the other node of two.
#[test]
fn packets_that_are_handed_to_their_owner_allocate_nothing() {
    const SIZE: u16 = 1_368;
    let client = || build::tcp().from("198.51.100.9:40000").to("10.1.0.10:443").window(64_000);
    let server = || build::tcp().from("10.1.0.10:443").to("198.51.100.9:40000").window(64_000);
    let mut pair = Pair::new(&policy(10), 1_024);
    let (owner, other) = (1, 0);
    for (from, builder) in [
        (EXTERNAL, client().syn().seq(1_000).mss(1_380)),
        (INTERNAL, server().syn().seq(5_000).ack(1_001).mss(1_380)),
        (EXTERNAL, client().seq(1_001).ack(5_001)),
    ] {
        let verdict = pair.handle(owner, from, &mut builder.frame(), Offload::default());
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    }
    pair.talk();
    let payload = vec![0x55; 30_000];
    let small = client().seq(1_001).ack(5_001).psh().payload(&payload[..64]);
    let large = client().seq(1_001).ack(5_001).payload(&payload).segment_size(SIZE);
    let mut frames = [&small, &large].map(|builder| (builder.frame(), builder.offload()));
    let fresh = frames.clone();
    let mut left: [u64; 2] = [0; 2];
    let mut round = |pair: &mut Pair| {
        for ((frame, offload), (fresh, _)) in frames.iter_mut().zip(&fresh) {
            frame.copy_from_slice(fresh);
            let verdict = pair.handle(other, EXTERNAL, frame, *offload);
            assert!(matches!(verdict, Verdict::ToPeer { .. }), "{verdict:?}");
        }
        pair.hand_over(other, &mut |Unwrapped { verdict, offload, .. }, frame| {
            assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
            let size = offload.segments.map(|Segments { size, .. }| size);
            assert!(size.is_none_or(|size| size == SIZE && frame.len() > payload.len()));
            left[usize::from(size.is_some())] += 1;
        });
    };
    // The first asks whose it is; and memory is taken.
    round(&mut pair);
    pair.talk();
    round(&mut pair);
    let counted = allocation_counter::measure(|| (0..ROUNDS).for_each(|_| round(&mut pair)));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    // Each superframe left as one.
    assert!(left[1] >= ROUNDS as u64 && left[0] <= ROUNDS as u64 + 60, "{left:?}");
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 64])));
    assert_eq!(counted.count_total, 1);
}
