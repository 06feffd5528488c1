//! Single frames: the parser against another parser, and a node with flows that must stand it.

use etherparse::{LaxNetSlice, LaxSlicedPacket};
use gabion_datapath::VnetHeader;
use gabion_engine::{
    Engine, EngineConfig, Frame, Generation, InterfaceId, Limits, Offload, Packet, Parsed, Segment,
    Time,
};
use gabion_tests::network;
use gabion_tests::walk::World;
use gabiond::offload::{from_vnet, to_vnet};

use crate::mend::mend;

fn read_vnet(bytes: &[u8]) -> Option<(VnetHeader, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<10>()?;
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let vnet = VnetHeader {
        flags: header[0],
        gso_type: header[1],
        header_length: word(2),
        gso_size: word(4),
        checksum_start: word(6),
        checksum_offset: word(8),
    };
    Some((vnet, rest))
}

/// What the engine understands of the header comes back as it was.
pub(crate) fn vnet(bytes: &[u8]) {
    let Some((vnet, _)) = read_vnet(bytes) else { return };
    let offload = from_vnet(vnet);
    assert_eq!(from_vnet(to_vnet(offload)), offload);
}

/// One frame: as it is with whatever the virtio header claims, then with its sums and link address
/// made right, so that more of it is looked at.
pub(crate) fn frame(bytes: &[u8]) {
    let Some((vnet, bytes)) = read_vnet(bytes) else { return };
    hostile(bytes, from_vnet(vnet));
    let mut mended = bytes.to_vec();
    mend(&mut mended);
    parses_as_others_do(&mended);
    let mut world = World::begin();
    for from in [0, 1] {
        world.send(from, mended.clone());
    }
    world.run_out();
}

/// One verdict and no panic, whatever the datapath claims of the frame.
fn hostile(bytes: &[u8], offload: Offload) {
    let now = Time::from_nanos(1);
    let limits = Limits { flows: 16, mappings: 16, neighbours: 16, ..Limits::default() };
    let config = EngineConfig { limits, seed: [3; 32], cluster: None };
    let mut engine = Engine::new(now, config);
    engine.set_network(network::network());
    engine.set_rules(Generation(1), network::rules());
    engine.open();
    for from in [0, 1, 9] {
        let mut bytes = bytes.to_vec();
        let mut frame = Frame { bytes: &mut bytes, offload };
        engine.handle_frame(now, InterfaceId(from), &mut frame);
        let counters = engine.counters();
        assert_eq!(counters.frames_in, counters.decided() + counters.held);
    }
}

/// What is accepted has its headers within the frame, and says what etherparse reads of it.
fn parses_as_others_do(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    let frame = Frame { bytes: &mut copy, offload: Offload::default() };
    let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) else { return };
    assert!(packet.network == 14 && packet.network < packet.transport, "{packet:?}");
    assert!(packet.transport <= packet.end && packet.end <= bytes.len(), "{packet:?}");

    let other = LaxSlicedPacket::from_ethernet(bytes).expect("it is a frame");
    match other.net.as_ref().expect("it is an IP packet") {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            assert_eq!(packet.source, header.source_addr().octets().into());
            assert_eq!(packet.destination, header.destination_addr().octets().into());
            assert_eq!(packet.hop_limit, header.ttl());
            assert_eq!(packet.protocol, header.protocol().0);
            assert_eq!(packet.fragment.is_some(), header.is_fragmenting_payload());
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            assert_eq!(packet.source, header.source_addr().octets().into());
            assert_eq!(packet.destination, header.destination_addr().octets().into());
            assert_eq!(packet.hop_limit, header.hop_limit());
            assert_eq!(packet.fragment.is_some(), v6.payload().fragmented);
        }
        LaxNetSlice::Arp(_) => panic!("{packet:?} is ARP"),
    }
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match packet.segment {
        Segment::Tcp(tcp) => {
            assert_eq!(tcp.source_port, word(packet.transport));
            assert_eq!(tcp.destination_port, word(packet.transport + 2));
        }
        Segment::Udp { source_port, destination_port } => {
            assert_eq!(
                (source_port, destination_port),
                (word(packet.transport), word(packet.transport + 2))
            );
        }
        _ => {}
    }
}
