#![allow(clippy::unwrap_used)]

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::frame::Offload;

fn parse(bytes: &[u8]) -> Result<Parsed, DropReason> {
    let mut bytes = bytes.to_vec();
    Packet::parse(&Frame { bytes: &mut bytes, offload: Offload::default() })
}

fn packet(bytes: &[u8]) -> Packet {
    match parse(bytes).unwrap() {
        Parsed::Ip(packet) => packet,
        Parsed::Arp(arp) => panic!("{arp:?}"),
    }
}

proptest! {
    #[test]
    fn never_panics(
        ethertype in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x0806, 0x1234]),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn agrees_with_etherparse_on_tcp(
        ports in (1..=u16::MAX, 1..=u16::MAX),
        sequence in any::<u32>(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(ports.0, ports.1, sequence, 4_000)
            .syn();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload).unwrap();
        let packet = packet(&bytes);
        let Segment::Tcp(segment) = packet.segment else { panic!("{packet:?}") };
        prop_assert_eq!((segment.source_port, segment.destination_port), ports);
        prop_assert_eq!((segment.sequence, segment.window), (sequence, 4_000));
        prop_assert_eq!(segment.payload as usize, payload.len());
    }
}
