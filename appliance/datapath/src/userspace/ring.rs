//! A receive ring: frames come in the order of the slots and stay where they are until released.
//!
//! TPACKET_V2, because V3 hands over whole blocks on a timer of at least 1 ms. A frame that is to be
//! sent is held in its slot and sent from there, virtio header and all, so that we copy nothing.

use std::io;
use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::mapping::{Mapping, Slots};
use crate::VnetHeader;

/// `struct tpacket2_hdr`: how the kernel describes the frame of a slot.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SlotHeader {
    status: u32,
    /// Bytes of the frame as it came.
    length: u32,
    /// Bytes of it in the slot.
    captured: u32,
    /// Offset of the Ethernet header in the slot; the virtio header ends there.
    mac: u16,
    net: u16,
    seconds: u32,
    nanoseconds: u32,
    vlan_tci: u16,
    vlan_tpid: u16,
    padding: [u8; 4],
}

/// What a slot holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    Frame {
        bytes: &'a mut [u8],
        vnet: VnetHeader,
    },
    /// The frame did not fit into the slot.
    Truncated,
    /// The frame had a VLAN tag, which the kernel keeps beside it.
    VlanTagged,
}

/// A frame that stays in its slot until `release_held`: virtio header and frame, one after the
/// other, as a packet socket takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    slot: usize,
    start: usize,
    end: usize,
}

/// Seconds and nanoseconds of the kernel's clock.
pub(super) type Stamp = (u32, u32);

#[derive(Debug)]
pub(super) struct ReceiveRing {
    mapping: Mapping,
    /// The slot that is looked at next: the kernel fills them in turn.
    cursor: usize,
    is_held: Box<[bool]>,
    held: Vec<usize>,
}

impl ReceiveRing {
    /// Makes the socket receive into a ring of this many blocks.
    pub(super) fn new(socket: &OwnedFd, blocks: u16, slots: Slots) -> io::Result<Self> {
        let mapping = Mapping::new(socket, blocks, slots)?;
        let slots = mapping.slots();
        Ok(Self {
            mapping,
            cursor: 0,
            is_held: vec![false; slots].into(),
            held: Vec::with_capacity(slots),
        })
    }

    /// Whether a frame waits. A held slot is ours too, but its frame has been seen.
    pub(super) fn has_frame(&self) -> bool {
        self.mapping.is_ours(self.cursor) && !self.is_held[self.cursor]
    }

    /// When the frame that waits came.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp_of(self.cursor)
    }

    fn stamp_of(&self, slot: usize) -> Option<Stamp> {
        if self.is_held[slot] {
            return None;
        }
        let (header, _) = SlotHeader::read_from_prefix(self.mapping.slot(slot)?).ok()?;
        Some((header.seconds, header.nanoseconds))
    }

    /// How many frames wait, up to `limit`; those behind the ring's end come another time.
    pub(super) fn waiting(&self, limit: usize) -> usize {
        let end = self.mapping.slots().min(self.cursor + limit);
        let waits = |&slot: &usize| self.mapping.is_ours(slot) && !self.is_held[slot];
        (self.cursor..end).take_while(waits).count()
    }

    /// How many of the next `count` frames, which wait, had come by then.
    pub(super) fn came_by(&self, then: Stamp, count: usize) -> usize {
        let came = |&slot: &usize| self.stamp_of(slot).is_some_and(|stamp| stamp <= then);
        (self.cursor..self.cursor + count).take_while(came).count()
    }

    /// The next `count` frames, which wait; they stay the next until `finish` or `hold`.
    pub(super) fn peek(&mut self, count: usize) -> impl Iterator<Item = Received<'_>> {
        self.mapping.slots_mut(self.cursor..self.cursor + count).map(read_slot)
    }

    /// Gives the slot of the first frame that `peek` showed back to the kernel.
    pub(super) fn finish(&mut self) {
        if self.has_frame() {
            self.mapping.release(self.cursor);
            self.advance();
        }
    }

    /// Keeps the first frame that `peek` showed in its slot, ready to be sent; `None` if it was none.
    pub(super) fn hold(&mut self) -> Option<Held> {
        let slot = self.cursor;
        if self.is_held[slot] {
            return None;
        }
        let bytes = self.mapping.slots_mut(slot..slot + 1).next()?;
        let (header, _) = SlotHeader::read_from_prefix(bytes).ok()?;
        let (start, end) = sendable_range(&header, bytes.len())?;
        let (vnet, _) = VnetHeader::read_from_prefix(&bytes[start..end]).ok()?;
        vnet.for_sending().write_to_prefix(&mut bytes[start..end]).ok()?;
        self.is_held[slot] = true;
        self.held.push(slot);
        self.advance();
        Some(Held { slot, start, end })
    }

    /// Virtio header and frame of a held slot.
    pub(super) fn held(&self, held: Held) -> &[u8] {
        let bytes = self.mapping.slot(held.slot).expect("held slots are ours until release_held");
        &bytes[held.start..held.end]
    }

    /// Gives all held slots back to the kernel.
    pub(super) fn release_held(&mut self) {
        for slot in self.held.drain(..) {
            self.is_held[slot] = false;
            self.mapping.release(slot);
        }
    }

    fn advance(&mut self) {
        self.cursor += 1;
        if self.cursor == self.mapping.slots() {
            self.cursor = 0;
        }
    }
}

