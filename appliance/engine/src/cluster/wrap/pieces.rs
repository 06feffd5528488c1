//! Makes datagrams of a frame, each of which fits the links between nodes: outer packets are never cut.

use smoltcp::wire::{IPV6_HEADER_LEN, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::{Flags, HEADER, Wrapping, header};
use crate::checksum::{pseudo_header, sum, total};
use crate::forward::header_length;
use crate::packet::{Packet, Segment, protocol};
use crate::{Family, Frame, cut};

/// The packet does not fit, and must not be cut: its sender may send packets of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooBig {
    pub(crate) mtu: u32,
}

/// Wraps a frame's packet as it came in, and returns the bytes of each datagram but the last. `out`, whose
/// memory is used again, holds them one behind the other, to be stamped before they are sent; `mtu` is
/// that of packets inside (see `inner_mtu`).
///
/// A superframe becomes as many datagrams as it has segments; those of TCP are made smaller where they do
/// not fit. A packet that does not fit is cut where its sender lets us (RFC 791 section 3.2). A checksum
/// that was left to hardware is left so: datagrams have one of their own on the way.
///
/// # Errors
/// `TooBig`.
pub(crate) fn wrap(
    out: &mut Vec<u8>,
    wrapping: &Wrapping,
    frame: &mut Frame<'_>,
    packet: &Packet,
    mtu: u32,
) -> Result<usize, TooBig> {
    out.clear();
    let family = packet.source.family();
    let size = segment_size(frame, packet, mtu)?;
    let fits = size.is_some() || packet.end - packet.network <= mtu as usize;
    let sum = Sum::of(frame, packet);
    let wrapping = match sum {
        Sum::Left if fits => Wrapping { flags: wrapping.flags.and(Flags::UNSUMMED), ..*wrapping },
        Sum::Left | Sum::Whole | Sum::None => {
            // Of a superframe's segments each is summed below.
            if size.is_none() {
                cut::complete_checksum(frame, packet);
            }
            *wrapping
        }
    };
    let header = header(&wrapping, family);
    if let Some(size) = size {
        let (headers, payload) =
            frame.bytes[packet.network..packet.end].split_at(header_length(packet));
        for (number, chunk) in payload.chunks(size).enumerate() {
            out.extend_from_slice(&header);
            let at = out.len();
            out.extend_from_slice(headers);
            out.extend_from_slice(chunk);
            let is_last = (number + 1) * size >= payload.len();
            Place { number, size, is_last, sum }.complete(&mut out[at..], packet);
        }
        return Ok((HEADER + headers.len() + size).min(out.len()));
    }
    let bytes = &frame.bytes[packet.network..packet.end];
    if fits {
        out.extend_from_slice(&header);
        out.extend_from_slice(bytes);
        return Ok(out.len());
    }
    let fragments = (!packet.dont_fragment).then(|| cut::fragments(bytes, mtu)).flatten();
    let mut stride = 0;
    for fragment in fragments.ok_or(TooBig { mtu })? {
        out.extend_from_slice(&header);
        fragment.append_to(out);
        stride = if stride == 0 { out.len() } else { stride };
    }
    Ok(stride)
}

/// How much each segment carries of a superframe; `None` for what is none.
fn segment_size(frame: &Frame<'_>, packet: &Packet, mtu: u32) -> Result<Option<usize>, TooBig> {
    let headers = header_length(packet);
    let room = (mtu as usize).saturating_sub(headers);
    let is_bare = packet.end - packet.network == headers;
    let size = frame.offload.segments.map_or(0, |segments| usize::from(segments.size));
    match packet.segment {
        _ if size == 0 || is_bare || packet.fragment.is_some() => Ok(None),
        Segment::Tcp(_) if room > 0 => Ok(Some(size.min(room))),
        Segment::Udp { .. } if size <= room => Ok(Some(size)),
        Segment::Tcp(_) | Segment::Udp { .. } => Err(TooBig { mtu }),
        Segment::IcmpQuery { .. }
        | Segment::IcmpError { .. }
        | Segment::LinkLocal { .. }
        | Segment::Other { .. }
        | Segment::Later => Ok(None),
    }
}

/// What the segments of a superframe have for a checksum, or a packet that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sum {
    Whole,
    /// The pseudo-header's.
    Left,
    /// UDP over IPv4 may have none (RFC 768).
    None,
}

impl Sum {
    fn of(frame: &Frame<'_>, packet: &Packet) -> Self {
        let is_partial = frame.offload.checksum.is_partial();
        // Where the receiver looks for it.
        let is_found = packet.fragment.is_none()
            && super::left_undone(frame.bytes) == Some(frame.offload.checksum);
        let is_missing = packet.protocol == protocol::UDP
            && frame
                .bytes
                .get(packet.transport + UDP_CHECKSUM..packet.transport + UDP_CHECKSUM + 2)
                == Some(&[0; 2][..]);
        match (is_partial, is_found) {
            (true, true) => Self::Left,
            (false, _) if is_missing => Self::None,
            (true, false) | (false, _) => Self::Whole,
        }
    }
}

/// Which of its superframe's segments one is.
#[derive(Debug, Clone, Copy)]
struct Place {
    number: usize,
    size: usize,
    is_last: bool,
    sum: Sum,
}

impl Place {
    /// Writes what segments differ in, in the headers of one that has the superframe's.
    fn complete(self, segment: &mut [u8], packet: &Packet) {
        let length = segment.len();
        let transport = packet.transport - packet.network;
        match packet.source.family() {
            Family::Ipv4 => {
                let mut header = Ipv4Packet::new_unchecked(&mut *segment);
                header.set_total_len(length as u16);
                header.set_ident(header.ident().wrapping_add(self.number as u16));
                header.fill_checksum();
            }
            Family::Ipv6 => {
                let mut header = Ipv6Packet::new_unchecked(&mut *segment);
                header.set_payload_len((length - IPV6_HEADER_LEN) as u16);
            }
        }
        let segment = &mut segment[transport..];
        let at = if packet.protocol == protocol::TCP {
            let mut header = TcpPacket::new_unchecked(&mut *segment);
            header.set_seq_number(header.seq_number() + self.number * self.size);
            // RFC 3168 section 6.1.2: the sender says once that it has reduced its window.
            header.set_cwr(header.cwr() && self.number == 0);
            header.set_psh(header.psh() && self.is_last);
            header.set_fin(header.fin() && self.is_last);
            TCP_CHECKSUM
        } else {
            let length = segment.len() as u16;
            UdpPacket::new_unchecked(&mut *segment).set_len(length);
            UDP_CHECKSUM
        };
        match self.sum {
            Sum::Whole => fill_checksum(segment, packet, at),
            Sum::Left => {
                let (source, destination) = packet.summed_addresses();
                let sum = pseudo_header(source, destination, packet.protocol, segment.len());
                segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            Sum::None => {}
        }
    }
}

/// Where the checksum stands (RFC 9293 section 3.1, RFC 768).
pub(super) const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// The same, of a protocol whose checksum may be left undone.
pub(super) const fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(TCP_CHECKSUM),
        protocol::UDP => Some(UDP_CHECKSUM),
        _ => None,
    }
}

fn fill_checksum(segment: &mut [u8], packet: &Packet, at: usize) {
    segment[at..at + 2].fill(0);
    let (source, destination) = packet.summed_addresses();
    let header = pseudo_header(source, destination, packet.protocol, segment.len());
    let sum = match !total([header, sum(segment)]) {
        // RFC 768: zero would say that there is none.
        0 => u16::MAX,
        sum => sum,
    };
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
