//! SYNs of sources that nobody knows, while their destination is under flood and while it is not: one run each, so that
//! only the difference between the two means anything.

use std::net::Ipv4Addr;

use gabion_benches::programs::{Family, Packet, Protocol, ZONE, sum_header, trial};
use gabion_datapath::ebpf::{Hook, WireEndpoint};

/// SYNs that are run.
const SYNS: u32 = 100_000;
const DESTINATION: WireEndpoint =
    WireEndpoint { address: std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), port: 443 };

/// Runs SYNs that the program at tc answers, or leaves to the engine.
pub(crate) fn measure(is_flood: bool) -> anyhow::Result<Vec<u32>> {
    let mut trial = trial(1_024)?;
    trial.table().set_challenge_state([1, 2, 3, 4]);
    let packet = Packet { family: Family::Ipv4, protocol: Protocol::Tcp, payload: 0, segment: 0 };
    let mut frame = packet.frame();
    let expected = if is_flood { Hook::Tc.sent() } else { Hook::Tc.left() };
    let mut times = Vec::with_capacity(SYNS as usize);
    for number in 0..SYNS {
        if is_flood {
            // It lasts for a second or two.
            trial.table().challenge(DESTINATION, ZONE);
        }
        change(&mut frame, number);
        let result = trial.run(Hook::Tc, &frame, 0, 1)?;
        anyhow::ensure!(result.verdict == expected, "verdict {}", result.verdict);
        times.push(result.nanoseconds);
    }
    Ok(times)
}

/// Makes the frame the SYN of another source, with a sum that somebody is to complete.
fn change(frame: &mut [u8], number: u32) {
    const SYN: u8 = 2;
    let source = Ipv4Addr::from(0x0b00_0000 + number);
    let destination = Ipv4Addr::new(192, 0, 2, 1);
    frame[26..30].copy_from_slice(&source.octets());
    frame[30..34].copy_from_slice(&destination.octets());
    frame[36..38].copy_from_slice(&DESTINATION.port.to_be_bytes());
    frame[47] = SYN;
    let length = frame.len() as u32 - 34;
    let words = frame[26..34].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum = words.sum::<u32>() + 6 + length;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
    sum_header(&mut frame[14..34]);
}
