//! SYNs that the program answers.

use std::net::IpAddr;

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

use super::*;

const CLIENT_LINK: [u8; 6] = [2, 9, 9, 9, 9, 9];

#[derive(Debug, Clone, Copy)]
struct Syn {
    from: IpAddr,
    to: WireEndpoint,
    sequence: u32,
}

fn syns() -> [Syn; 2] {
    let to = |address: &str| WireEndpoint { address: address.parse().unwrap(), port: 443 };
    [
        Syn { from: "198.51.100.9".parse().unwrap(), to: to("203.0.113.7"), sequence: 7 },
        Syn { from: "2600:9::9".parse().unwrap(), to: to("2600:1::7"), sequence: 1 << 31 | 7 },
    ]
}

impl Syn {
    fn frame(self) -> Vec<u8> {
        let mut header = TcpHeader::new(40_000, self.to.port, self.sequence, 64_000);
        header.syn = true;
        // MSS and window scale.
        header.set_options_raw(&[2, 4, 5, 0xb4, 1, 3, 3, 7]).unwrap();
        let builder = PacketBuilder::ethernet2(CLIENT_LINK, [0; 6]);
        let builder = match (self.from, self.to.address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 60),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 60),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => unreachable!("both are of one family"),
        };
        let mut frame = Vec::new();
        builder.tcp_header(header).write(&mut frame, &[]).unwrap();
        frame
    }

    fn checksum_at(self) -> usize {
        if self.from.is_ipv4() { 14 + 20 + 16 } else { 14 + 40 + 16 }
    }
}

/// A rig whose tables say that this destination is under flood.
fn flooded(to: WireEndpoint) -> Option<Rig> {
    let mut rig = Rig::new()?;
    rig.table().set_challenge_state([1, 2, 3, 4]);
    rig.table().challenge(to, ZONES[0]);
    Some(rig)
}

#[test]
fn a_syn_of_an_unknown_source_is_answered_while_its_destination_is_under_flood() {
    for syn in syns() {
        let Some(mut rig) = flooded(syn.to) else { return };
        let (verdict, answer) = rig.run(ZONES[0], &syn.frame());
        assert_eq!(verdict, REDIRECTED, "{:?}", rig.exits());
        assert_eq!(rig.exits(), [(Exit::Challenged, 1)]);
        assert!(answer.len() < syn.frame().len());
        let read = SlicedPacket::from_ethernet(&answer).unwrap();
        let (source, destination) = match read.net.as_ref().unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
                (header.source_addr().into(), header.destination_addr().into())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            etherparse::NetSlice::Arp(_) => unreachable!("an answer is IP"),
        };
        assert_eq!((source, destination), (syn.to.address, syn.from));
        assert_eq!((&answer[..6], &answer[6..12]), (&CLIENT_LINK[..], &[0; 6][..]));
        let Some(TransportSlice::Tcp(tcp)) = &read.transport else { panic!("{read:?}") };
        let header = tcp.to_header();
        assert_eq!((header.source_port, header.destination_port), (443, 40_000));
        assert_eq!((header.ack, header.syn, header.rst, header.fin), (true, false, false, false));
        assert!(tcp.payload().is_empty() && header.options.is_empty());
        let is_behind = syn.sequence.wrapping_sub(header.acknowledgment_number).cast_signed() >= 0;
        assert!(is_behind, "nothing that was sent");
        let sum = match read.net.as_ref().unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                header.calc_checksum_ipv4(&ip.header().to_header(), &[])
            }
            etherparse::NetSlice::Ipv6(ip) => {
                header.calc_checksum_ipv6(&ip.header().to_header(), &[])
            }
            etherparse::NetSlice::Arp(_) => unreachable!("an answer is IP"),
        };
        assert_eq!(header.checksum, sum.unwrap());
        // The same again, at once, is a copy.
        let (_, again) = rig.run(ZONES[0], &syn.frame());
        assert_eq!(again, answer);
    }
}

#[test]
fn what_is_no_syn_of_an_unknown_source_to_there_goes_to_the_engine_as_it_was() {
    for syn in syns() {
        let Some(mut rig) = flooded(syn.to) else { return };
        let frame = syn.frame();
        let flags = syn.checksum_at() - 3;
        let missed = |rig: &mut Rig, zone: u16, frame: &[u8]| {
            let before = rig.exits();
            assert_eq!(rig.run(zone, frame), (TO_STACK, frame.to_vec()), "{before:?}");
        };
        // By another zone; to another port; a SYN-ACK; with a wrong sum; with data.
        missed(&mut rig, ZONES[1], &frame);
        let other = Syn { to: WireEndpoint { port: 444, ..syn.to }, ..syn };
        missed(&mut rig, ZONES[0], &other.frame());
        let mut answer = frame.clone();
        answer[flags] |= 0x10;
        missed(&mut rig, ZONES[0], &answer);
        let mut wrong = frame.clone();
        wrong[syn.checksum_at()] ^= 1;
        missed(&mut rig, ZONES[0], &wrong);
        // Known, itself or, of IPv6, somebody of its network.
        let known = if syn.from.is_ipv4() { syn.from } else { "2600:9::77".parse().unwrap() };
        rig.table().know(known);
        missed(&mut rig, ZONES[0], &frame);
    }
}

#[test]
fn a_sum_that_somebody_will_complete_stays_one() {
    for syn in syns() {
        let Some(mut rig) = flooded(syn.to) else { return };
        let at = syn.checksum_at();
        let pseudo = |frame: &[u8]| {
            let addresses = if syn.from.is_ipv4() { &frame[26..34] } else { &frame[22..54] };
            let length = (frame.len() - (at - 16)) as u32;
            let words =
                addresses.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
            let mut sum = words.sum::<u32>() + 6 + length;
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            (sum as u16).to_be_bytes()
        };
        let mut frame = syn.frame();
        let sum = pseudo(&frame);
        frame[at..at + 2].copy_from_slice(&sum);
        let (verdict, answer) = rig.run(ZONES[0], &frame);
        assert_eq!(verdict, REDIRECTED, "{:?}", rig.exits());
        assert_eq!(answer[at..at + 2], pseudo(&answer));
    }
}

#[test]
fn nobody_is_asked_where_nothing_is_moved() {
    let syn = syns()[0];
    let Some(mut rig) = flooded(syn.to) else { return };
    rig.table().set_stamp(0);
    assert_eq!(rig.run(ZONES[0], &syn.frame()).0, TO_STACK);
    rig.table().set_stamp(STAMP);
    assert_eq!(rig.run(ZONES[0], &syn.frame()).0, REDIRECTED);
}
