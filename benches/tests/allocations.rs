//! The promise of the packet path: no packet of a flow that is open allocates memory, and no flow
//! that is opened, closed or expires.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use gabion_benches::{Established, INTERNAL, Kind, START, Subject, policy};
use gabion_engine::{Frame, Offload, Time, Verdict, build};

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

/// Flows of each kind in a round. Two rounds before the one that is counted: what is kept of each
/// external address and of ports that rest is made when it is first needed, and doubles.
const FLOWS: u16 = 300;

/// The packets of round `round`: each opens a flow, or ends one.
fn opening_packets(round: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..FLOWS {
        let port = 1_024 + round * FLOWS + number;
        let (from, server) = (format!("10.1.1.1:{port}"), format!("198.51.100.{}:443", number % 7));
        let tcp = || build::tcp().from(&from).to(&server).window(9_000);
        frames.push(tcp().syn().seq(1_000).frame());
        frames.push(build::udp().from(&from).to(&server).frame());
        // The second flow of one mapping.
        frames.push(build::udp().from(&from).to("198.51.100.99:53").frame());
        frames.push(build::icmp_echo().id(port).from("10.1.1.1").to("198.51.100.1").frame());
        let long = format!("[2600:2::77]:{port}");
        frames.push(build::udp().from(&long).to("[2600:9::1]:53").frame());
        // Every other connection is given up, and its flow closed.
        if number % 2 == 0 {
            frames.push(tcp().rst().seq(1_001).frame());
        }
    }
    frames
}

fn open_and_expire(subject: &mut Subject, now: Time, frames: &mut [Vec<u8>]) -> usize {
    let mut forwarded = 0;
    for bytes in frames {
        let mut frame = Frame { bytes, offload: Offload::default() };
        let verdict = subject.engine.handle_frame(now, INTERNAL, &mut frame);
        forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
        while subject.engine.poll_event().is_some() {}
    }
    subject.engine.handle_timeout(now + LATER);
    while subject.engine.poll_event().is_some() {}
    forwarded
}

#[test]
fn flows_with_and_without_nat_open_close_and_expire_without_allocating() {
    let mut subject = Subject::new(TRANSLATED, 4_096);
    for frame in &opening_packets(0)[..5] {
        subject.pass(INTERNAL, frame);
    }
    let mut now = START;
    for round in 1..4 {
        now = now + LATER * 2;
        let mut frames = opening_packets(round);
        let mut forwarded = 0;
        let counted = allocation_counter::measure(|| {
            forwarded = open_and_expire(&mut subject, now, &mut frames);
        });
        assert_eq!(forwarded, frames.len());
        assert_eq!(subject.engine.flows(0, u32::MAX).0.len(), 0);
        assert_eq!(counted.count_total, 0, "round {round}: {counted:?}");
    }
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 64])));
    assert_eq!(counted.count_total, 1);
}
