//! Fragments of frames.

use std::ops::Range;

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetFrame, EthernetProtocol, IPV6_HEADER_LEN, Ipv4Packet,
    Ipv6FragmentHeader, Ipv6Packet, checksum,
};

/// RFC 8200 section 4.5.
const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;

/// The frame's packet in fragments of at most `mtu` bytes, in order. IPv6 extension headers of the
/// frame count as payload.
///
/// # Panics
/// When the frame carries no IP packet, or `mtu` has no room for eight bytes of payload.
pub fn fragmented(frame: &[u8], mtu: usize, identification: u32) -> Vec<Vec<u8>> {
    let (overhead, length) = match EthernetFrame::new_unchecked(frame).ethertype() {
        EthernetProtocol::Ipv4 => {
            let header = Ipv4Packet::new_unchecked(&frame[ETHERNET_HEADER_LEN..]);
            (usize::from(header.header_len()), header.payload().len())
        }
        EthernetProtocol::Ipv6 => {
            let header = Ipv6Packet::new_unchecked(&frame[ETHERNET_HEADER_LEN..]);
            (IPV6_HEADER_LEN + FRAGMENT_HEADER, header.payload().len())
        }
        other @ (EthernetProtocol::Arp | EthernetProtocol::Unknown(_)) => {
            panic!("{other} knows no fragments")
        }
    };
    let room = (mtu - overhead) & !7;
    assert!(room > 0, "an MTU of {mtu} leaves no room for a fragment");
    (0..length)
        .step_by(room)
        .map(|start| {
            let end = length.min(start + room);
            piece(frame, start..end, end < length, identification)
        })
        .collect()
}

/// One fragment: the bytes `range` of what follows the IP header, which starts at a multiple of
/// eight. Pieces may overlap, leave gaps or lie about `more`.
///
/// # Panics
/// When the frame carries no IP packet or `range` lies outside it.
pub fn piece(frame: &[u8], range: Range<usize>, more: bool, identification: u32) -> Vec<u8> {
    let (link, packet) = frame.split_at(ETHERNET_HEADER_LEN);
    let network = match EthernetFrame::new_unchecked(frame).ethertype() {
        EthernetProtocol::Ipv4 => ipv4(packet, range, more, identification as u16),
        EthernetProtocol::Ipv6 => ipv6(packet, range, more, identification),
        other @ (EthernetProtocol::Arp | EthernetProtocol::Unknown(_)) => {
            panic!("{other} knows no fragments")
        }
    };
    [link, &network].concat()
}

fn ipv4(packet: &[u8], range: Range<usize>, more: bool, identification: u16) -> Vec<u8> {
    let whole = Ipv4Packet::new_unchecked(packet);
    let header_length = usize::from(whole.header_len());
    let mut bytes = [&packet[..header_length], &whole.payload()[range.clone()]].concat();
    let total = bytes.len() as u16;
    let mut header = Ipv4Packet::new_unchecked(&mut bytes[..]);
    header.set_total_len(total);
    header.set_ident(identification);
    header.set_dont_frag(false);
    header.set_more_frags(more);
    header.set_frag_offset(range.start as u16);
    fill_ipv4_checksum(&mut bytes);
    bytes
}

fn ipv6(packet: &[u8], range: Range<usize>, more: bool, identification: u32) -> Vec<u8> {
    let whole = Ipv6Packet::new_unchecked(packet);
    let payload = &whole.payload()[range.clone()];
    let mut fields = [0; FRAGMENT_HEADER - 2];
    let mut fragment = Ipv6FragmentHeader::new_unchecked(&mut fields[..]);
    fragment.set_frag_offset((range.start / 8) as u16);
    fragment.set_more_frags(more);
    fragment.set_ident(identification);
    let next = [whole.next_header().into(), 0];
    let mut bytes = [&packet[..IPV6_HEADER_LEN], &next, &fields, payload].concat();
    let mut header = Ipv6Packet::new_unchecked(&mut bytes[..]);
    header.set_next_header(FRAGMENT.into());
    header.set_payload_len((FRAGMENT_HEADER + payload.len()) as u16);
    bytes
}

/// Over as much of the header as its length field says and is there.
pub(crate) fn fill_ipv4_checksum(packet: &mut [u8]) {
    let length = usize::from(Ipv4Packet::new_unchecked(&*packet).header_len()).min(packet.len());
    packet[10..12].fill(0);
    let sum = !checksum::data(&packet[..length]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}
