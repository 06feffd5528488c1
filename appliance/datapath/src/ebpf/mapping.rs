//! Memory of an array map: the `unsafe` part, behind a safe surface.
//!
//! Programs in the kernel read and write it at any time. So nothing but atomics is ever seen of it, for which
//! all bytes are valid, and no reference to anything else is made.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{
    Bucket, ChallengeState, Control, Flood, Flow, Head, Hop, Mark, Past, Peer, PortPlace, Wide,
};

/// Types of atomics alone.
///
/// # Safety
/// All bytes must be valid for the type, and others may change them at any time.
// SAFETY: what implementors promise stands above. No safe way: the compiler does not know of such types.
pub(super) unsafe trait Shared {}

macro_rules! shared {
    ($($type:ty),*) => {
        // SAFETY: these consist of atomic integers (`layout`). No safe way: the compiler does not know of such types.
        $(unsafe impl Shared for $type {})*
    };
}

shared!(Bucket, ChallengeState, Control, Flood, Flow, Head, Hop, Mark, Past, Peer, PortPlace, Wide);

/// The entries of a map that was made with `BPF_F_MMAPABLE`.
pub(super) struct SharedArray<T> {
    /// Of `entries` values, readable and writable, until `drop`.
    memory: NonNull<T>,
    entries: usize,
}

// SAFETY: the mapping belongs to this value alone, nothing in it is bound to a thread, and what is seen of it
// are atomics. No safe way: no type of the standard library owns a mapping.
unsafe impl<T: Shared> Send for SharedArray<T> {}

// SAFETY: a reference shows atomics alone, and programs in the kernel change them anyway. No safe way: as for `Send`.
unsafe impl<T: Shared> Sync for SharedArray<T> {}

impl<T: Shared> SharedArray<T> {
    /// Maps an array map with so many entries of this type.
    pub(super) fn new(map: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        // Entries begin at multiples of eight bytes.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let entries = entries as usize;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory that something else
        // owns. No safe way: the entries are reachable without system calls by mmap only.
        let memory = unsafe {
            mmap(
                std::ptr::null_mut(),
                entries * size_of::<T>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let memory = NonNull::new(memory.cast()).expect("mmap returns no null pointer");
        Ok(Self { memory, entries })
    }
}

impl<T> Deref for SharedArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is page-aligned, has `entries` values of `T`, for which all bytes are valid, and
        // lives as long as `self`; others change them atomically only. No safe way: the kernel shares the
        // memory as a bare address.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.entries) }
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is of this address and length, and nothing borrows from it any more. No safe
        // way: as for mmap.
        let unmapped =
            unsafe { munmap(self.memory.as_ptr().cast(), self.entries * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

impl<T> fmt::Debug for SharedArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray").field("entries", &self.entries).finish_non_exhaustive()
    }
}
