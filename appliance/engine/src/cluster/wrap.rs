//! Packets on their way between nodes: GENEVE (RFC 8926) with one option (docs/cluster.md section 7).
//!
//! A datagram is a header of 32 bytes and an IP packet. Here its bytes are made and read; `tags` says
//! whether they are a peer's, and `pieces` makes datagrams of a frame that fit the links between nodes.

mod flow;
mod pieces;
mod tags;

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use smoltcp::wire::{IPV6_HEADER_LEN, Ipv4Packet, Ipv6Packet};

use super::{NodeId, WRAPPED_FRAME};
use crate::checksum::{pseudo_header, sum, total};
use crate::packet::protocol;
use crate::{Address, Checksum, Family, Offload, SegmentKind, Segments};

pub(crate) use pieces::{TooBig, wrap};
pub(crate) use tags::Tags;

/// What a wrapped packet says beside the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wrapping {
    pub(crate) flags: Flags,
    /// How many nodes it has come by since the one that received it.
    pub(crate) hops: u8,
    pub(crate) zone: ZoneTag,
    /// The number under which the node that received it keeps a copy; zero for none.
    pub(crate) ask: u32,
    /// That node, to which answers go.
    pub(crate) origin: NodeId,
}

/// Bits that newer members add are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    /// It may be the first of a flow, and waits for leave to be that.
    pub(crate) const CLAIM: Self = Self(1);
    /// It has waited at the director for its owner's REGISTER.
    pub(crate) const HELD: Self = Self(1 << 1);
    /// The node that received it has owned its flow, and does not know whether it still does.
    pub(crate) const MINE: Self = Self(1 << 2);
    /// Its checksum is the pseudo-header's sum only: whoever sends it on completes it, or leaves that to the card.
    pub(crate) const UNSUMMED: Self = Self(1 << 3);
    /// Its tag is that of all packets of its flow that come by the same node: their kernel wraps them.
    pub(crate) const FLOW: Self = Self(1 << 4);

    #[must_use]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The zone that the packet came in by, as 24 bits that follow from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct ZoneTag([u8; 3]);

impl ZoneTag {
    /// The lower 24 bits.
    pub(crate) const fn new(hash: u64) -> Self {
        let [a, b, c, ..] = hash.to_le_bytes();
        Self([a, b, c])
    }

    pub(crate) const fn bytes(self) -> [u8; 3] {
        self.0
    }

    pub(crate) const fn from_bytes(bytes: [u8; 3]) -> Self {
        Self(bytes)
    }
}

/// Why a datagram is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is no GENEVE of version 0 with the option and a packet in it, or has what must not be ignored
    /// and is not known.
    Malformed,
    /// The tag is another than under any key that is taken from the peer now.
    Forged,
    /// It was here before, or so long ago that nobody knows.
    Replayed,
}

/// A datagram as it is read: not yet known to be the peer's.
#[derive(Debug, Clone, Copy)]
struct Read {
    wrapping: Wrapping,
    epoch: u8,
    counter: u32,
    /// The tag, and where it stands.
    tag: u64,
    tag_at: usize,
    ethertype: [u8; 2],
    /// Where the packet begins.
    inner: usize,
}

/// A datagram that is the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) wrapping: Wrapping,
    ethertype: [u8; 2],
    inner: usize,
}

/// Whether a datagram says that a kernel has wrapped it.
pub(crate) fn is_of_kernel(datagram: &[u8]) -> bool {
    const FLAGS: usize = size_of::<Base>() + std::mem::offset_of!(WrapOption, flags);
    datagram.get(FLAGS).is_some_and(|flags| Flags(*flags).has(Flags::FLOW))
}

/// Where the checksum is that was left undone in a frame (its `UNSUMMED` says so); `None` if there can be none.
pub(crate) fn left_undone(frame: &[u8]) -> Option<Checksum> {
    let packet = frame.get(ETHERNET..)?;
    let (transport, protocol) = match packet.first()? >> 4 {
        4 => (usize::from(packet[0] & 0x0f) * WORD, *packet.get(9)?),
        6 => (IPV6_HEADER_LEN, *packet.get(6)?),
        _ => return None,
    };
    let offset = pieces::checksum_at(protocol)?;
    Some(Checksum::Partial { start: (ETHERNET + transport) as u16, offset: offset as u16 })
}