fn read_slot(bytes: &mut [u8]) -> Received<'_> {
    let Ok((header, _)) = SlotHeader::read_from_prefix(bytes) else {
        return Received::Truncated;
    };
    if header.status & libc::TP_STATUS_VLAN_VALID != 0 {
        return Received::VlanTagged;
    }
    let Some((start, end)) = sendable_range(&header, bytes.len()) else {
        return Received::Truncated;
    };
    match VnetHeader::read_from_prefix(&bytes[start..end]) {
        Ok((vnet, _)) => {
            Received::Frame { bytes: &mut bytes[start + VnetHeader::LENGTH..end], vnet }
        }
        Err(_) => Received::Truncated,
    }
}

/// Where virtio header and frame lie in the slot; `None` if the frame is not all there. The kernel
/// writes no virtio header for a frame that it cuts.
fn sendable_range(header: &SlotHeader, slot_length: usize) -> Option<(usize, usize)> {
    if header.captured < header.length {
        return None;
    }
    let start = usize::from(header.mac).checked_sub(VnetHeader::LENGTH)?;
    let end = usize::from(header.mac).checked_add(usize::try_from(header.captured).ok()?)?;
    (start >= size_of::<SlotHeader>() && end <= slot_length).then_some((start, end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MAC: u16 = 82;

    fn slot(header: SlotHeader, vnet: VnetHeader, frame: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        header.write_to_prefix(&mut bytes).unwrap();
        let mac = usize::from(MAC);
        vnet.write_to_prefix(&mut bytes[mac - VnetHeader::LENGTH..]).unwrap();
        bytes[mac..mac + frame.len()].copy_from_slice(frame);
        bytes
    }

    fn header(length: u32, captured: u32) -> SlotHeader {
        SlotHeader { status: 1, length, captured, mac: MAC, ..SlotHeader::default() }
    }

    #[test]
    fn the_header_is_the_kernels() {
        assert_eq!(size_of::<SlotHeader>(), size_of::<libc::tpacket2_hdr>());
        assert_eq!(
            std::mem::offset_of!(SlotHeader, vlan_tci),
            std::mem::offset_of!(libc::tpacket2_hdr, tp_vlan_tci)
        );
    }

    #[test]
    fn a_whole_frame_comes_with_its_virtio_header() {
        let vnet = VnetHeader { flags: 1, checksum_start: 34, ..VnetHeader::default() };
        let mut bytes = slot(header(5, 5), vnet, b"frame");
        assert_eq!(
            read_slot(&mut bytes),
            Received::Frame { bytes: &mut b"frame".to_owned(), vnet }
        );
    }

    #[test]
    fn a_cut_frame_is_truncated() {
        let mut bytes = slot(header(6, 5), VnetHeader::default(), b"frame");
        assert_eq!(read_slot(&mut bytes), Received::Truncated);
    }

    #[test]
    fn a_frame_past_the_end_of_the_slot_is_truncated() {
        for length in [4096 - u32::from(MAC) + 1, u32::MAX] {
            let mut bytes = slot(header(length, length), VnetHeader::default(), b"");
            assert_eq!(read_slot(&mut bytes), Received::Truncated);
        }
        let before = SlotHeader { mac: 41, ..header(5, 5) };
        assert_eq!(read_slot(&mut slot(before, VnetHeader::default(), b"")), Received::Truncated);
    }

    #[test]
    fn a_vlan_tag_beside_the_frame_is_seen() {
        let tagged = SlotHeader { status: 1 | libc::TP_STATUS_VLAN_VALID, ..header(5, 5) };
        let mut bytes = slot(tagged, VnetHeader::default(), b"frame");
        assert_eq!(read_slot(&mut bytes), Received::VlanTagged);
    }
}
