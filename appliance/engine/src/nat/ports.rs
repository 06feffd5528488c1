//! Ports of external addresses: allocated at random in constant time, also when nearly all are used.
//!
//! Per address, protocol and range stands an order in which ports are given out: first a keyed
//! permutation of the range, which takes no memory (RFC 7857 section 9, RFC 6056 section 3.3), then
//! the ports that were given back, first the one that has rested longest (RFC 6888 REQ-8).

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher13;

use super::bitmap::Bitmap;
use crate::address::Address;

/// Ports below are the system's (RFC 6335 section 6): one class of RFC 4787 REQ-3a, all above the other.
const FIRST_USER_PORT: u16 = 1_024;

/// External addresses with ports in use or remembered, each protocol counted. One takes 8 KiB and
/// 8 KiB for each of its ranges, and two bytes for each port that rests.
const POOLS_MAX: usize = 4_096;

/// Ranges remembered per address and protocol: twice as many NAT rules as may sensibly share one.
const ORDERS_MAX: usize = 32;

/// The free ports of every external address in use, per protocol.
#[derive(Debug)]
pub(crate) struct PortAllocator {
    pools: BTreeMap<(Address, u8), Pool>,
    /// Pools of which no port is taken; they make room for others.
    idle: usize,
    /// Orders made so far: each is another permutation.
    orders: u64,
    seed: [u8; 32],
}

#[derive(Debug, Default)]
struct Pool {
    used: Bitmap,
    /// The host's own, not to be given out; and whether a mapping has the port from before.
    reserved: BTreeMap<u16, bool>,
    /// By range, classes apart; ports of overlapping ranges are in several, and skipped where used.
    orders: BTreeMap<(u16, u16), Order>,
}

/// The ports of a range in the order in which they are given out.
#[derive(Debug)]
struct Order {
    first: u16,
    permutation: Permutation,
    /// How much of the permutation has been given out.
    started: u32,
    /// Ports that were given back.
    rested: VecDeque<u16>,
    /// Ports that are in neither part now.
    out: Bitmap,
}

impl PortAllocator {
    /// `seed` keys the permutations; the same seed and calls give the same ports.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { pools: BTreeMap::new(), idle: 0, orders: 0, seed }
    }

    /// Takes a free port out of `range`, in the class of `wanted` where that is possible (RFC 4787
    /// REQ-3a: 0-1023 or above); `None` when all are taken. Port 0 is never given out.
    pub(crate) fn allocate(
        &mut self,
        address: Address,
        protocol: u8,
        range: &RangeInclusive<u16>,
        wanted: u16,
    ) -> Option<u16> {
        let (first, last) = ((*range.start()).max(1), *range.end());
        let system = (first, last.min(FIRST_USER_PORT - 1));
        let user = (first.max(FIRST_USER_PORT), last);
        let classes = if wanted < FIRST_USER_PORT { [system, user] } else { [user, system] };

        let Self { orders, seed, .. } = self;
        let (mut made, seed) = (*orders, *seed);
        let pool = self.pool(address, protocol)?;
        let was_idle = pool.is_idle();
        let port = classes.into_iter().filter(|(first, last)| first <= last).find_map(|range| {
            pool.take(range, || {
                made += 1;
                Order::new(range, subkey(&seed, made))
            })
        });
        self.orders = made;
        if was_idle && port.is_some() {
            self.idle -= 1;
        }
        port
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, address: Address, protocol: u8, port: u16) {
        let Some(pool) = self.pools.get_mut(&(address, protocol)) else { return };
        if let Some(is_lent) = pool.reserved.get_mut(&port) {
            *is_lent = false;
            return;
        }
        if !pool.used.remove(port) {
            return;
        }
        pool.give_back(port);
        if pool.is_idle() {
            self.idle += 1;
        }
    }

    /// Never gives out the port: the host itself answers there.
    pub(crate) fn reserve(&mut self, address: Address, protocol: u8, port: u16) {
        if let Some(pool) = self.pool(address, protocol) {
            let was_idle = pool.is_idle();
            if !pool.reserved.contains_key(&port) {
                let fresh = pool.used.insert(port);
                pool.reserved.insert(port, !fresh);
            }
            if was_idle {
                self.idle -= 1;
            }
        }
    }

    /// Gives out again what was reserved for the host; `reserve` says anew what still is.
    pub(crate) fn clear_reservations(&mut self) {
        for pool in self.pools.values_mut().filter(|pool| !pool.reserved.is_empty()) {
            for (port, is_lent) in std::mem::take(&mut pool.reserved) {
                if !is_lent {
                    pool.used.remove(port);
                    pool.give_back(port);
                }
            }
            self.idle += usize::from(pool.is_idle());
        }
    }

    /// One bit for each port of a word of 64 that is taken or the host's own.
    pub(crate) fn word(&self, address: Address, protocol: u8) -> impl Fn(usize) -> u64 {
        let pool = self.pools.get(&(address, protocol));
        move |word| pool.map_or(0, |pool| pool.used.word(word))
    }

    #[cfg(test)]
    pub(crate) fn is_used(&self, address: Address, protocol: u8, port: u16) -> bool {
        self.word(address, protocol)(usize::from(port) / 64) & 1 << (port % 64) != 0
    }

    /// How many ports are taken.
    #[cfg(test)]
    pub(crate) fn used(&self, address: Address, protocol: u8) -> u32 {
        self.pools
            .get(&(address, protocol))
            .map_or(0, |pool| pool.used.len() - pool.reserved.len() as u32)
    }

    /// The pool of an address, in the place of idle ones if there are too many; `None` if there is
    /// no place.
    fn pool(&mut self, address: Address, protocol: u8) -> Option<&mut Pool> {
        let key = (address, protocol);
        if !self.pools.contains_key(&key) {
            if self.pools.len() >= POOLS_MAX {
                if self.idle == 0 {
                    return None;
                }
                self.pools.retain(|_, pool| !pool.is_idle());
                self.idle = 0;
            }
            self.idle += 1;
        }
        Some(self.pools.entry(key).or_default())
    }
}

