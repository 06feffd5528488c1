//! Packets of many flows in an order that no cache foresees.

use std::net::Ipv4Addr;

use gabion_benches::programs::{Family, HOP, Packet, Protocol, STAMP, ZONE, sum_header, trial};
use gabion_datapath::ebpf::{FlowEntry, Hook, WireEndpoint, WireKey};

/// Packets that are run.
const PACKETS: u32 = 100_000;
/// Odd and not a divisor of anything here: one flow after another, far from the last.
const STEP: u32 = 2_654_435_761;

/// Runs packets of flows that leave by another port than they come from.
pub(crate) fn measure(hook: Hook, flows: u32) -> anyhow::Result<Vec<u32>> {
    let mut trial = trial(flows)?;
    for number in 0..flows {
        trial.table().install(&entry(number))?;
    }
    let packet = Packet { family: Family::Ipv4, protocol: Protocol::Udp, payload: 18, segment: 0 };
    let mut frame = packet.frame();
    let mut times = Vec::with_capacity(PACKETS as usize);
    for at in 0..PACKETS {
        change(&mut frame, key(at.wrapping_mul(STEP) % flows));
        let result = trial.run(hook, &frame, 0, 1)?;
        anyhow::ensure!(result.verdict == hook.sent(), "verdict {}", result.verdict);
        times.push(result.nanoseconds);
    }
    Ok(times)
}

fn key(number: u32) -> WireKey {
    let source = Ipv4Addr::from(0x0a00_0000 + number / 1_000);
    let source = WireEndpoint { address: source.into(), port: 10_000 + (number % 1_000) as u16 };
    let destination = Ipv4Addr::new(192, 0, 2, 1);
    let destination = WireEndpoint { address: destination.into(), port: 443 };
    WireKey { protocol: 17, source, destination }
}

fn entry(number: u32) -> FlowEntry {
    let key = key(number);
    // Ports from 10,000 on become ports from 40,000 on.
    let outside = WireEndpoint { port: key.source.port + 30_000, ..key.source };
    let reply = WireKey { source: key.destination, destination: outside, ..key };
    FlowEntry {
        stamp: STAMP,
        keys: [key, reply],
        zones: [ZONE; 2],
        hops: [HOP; 2],
        tcp: None,
        legs: [None; 2],
    }
}

/// Makes the frame one of this flow.
fn change(frame: &mut [u8], key: WireKey) {
    let octets = |endpoint: WireEndpoint| match endpoint.address {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => unreachable!("keys are of IPv4"),
    };
    frame[26..30].copy_from_slice(&octets(key.source));
    frame[30..34].copy_from_slice(&octets(key.destination));
    frame[34..36].copy_from_slice(&key.source.port.to_be_bytes());
    frame[36..38].copy_from_slice(&key.destination.port.to_be_bytes());
    sum_header(&mut frame[14..34]);
}
