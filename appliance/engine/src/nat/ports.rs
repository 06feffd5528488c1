//! Ports of external addresses: allocated at random in constant time, also when nearly all are used.
//!
//! Per address, protocol and range stands a queue of the free ports in an order that the seed has
//! shuffled (RFC 7857 section 9, RFC 6056): one is taken from the front and given back to the end, so
//! that it rests as long as possible (RFC 6888 REQ-8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher13;

use crate::address::Address;

/// Ports below are the system's (RFC 6335 section 6): one class of RFC 4787 REQ-3a, all above the other.
const FIRST_USER_PORT: u16 = 1_024;

/// External addresses with ports in use or remembered, each protocol counted; 64 KiB of ports each.
const POOLS_MAX: usize = 4_096;

/// The free ports of every external address in use, per protocol.
#[derive(Debug)]
pub(crate) struct PortAllocator {
    pools: BTreeMap<(Address, u8), Pool>,
    seed: [u8; 32],
}

#[derive(Debug, Default)]
struct Pool {
    used: Bitmap,
    /// The host's own: never given out, never given back.
    reserved: BTreeSet<u16>,
    /// By class and range; ports of overlapping ranges are in several, and skipped where used.
    free: BTreeMap<(u16, u16), Queue>,
}

/// Free ports in the order in which they are given out, each once.
#[derive(Debug)]
struct Queue {
    ports: VecDeque<u16>,
    queued: Bitmap,
}

impl PortAllocator {
    /// `seed` keys the permutation; the same seed and calls give the same ports.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { pools: BTreeMap::new(), seed }
    }

    /// Takes a free port out of `range`, in the class of `wanted` where that is possible (RFC 4787
    /// REQ-3a: 0-1023 or above); `None` when all are taken.
    pub(crate) fn allocate(
        &mut self,
        address: Address,
        protocol: u8,
        range: &RangeInclusive<u16>,
        wanted: u16,
    ) -> Option<u16> {
        if self.pools.len() >= POOLS_MAX && !self.pools.contains_key(&(address, protocol)) {
            self.pools.retain(|_, pool| pool.used.count > 0 || !pool.reserved.is_empty());
            if self.pools.len() >= POOLS_MAX {
                return None;
            }
        }
        let seed = &self.seed;
        let pool = self.pools.entry((address, protocol)).or_default();
        let (first, last) = (*range.start(), *range.end());
        let system = (first, last.min(FIRST_USER_PORT - 1));
        let user = (first.max(FIRST_USER_PORT), last);
        let classes = if wanted < FIRST_USER_PORT { [system, user] } else { [user, system] };
        classes
            .into_iter()
            .filter(|(first, last)| first <= last)
            .find_map(|range| pool.take(range, || shuffled(seed, address, protocol, range)))
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, address: Address, protocol: u8, port: u16) {
        let Some(pool) = self.pools.get_mut(&(address, protocol)) else { return };
        if pool.reserved.contains(&port) || !pool.used.remove(port) {
            return;
        }
        for ((first, last), free) in &mut pool.free {
            if (*first..=*last).contains(&port) {
                free.push(port);
            }
        }
    }

    /// Never gives out the port: the host itself answers there.
    pub(crate) fn reserve(&mut self, address: Address, protocol: u8, port: u16) {
        let pool = self.pools.entry((address, protocol)).or_default();
        pool.reserved.insert(port);
        pool.used.insert(port);
    }

    /// Whether the port is taken or the host's own.
    pub(crate) fn is_used(&self, address: Address, protocol: u8, port: u16) -> bool {
        self.pools.get(&(address, protocol)).is_some_and(|pool| pool.used.contains(port))
    }
}

impl Pool {
    fn take(&mut self, range: (u16, u16), fresh: impl FnOnce() -> Queue) -> Option<u16> {
        let used = &mut self.used;
        let free = self.free.entry(range).or_insert_with(fresh);
        // Ports that another range has taken meanwhile fall out here, and come back when they are
        // released: each is skipped once for each time that it was taken.
        while let Some(port) = free.pop() {
            if used.insert(port) {
                return Some(port);
            }
        }
        None
    }
}

fn shuffled(seed: &[u8; 32], address: Address, protocol: u8, (first, last): (u16, u16)) -> Queue {
    let (key, rest) = seed.split_first_chunk::<16>().expect("a seed is longer than a key");
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(rest);
    hasher.write(&address.octets());
    hasher.write_u8(protocol);
    let mut ports: VecDeque<u16> = (first..=last).collect();
    // Fisher-Yates; the keyed hash is the random source.
    for i in (1..ports.len()).rev() {
        hasher.write_u16(i as u16);
        ports.swap(i, (hasher.finish() % (i as u64 + 1)) as usize);
    }
    let mut queued = Bitmap::default();
    for port in first..=last {
        queued.insert(port);
    }
    Queue { ports, queued }
}

impl Queue {
    fn push(&mut self, port: u16) {
        if self.queued.insert(port) {
            self.ports.push_back(port);
        }
    }

    fn pop(&mut self) -> Option<u16> {
        let port = self.ports.pop_front()?;
        self.queued.remove(port);
        Some(port)
    }
}

/// One bit per port.
struct Bitmap {
    words: Box<[u64; 1_024]>,
    count: u32,
}

impl Bitmap {
    fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    /// Whether it was not there before.
    fn insert(&mut self, port: u16) -> bool {
        let fresh = !self.contains(port);
        self.words[usize::from(port) / 64] |= 1 << (port % 64);
        self.count += u32::from(fresh);
        fresh
    }

    /// Whether it was there before.
    fn remove(&mut self, port: u16) -> bool {
        let there = self.contains(port);
        self.words[usize::from(port) / 64] &= !(1 << (port % 64));
        self.count -= u32::from(there);
        there
    }
}

impl Default for Bitmap {
    fn default() -> Self {
        Self { words: Box::new([0; 1_024]), count: 0 }
    }
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitmap({} ports)", self.count)
    }
}