impl Pool {
    fn take(&mut self, range: (u16, u16), fresh: impl FnOnce() -> Order) -> Option<u16> {
        if self.orders.len() >= ORDERS_MAX && !self.orders.contains_key(&range) {
            // Ranges of rules that have gone; those that have not are shuffled anew.
            self.orders.clear();
        }
        let order = self.orders.entry(range).or_insert_with(fresh);
        // Ports that another range has taken meanwhile fall out here, and come back when they are
        // released: each is skipped once for each time that it was taken.
        std::iter::from_fn(|| order.next()).find(|port| self.used.insert(*port))
    }

    fn give_back(&mut self, port: u16) {
        for ((first, last), order) in &mut self.orders {
            if (*first..=*last).contains(&port) {
                order.give_back(port);
            }
        }
    }

    /// Whether no port is taken, not even by the host.
    fn is_idle(&self) -> bool {
        self.used.len() == 0
    }
}

impl Order {
    fn new((first, last): (u16, u16), key: [u8; 16]) -> Self {
        let count = u32::from(last - first) + 1;
        Self {
            first,
            permutation: Permutation::new(count, key),
            started: 0,
            rested: VecDeque::new(),
            out: Bitmap::default(),
        }
    }

    fn next(&mut self) -> Option<u16> {
        let port = if self.started < self.permutation.count {
            let place = self.permutation.place(self.started);
            self.started += 1;
            // The permutation stays within the range.
            self.first + place as u16
        } else {
            self.rested.pop_front()?
        };
        self.out.insert(port);
        Some(port)
    }

    /// Puts a port at the end, unless its turn is still to come.
    fn give_back(&mut self, port: u16) {
        if self.out.remove(port) {
            self.rested.push_back(port);
        }
    }
}

/// A keyed permutation of `0..count`: a Feistel network over the next power of four, walked until it
/// is back in the range (J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
#[derive(Debug)]
struct Permutation {
    count: u32,
    half_bits: u32,
    key: [u8; 16],
}

/// Four rounds of a pseudo-random function make a strong permutation (M. Luby and C. Rackoff, 1988).
const ROUNDS: u32 = 4;

impl Permutation {
    fn new(count: u32, key: [u8; 16]) -> Self {
        let bits = u32::BITS - (count - 1).leading_zeros();
        Self { count, half_bits: bits.div_ceil(2).max(1), key }
    }

    fn place(&self, index: u32) -> u32 {
        let mut place = self.encrypt(index);
        while place >= self.count {
            place = self.encrypt(place);
        }
        place
    }

    fn encrypt(&self, value: u32) -> u32 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let mut hasher = SipHasher13::new_with_key(&self.key);
            hasher.write_u32(round << 16 | right);
            (left, right) = (right, left ^ (hasher.finish() as u32 & mask));
        }
        left << self.half_bits | right
    }
}

fn subkey(seed: &[u8; 32], number: u64) -> [u8; 16] {
    let (key, rest) = seed.split_first_chunk::<16>().expect("a seed is longer than a key");
    let mut subkey = [0; 16];
    for (half, bytes) in subkey.chunks_exact_mut(8).enumerate() {
        let mut hasher = SipHasher13::new_with_key(key);
        hasher.write(rest);
        hasher.write_u64(number);
        hasher.write_u8(half as u8);
        bytes.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    subkey
}

#[cfg(test)]
mod tests;