/// What a kernel has left undone in a frame that it has wrapped, which it does not say: of a superframe, whose segments
/// carry `size` bytes, the checksum, and of others perhaps. One that is neither right nor left undone is wrong, and
/// stays so.
pub(crate) fn left_by_kernel(frame: &[u8], size: Option<u16>) -> Option<Offload> {
    let checksum = left_undone(frame)?;
    let Checksum::Partial { start, offset } = checksum else { return None };
    let (transport, field) = (usize::from(start), usize::from(start + offset));
    let segment = frame.get(transport..)?;
    let is_tcp = usize::from(offset) == pieces::TCP_CHECKSUM;
    if let Some(size) = size.filter(|_| is_tcp) {
        let is_wide = frame.get(ETHERNET)? >> 4 == 6;
        let kind = if is_wide { SegmentKind::TcpIpv6 } else { SegmentKind::TcpIpv4 };
        let header = transport + usize::from(segment.get(12)? >> 4) * WORD;
        let segments = Segments { kind, size, header: header as u16 };
        return Some(Offload { checksum, segments: Some(segments) });
    }
    let protocol = if is_tcp { protocol::TCP } else { protocol::UDP };
    let ends = if frame.get(ETHERNET)? >> 4 == 6 {
        let view = Ipv6Packet::new_checked(frame.get(ETHERNET..)?).ok()?;
        [Address::from(view.src_addr().octets()), Address::from(view.dst_addr().octets())]
    } else {
        let view = Ipv4Packet::new_checked(frame.get(ETHERNET..)?).ok()?;
        [Address::from(view.src_addr().octets()), Address::from(view.dst_addr().octets())]
    };
    let pseudo = pseudo_header(ends[0], ends[1], protocol, segment.len());
    let is_right = total([sum(segment), pseudo]) == u16::MAX;
    let is_left = frame.get(field..field + 2)? == pseudo.to_be_bytes();
    let undone = if is_left && !is_right { checksum } else { Checksum::default() };
    Some(Offload { checksum: undone, segments: None })
}

const ETHERNET: usize = 14;

impl Opened {
    /// Makes a frame of the packet, in place, with these link addresses: it begins at [`WRAPPED_FRAME`].
    /// Of a datagram that has options of newer members too, padding is left behind the packet.
    pub(crate) fn to_frame(
        self,
        datagram: &mut [u8],
        destination: [u8; 6],
        source: [u8; 6],
    ) -> &mut [u8] {
        if self.inner > HEADER {
            datagram.copy_within(self.inner.., HEADER);
            let end = datagram.len() - (self.inner - HEADER);
            datagram[end..].fill(0);
        }
        let frame = &mut datagram[WRAPPED_FRAME..];
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        frame[12..14].copy_from_slice(&self.ethertype);
        frame
    }
}

/// What stands before each packet of a flow that kernels wrap.
pub type FlowHeader = [u8; HEADER];

/// GENEVE header and option.
pub(crate) const HEADER: usize = size_of::<Base>() + size_of::<WrapOption>();

/// An outer IP header, of IPv6 as it is the longer, and a UDP header: what packets may be long does not
/// hang on the addresses that nodes have.
const OUTER: u32 = 40 + 8;

const _: () = assert!(HEADER == 32 && HEADER - WRAPPED_FRAME == ETHERNET);

/// The longest packet that can be wrapped where the links between nodes carry `sync_mtu`.
pub(crate) const fn inner_mtu(sync_mtu: u16) -> u32 {
    (sync_mtu as u32).saturating_sub(OUTER + HEADER as u32)
}

/// RFC 8926 section 3.4.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Base {
    /// Two bits of version, and how many words of options follow.
    length: u8,
    marks: u8,
    ethertype: U16,
    zone: [u8; 3],
    reserved: u8,
}

/// RFC 8926 section 3.5, and what the option says.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WrapOption {
    class: U16,
    kind: u8,
    /// In words, without this one.
    length: u8,
    flags: u8,
    hops: u8,
    epoch: u8,
    origin: u8,
    ask: U32,
    counter: U32,
    tag: U64,
}

