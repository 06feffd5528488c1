//! Joins TCP segments that came one by one to a superframe, as receive offload does in network cards.
//!
//! Packets that another node has handed over come as segments, and to send each by itself costs several times what a
//! superframe does, and to decide each by itself too. Only those are joined that differ in nothing but what cutting makes: whoever cuts the superframe
//! gets the very same frames.

use std::ops::Range;

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

/// A frame in a buffer, with the payload of those behind it moved up to its own.
#[derive(Debug)]
pub(crate) struct Run {
    /// Where it ends.
    end: usize,
    /// `None`: nothing can be joined to it.
    open: Option<Open>,
    segments: u16,
    sums: Sums,
}

/// Of the frames that are joined, what their checksums are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sums {
    /// Whole: what is wrong now must not become right by being computed anew.
    Whole,
    /// The pseudo-header's only, as their sender left them.
    Left,
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

impl Run {
    /// Begins with the frame that the buffer begins with.
    pub(crate) fn new(frame: &[u8], sums: Sums) -> Self {
        let open = read(frame, sums).map(|(shape, sequence)| Open {
            shape,
            size: frame.len() - shape.payload,
            next: advance(sequence, frame.len() - shape.payload),
            is_last: frame[shape.transport + FLAGS_AT] & PSH != 0,
        });
        Self { end: frame.len(), open, segments: 1, sums }
    }

    /// Whether anything may be joined to it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some_and(|open| !open.is_last)
    }

    /// Joins the frame that stands at `place` of the buffer, behind what is joined already. Returns whether it could.
    #[must_use]
    pub(crate) fn join(&mut self, buffer: &mut [u8], place: Range<usize>) -> bool {
        let (joined, rest) = buffer.split_at(place.start.min(buffer.len()));
        let (Some(open), Some(frame)) = (&mut self.open, rest.get(..place.len())) else {
            return false;
        };
        let Some((shape, sequence)) = read(frame, self.sums) else { return false };
        let payload = place.len() - shape.payload;
        let fits = !open.is_last
            && shape == open.shape
            && sequence == open.next
            && payload <= open.size
            && self.end - ETHERNET + payload <= IP_BYTES
            && self.end <= joined.len()
            && are_alike(joined, frame, &shape, self.segments);
        if !fits {
            return false;
        }
        let flags = frame[shape.transport + FLAGS_AT];
        open.next = advance(sequence, payload);
        open.is_last = payload < open.size || flags & PSH != 0;
        buffer.copy_within(place.start + shape.payload..place.end, self.end);
        // Whoever cuts it leaves PSH to the last segment.
        buffer[shape.transport + FLAGS_AT] = flags;
        self.end += payload;
        self.segments += 1;
        true
    }

    /// Makes a superframe of what was joined; returns where it ends, and what is left undone in it.
    pub(crate) fn finish(self, buffer: &mut [u8]) -> (usize, Offload) {
        let Self { end, open, segments, sums } = self;
        let offload = match (open, segments) {
            (Some(open), 2..) => complete(&mut buffer[..end], &open),
            (Some(open), _) if sums == Sums::Left => {
                Offload { checksum: partial(&open.shape), segments: None }
            }
            _ => Offload::default(),
        };
        (end, offload)
    }
}

const fn partial(shape: &Shape) -> Checksum {
    Checksum::Partial { start: shape.transport as u16, offset: CHECKSUM_AT as u16 }
}

fn advance(sequence: u32, bytes: usize) -> u32 {
    sequence.wrapping_add(bytes as u32)
}

/// A frame that may be a part of a superframe, and its sequence number: plain data, and right.
fn read(frame: &[u8], sums: Sums) -> Option<(Shape, u32)> {
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
    if sums == Sums::Whole {
        let pseudo = pseudo_header(source, destination, protocol::TCP, segment.len());
        if total([sum(segment), pseudo]) != u16::MAX {
            return None;
        }
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
        checksum: partial(&open.shape),
        segments: Some(Segments { kind, size: open.size as u16, header: payload as u16 }),
    }
}

#[cfg(test)]
mod tests;
