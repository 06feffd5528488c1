//! Protocols whose ports NAT leaves alone.

use gabion_engine::build;

use super::probe::{Probe, out};

/// RFC 1071, over the pseudo-header of IPv4 and all of the segment.
fn checksum(protocol: u8, source: [u8; 4], destination: [u8; 4], segment: &[u8]) -> u16 {
    let length = (segment.len() as u16).to_be_bytes();
    let pseudo = [&source[..], &destination, &[0, protocol], &length, segment].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Regression: UDP-Lite and DCCP left with the checksum of the address that they had before.
///
/// Covers: 6092-20
#[test]
fn checksums_over_the_addresses_stay_right() {
    for protocol in [136, 33] {
        let mut probe = Probe::new(&out("address: 203.0.113.16"));
        let mut segment = [0x13, 0x88, 0, 53, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let right = checksum(protocol, [10, 1, 0, 10], [198, 51, 100, 9], &segment);
        segment[6..8].copy_from_slice(&right.to_be_bytes());
        let packet = build::protocol(protocol).from("10.1.0.10").to("198.51.100.9");
        probe.dialogue.send("int", &packet.payload(&segment).frame());
        let (_, frame) = probe.dialogue.sent[0].clone();
        assert_eq!(frame[26..30], [203, 0, 113, 16]);
        assert_eq!(checksum(protocol, [203, 0, 113, 16], [198, 51, 100, 9], &frame[34..]), 0);
    }
}
