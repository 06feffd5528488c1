//! Joins TCP segments that came one by one to a superframe, as receive offload does in network cards.
//!
//! Packets that another node has handed over come as segments, and to send each by itself costs several times what a
//! superframe does. Only those are joined that differ in nothing but what cutting makes: whoever cuts the superframe
//! gets the very same frames. Whatever else comes is held as it is, by itself.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::checksum::{pseudo_header, sum, total};
use crate::packet::protocol;
use crate::{Address, Checksum, Offload, SegmentKind, Segments};

const ETHERNET: usize = 14;
/// Where in a TCP header its checksum stands, and the byte with PSH (RFC 9293 section 3.1).
const CHECKSUM_AT: usize = 16;
const FLAGS_AT: usize = 13;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// The largest IP packet.
const IP_BYTES: usize = 65_535;

/// Frames that are held until somebody takes them as one.
#[derive(Debug, Default)]
pub struct Joiner {
    bytes: Vec<u8>,
    /// What is held, if more may be joined to it.
    open: Option<Open>,
    segments: u16,
}

/// What the next segment has to be.
#[derive(Debug, Clone, Copy)]
struct Open {
    shape: Shape,
    /// Payload of each segment but the last.
    size: usize,
    /// The sequence number of the next.
    next: u32,
    is_last: bool,
}

/// Where the parts of a frame with a TCP segment stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    kind: SegmentKind,
    transport: usize,
    payload: usize,
}

impl Joiner {
    /// Holds a frame whose checksums are whole, behind what is held already. Returns whether it could: if not, what is
    /// held has to be taken first.
    #[must_use]
    pub fn push(&mut self, frame: &[u8]) -> bool {
        if self.segments == 0 {
            self.bytes.clear();
            self.bytes.extend_from_slice(frame);
            self.segments = 1;
            self.open = read(frame).map(|(shape, sequence)| Open {
                shape,
                size: frame.len() - shape.payload,
                next: advance(sequence, frame.len() - shape.payload),
                is_last: frame[shape.transport + FLAGS_AT] & PSH != 0,
            });
            return true;
        }
        let Some(open) = &mut self.open else { return false };
        let Some((shape, sequence)) = read(frame) else { return false };
        let payload = &frame[shape.payload..];
        let fits = !open.is_last
            && shape == open.shape
            && sequence == open.next
            && payload.len() <= open.size
            && self.bytes.len() - ETHERNET + payload.len() <= IP_BYTES
            && are_alike(&self.bytes, frame, &shape, self.segments);
        if !fits {
            return false;
        }
        let flags = frame[shape.transport + FLAGS_AT];
        open.next = advance(sequence, payload.len());
        open.is_last = payload.len() < open.size || flags & PSH != 0;
        self.bytes.extend_from_slice(payload);
        // Whoever cuts it leaves PSH to the last segment.
        self.bytes[shape.transport + FLAGS_AT] = flags;
        self.segments += 1;
        true
    }

    /// Lets go of what is held, and says what is left undone in it; `None` where nothing is.
    pub fn take(&mut self) -> Option<(&[u8], Offload)> {
        let segments = std::mem::take(&mut self.segments);
        let open = self.open.take().filter(|_| segments > 1);
        let offload = open.map_or_else(Offload::default, |open| complete(&mut self.bytes, &open));
        (segments > 0).then_some((&*self.bytes, offload))
    }
}

fn advance(sequence: u32, bytes: usize) -> u32 {
    sequence.wrapping_add(bytes as u32)
}