/// Of `marks`: a control packet, and critical options are there.
const CONTROL: u8 = 1 << 7;
const HAS_CRITICAL: u8 = 1 << 6;
/// Of an option's kind.
const CRITICAL: u8 = 1 << 7;
/// RFC 8926 section 7: experimental.
const CLASS: u16 = 0xffff;
const KIND: u8 = CRITICAL | 1;
const WORD: usize = 4;
const VERSION: u8 = 0b11 << 6;
/// Of an option's length: the rest is reserved.
const LENGTH: u8 = 0b1_1111;

/// The header of a datagram, to which `tags` adds the epoch, a counter and the tag.
fn header(wrapping: &Wrapping, family: Family) -> [u8; HEADER] {
    let ethertype = match family {
        Family::Ipv4 => IPV4,
        Family::Ipv6 => IPV6,
    };
    let base = Base {
        length: (size_of::<WrapOption>() / WORD) as u8,
        marks: HAS_CRITICAL,
        ethertype: ethertype.into(),
        zone: wrapping.zone.0,
        reserved: 0,
    };
    let option = WrapOption {
        class: CLASS.into(),
        kind: KIND,
        length: (size_of::<WrapOption>() / WORD - 1) as u8,
        flags: wrapping.flags.0,
        hops: wrapping.hops,
        epoch: 0,
        origin: wrapping.origin.0,
        ask: wrapping.ask.into(),
        counter: 0.into(),
        tag: 0.into(),
    };
    let mut bytes = [0; HEADER];
    let (front, back) = bytes.split_at_mut(size_of::<Base>());
    front.copy_from_slice(base.as_bytes());
    back.copy_from_slice(option.as_bytes());
    bytes
}

impl Read {
    fn new(datagram: &[u8]) -> Result<Self, Refused> {
        let (base, rest) = Base::ref_from_prefix(datagram).map_err(|_| Refused::Malformed)?;
        let options = usize::from(base.length & !VERSION) * WORD;
        let is_known = base.length & VERSION == 0
            && base.marks & (CONTROL | HAS_CRITICAL) == HAS_CRITICAL
            && [IPV4, IPV6].contains(&base.ethertype.get());
        if !is_known || options >= rest.len() {
            return Err(Refused::Malformed);
        }
        let (ours, at) = find_option(&rest[..options])?;
        let WrapOption { flags, hops, epoch, origin, ask, counter, tag, .. } = ours;
        Ok(Self {
            wrapping: Wrapping {
                flags: Flags(*flags),
                hops: *hops,
                zone: ZoneTag(base.zone),
                ask: ask.get(),
                origin: NodeId(*origin),
            },
            epoch: *epoch,
            counter: counter.get(),
            tag: tag.get(),
            tag_at: size_of::<Base>() + at + size_of::<WrapOption>() - size_of::<U64>(),
            ethertype: base.ethertype.to_bytes(),
            inner: size_of::<Base>() + options,
        })
    }

    /// A part of a flow and nothing more: its tag covers the keys only.
    fn is_of_flow(&self) -> bool {
        let Wrapping { flags, hops, ask, .. } = self.wrapping;
        flags == Flags::FLOW && hops == 0 && ask == 0 && self.counter == 0 && self.inner == HEADER
    }

    const fn opened(&self) -> Opened {
        let Self { mut wrapping, ethertype, inner, .. } = *self;
        // Whoever sends it on makes another tag.
        wrapping.flags = wrapping.flags.without(Flags::FLOW);
        Opened { wrapping, ethertype, inner }
    }
}

/// IEEE 802 numbers of what is inside.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Our option and where it stands; the only critical one, and there once.
fn find_option(options: &[u8]) -> Result<(&WrapOption, usize), Refused> {
    let (mut found, mut at) = (None, 0);
    while at < options.len() {
        let &[a, b, kind, length] =
            options[at..].first_chunk::<WORD>().ok_or(Refused::Malformed)?;
        let end = at + WORD + usize::from(length & LENGTH) * WORD;
        let option = options.get(at..end).ok_or(Refused::Malformed)?;
        if u16::from_be_bytes([a, b]) == CLASS && kind == KIND && found.is_none() {
            let ours = WrapOption::ref_from_bytes(option).map_err(|_| Refused::Malformed)?;
            found = Some((ours, at));
        } else if kind & CRITICAL != 0 {
            return Err(Refused::Malformed);
        }
        at = end;
    }
    found.ok_or(Refused::Malformed)
}

#[cfg(test)]
mod tests;
