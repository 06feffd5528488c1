//! The order in which the ports of a range are given out.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::bitmap::Bitmap;
use super::blocks::{Owned, Share};
use crate::Time;

/// How long a port rests before another mapping gets it (RFC 6888 REQ-8): whatever was sent to the
/// earlier one does not find the later.
pub(super) const REST: Duration = Duration::from_secs(120);

/// When a port may be given out that somebody had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// RFC 6888 REQ-8 excepts TCP, whose connections are tracked to their end, and mappings that let
    /// only those in whom they have sent to. A port rests as long as there are others even so.
    AtOnce,
    AfterRest,
}

/// First a keyed permutation of the ports, which takes no memory (RFC 7857 section 9, RFC 6056 section
/// 3.3), then the ports that were given back, first the one that has rested longest.
#[derive(Debug)]
pub(super) struct Order {
    ports: Share,
    permutation: Permutation,
    /// How much of the permutation has been given out.
    started: u32,
    /// Ports that were given back: room for all, used as they come.
    rested: VecDeque<Resting>,
    /// Ports that are in neither part now.
    out: Box<Bitmap>,
}

/// A port and when it was given back.
#[derive(Debug, Clone, Copy)]
struct Resting {
    port: u16,
    /// Both halves of a `Time`, lower first: in twelve bytes instead of sixteen.
    since: [u32; 2],
}

impl Resting {
    const fn new(port: u16, since: Time) -> Self {
        let nanos = since.as_nanos();
        Self { port, since: [nanos as u32, (nanos >> 32) as u32] }
    }

    fn since(self) -> Time {
        let [lower, upper] = self.since.map(u64::from);
        Time::from_nanos(upper << 32 | lower)
    }
}

impl Order {
    /// Of all ports of a range, or of those that the node owns.
    pub(super) fn new(range: (u16, u16), owned: Option<&Owned>, key: [u8; 16]) -> Self {
        let ports = Share::new(range, owned);
        let count = ports.count();
        Self {
            ports,
            permutation: Permutation::new(count, key),
            started: 0,
            rested: VecDeque::with_capacity(count as usize),
            out: Box::default(),
        }
    }

    pub(super) const fn range(&self) -> (u16, u16) {
        self.ports.range()
    }

    pub(super) fn next(&mut self, now: Time, reuse: Reuse) -> Option<u16> {
        let port = if self.started < self.permutation.count {
            let place = self.permutation.place(self.started);
            self.started += 1;
            self.ports.port(place)
        } else {
            let ready =
                |port: &mut Resting| reuse == Reuse::AtOnce || now.since(port.since()) >= REST;
            self.rested.pop_front_if(ready)?.port
        };
        self.out.insert(port);
        Some(port)
    }

    /// Puts a port at the end, unless its turn is still to come, or never was.
    pub(super) fn give_back(&mut self, now: Time, port: u16) {
        if self.out.remove(port) {
            self.rested.push_back(Resting::new(port, now));
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
        let bits = u32::BITS - count.saturating_sub(1).leading_zeros();
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn permutation_hits_every_place_once(count in 1_u32..3_000, key: [u8; 16]) {
            let permutation = Permutation::new(count, key);
            let places: HashSet<u32> = (0..count).map(|index| permutation.place(index)).collect();
            prop_assert_eq!(places.len() as u32, count);
            prop_assert!(places.iter().all(|place| *place < count));
        }
    }
}