/// A frame that may be a part of a superframe, and its sequence number: plain data, and right.
fn read(frame: &[u8]) -> Option<(Shape, u32)> {
    let packet = frame.get(ETHERNET..)?;
    let (kind, transport, source, destination) = match packet.first()? >> 4 {
        4 => {
            let view = Ipv4Packet::new_checked(packet).ok()?;
            let is_plain = frame[12..ETHERNET] == [0x08, 0x00]
                && view.header_len() == 20
                && usize::from(view.total_len()) == packet.len()
                && view.dont_frag()
                && !view.more_frags()
                && view.frag_offset() == 0
                && view.next_header() == IpProtocol::Tcp;
            let ends =
                [Address::from(view.src_addr().octets()), Address::from(view.dst_addr().octets())];
            is_plain.then_some((SegmentKind::TcpIpv4, 20, ends[0], ends[1]))?
        }
        6 => {
            let view = Ipv6Packet::new_checked(packet).ok()?;
            let is_plain = frame[12..ETHERNET] == [0x86, 0xdd]
                && view.total_len() == packet.len()
                && view.next_header() == IpProtocol::Tcp;
            let ends =
                [Address::from(view.src_addr().octets()), Address::from(view.dst_addr().octets())];
            is_plain.then_some((SegmentKind::TcpIpv6, 40, ends[0], ends[1]))?
        }
        _ => return None,
    };
    let segment = &packet[transport..];
    let view = TcpPacket::new_checked(segment).ok()?;
    let header = usize::from(view.header_len());
    // Data and ACK, no other flag but PSH; and no payload of none.
    if segment[FLAGS_AT] & !PSH != ACK || segment[12] & 0x0f != 0 || header == segment.len() {
        return None;
    }
    // The superframe's checksum is computed anew: what is wrong now must not become right.
    let pseudo = pseudo_header(source, destination, protocol::TCP, segment.len());
    if total([sum(segment), pseudo]) != u16::MAX {
        return None;
    }
    let shape =
        Shape { kind, transport: ETHERNET + transport, payload: ETHERNET + transport + header };
    Some((shape, view.seq_number().0.cast_unsigned()))
}

/// Whether the headers of a frame are those of the first one, but for what cutting makes: lengths, checksums, the
/// sequence number, PSH, and an identification that counts.
fn are_alike(first: &[u8], frame: &[u8], shape: &Shape, segments: u16) -> bool {
    let same = |from: usize, until: usize| first[from..until] == frame[from..until];
    let network = match shape.kind {
        SegmentKind::TcpIpv4 => {
            let id = |bytes: &[u8]| u16::from_be_bytes([bytes[18], bytes[19]]);
            same(0, 16)
                && same(20, 24)
                && same(26, 34)
                && id(frame) == id(first).wrapping_add(segments)
        }
        SegmentKind::TcpIpv6 => same(0, 18) && same(20, 54),
        SegmentKind::Udp => false,
    };
    let at = shape.transport;
    network
        && same(at, at + 4)
        && same(at + 8, at + FLAGS_AT)
        && same(at + FLAGS_AT + 1, at + CHECKSUM_AT)
        && same(at + CHECKSUM_AT + 2, shape.payload)
}

/// Writes the superframe's lengths and the pseudo-header's sum.
fn complete(bytes: &mut [u8], open: &Open) -> Offload {
    let Shape { kind, transport, payload } = open.shape;
    let length = bytes.len() - transport;
    let packet = &mut bytes[ETHERNET..];
    let (source, destination) = match kind {
        SegmentKind::TcpIpv4 => {
            let mut view = Ipv4Packet::new_unchecked(&mut *packet);
            view.set_total_len((20 + length) as u16);
            view.fill_checksum();
            (Address::from(view.src_addr().octets()), Address::from(view.dst_addr().octets()))
        }
        SegmentKind::TcpIpv6 | SegmentKind::Udp => {
            let mut view = Ipv6Packet::new_unchecked(&mut *packet);
            view.set_payload_len(length as u16);
            (Address::from(view.src_addr().octets()), Address::from(view.dst_addr().octets()))
        }
    };
    let pseudo = pseudo_header(source, destination, protocol::TCP, length);
    let at = transport + CHECKSUM_AT;
    bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    Offload {
        checksum: Checksum::Partial { start: transport as u16, offset: CHECKSUM_AT as u16 },
        segments: Some(Segments { kind, size: open.size as u16, header: payload as u16 }),
    }
}

#[cfg(test)]
mod tests;
