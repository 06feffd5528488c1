//! The memory of a receive ring, shared with the kernel: the `unsafe` part, behind a safe surface.
//!
//! A slot is the kernel's while its status word is `TP_STATUS_KERNEL`, and ours otherwise. The
//! kernel writes to its own slots only, so bytes may be borrowed exactly while a slot is ours; it
//! becomes the kernel's by `release` alone, which borrows all slots.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::socket;

/// Bytes of a block, which the kernel allocates in one piece where it can.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Frames of more bytes, link header included, go to the ring for superframes.
pub(super) const PACKET_BYTES: u32 = 1_900;

/// How large the slots of a ring are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slots {
    /// Half a page: many frames in little memory.
    ForPackets,
    /// The largest IP packet with its link header (65,549 bytes) and the ring's own headers, in
    /// whole pages. Smaller slots would cut superframes.
    ForSuperframes,
}

impl Slots {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::ForPackets => 2048,
            Self::ForSuperframes => 17 * 4096,
        }
    }

    pub(super) const fn per_block(self) -> usize {
        BLOCK_BYTES / self.bytes()
    }

    /// Where a slot begins: slots do not cross blocks, and the rest of a block stays empty.
    pub(super) const fn offset(self, slot: usize) -> usize {
        slot / self.per_block() * BLOCK_BYTES + slot % self.per_block() * self.bytes()
    }
}

#[derive(Debug)]
pub(super) struct Mapping {
    /// Of `blocks` times `BLOCK_BYTES`, readable and writable, until `drop`.
    memory: NonNull<u8>,
    blocks: usize,
    slots: Slots,
}

// SAFETY: the mapping belongs to this value alone and nothing in it is bound to a thread. No safe
// way: no type of the standard library owns a mapping.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Gives the socket a receive ring and maps it.
    pub(super) fn new(socket: &OwnedFd, blocks: u16, slots: Slots) -> io::Result<Self> {
        socket::set_receive_ring(socket, blocks, BLOCK_BYTES as u32, slots.bytes() as u32)?;
        let blocks = usize::from(blocks);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory that
        // something else owns. No safe way: the ring is reachable by mmap only.
        let memory = unsafe {
            mmap(
                std::ptr::null_mut(),
                blocks * BLOCK_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                socket.as_fd(),
                0,
            )
        }?;
        let memory = NonNull::new(memory.cast()).expect("mmap returns no null pointer");
        Ok(Self { memory, blocks, slots })
    }

    pub(super) fn slots(&self) -> usize {
        self.blocks * self.slots.per_block()
    }

    /// Whether the slot holds a frame and is not the kernel's.
    pub(super) fn is_ours(&self, slot: usize) -> bool {
        // Acquire: the kernel writes the frame before the status.
        self.status(slot).load(Ordering::Acquire) != libc::TP_STATUS_KERNEL
    }

    /// The bytes of a slot that is ours.
    pub(super) fn slot(&self, slot: usize) -> Option<&[u8]> {
        if !self.is_ours(slot) {
            return None;
        }
        let start = self.start(slot);
        // SAFETY: `start` has the bytes of a slot behind it in the mapping. The slot is ours, so the kernel
        // does not write to it before `release`, and both `release` and `slots_mut` borrow all
        // of `self` exclusively. No safe way: the kernel shares the memory as a bare address.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), self.slots.bytes()) })
    }

    /// The bytes of several slots, up to the first that is not ours, to be changed in place.
    pub(super) fn slots_mut(&mut self, slots: Range<usize>) -> impl Iterator<Item = &mut [u8]> {
        let this = &*self;
        slots.map_while(move |slot| {
            if !this.is_ours(slot) {
                return None;
            }
            let start = this.start(slot);
            // SAFETY: as in `slot`; the iterator borrows `self` exclusively for as long as what it
            // lends lives, the range names each slot once, and slots do not overlap: this is the
            // only reference into the slot. No safe way: as in `slot`.
            Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), this.slots.bytes()) })
        })
    }

    /// Gives a slot back to the kernel.
    pub(super) fn release(&mut self, slot: usize) {
        // Release: our reads and writes of the frame come before the kernel's next.
        self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: slots begin on half pages, so the pointer is aligned, and four bytes of the
        // mapping lie behind it. Slices of this slot are not alive: those that `slot` lends are only
        // read, and `slots_mut` borrows `self` exclusively until they are gone, and asks before it
        // lends. The kernel accesses the word atomically.
        // No safe way: an atomic is needed where the kernel has put its word.
        unsafe { AtomicU32::from_ptr(self.start(slot).as_ptr().cast()) }
    }

    /// # Panics
    /// When there is no such slot.
    fn start(&self, slot: usize) -> NonNull<u8> {
        assert!(slot < self.slots(), "slot {slot} of {}", self.slots());
        // SAFETY: the offset of an existing slot lies within the mapping. No safe way: pointer
        // arithmetic.
        unsafe { self.memory.add(self.slots.offset(slot)) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is of this address and length, and nothing borrows from it any more.
        // No safe way: as for mmap.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), self.blocks * BLOCK_BYTES) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_the_largest_frame_with_all_headers() {
        let headers = size_of::<libc::tpacket2_hdr>() + size_of::<libc::sockaddr_ll>();
        // The kernel aligns to 16 bytes and leaves room for a link header of 16 at least.
        let headers = headers + 3 * 16 + 10;
        assert!(Slots::ForSuperframes.bytes() >= headers + 14 + 65_535);
        assert!(Slots::ForPackets.bytes() >= headers + PACKET_BYTES as usize);
    }

    #[test]
    fn slots_lie_in_blocks_one_after_the_other() {
        for slots in [Slots::ForPackets, Slots::ForSuperframes] {
            for slot in 1..slots.per_block() * 3 {
                let (before, start) = (slots.offset(slot - 1), slots.offset(slot));
                assert!(start >= before + slots.bytes());
                assert_eq!(start / BLOCK_BYTES, (start + slots.bytes() - 1) / BLOCK_BYTES);
                assert_eq!(start % 2048, 0);
            }
            assert_eq!(slots.offset(slots.per_block()), BLOCK_BYTES);
        }
    }
}
