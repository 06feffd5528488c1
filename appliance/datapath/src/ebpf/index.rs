//! From a packet's addresses and ports to its flow: two buckets of eight ways each.
//!
//! A way is one word, so that the programs read it whole. Only the upper half of the hash and the place are in it:
//! two keys with one upper half in the same buckets could not be told apart, and the second is refused.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use super::flow::WireKey;
use super::layout::Bucket;
use super::mapping::SharedArray;

/// What the loader has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seeds {
    pub(super) a: u64,
    pub(super) b: u64,
}

/// Ways of its first bucket from which on a key goes where there is more room. The programs look there second, so not
/// before: at the table's limit 5 % of all keys have to, and none of millions is refused. Filling the first bucket
/// first refuses one of 4,000.
const CROWDED: usize = 6;

/// Ports with the protocol, and four pairs of halves of words of addresses.
pub(super) const HASH_KEYS: usize = 10;

impl Seeds {
    /// Keys of the hash, drawn from the seeds.
    pub(super) fn hash_keys(self) -> [u32; HASH_KEYS] {
        std::array::from_fn(|at| mix(mix(self.a.wrapping_add(at as u64)) ^ self.b) as u32)
    }
}

#[derive(Debug)]
pub(super) struct Index<B = SharedArray<Bucket>> {
    buckets: B,
    keys: [u32; HASH_KEYS],
}

/// What the index cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Taken,
}

impl<B: Deref<Target = [Bucket]>> Index<B> {
    pub(super) fn new(buckets: B, seeds: Seeds) -> Self {
        Self { buckets, keys: seeds.hash_keys() }
    }

    /// Leads packets with this key to `place`, which is never zero.
    pub(super) fn insert(&self, key: &WireKey, place: u32) -> Result<(), Refused> {
        // Whoever loses a way to another worker looks again: each time somebody has got on.
        loop {
            let way = self.find_room(key)?;
            let word = u64::from(self.seek(key).0) << 32 | u64::from(place);
            // Release: whoever finds the way finds the flow written.
            if way.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    fn find_room(&self, key: &WireKey) -> Result<&AtomicU64, Refused> {
        let (tag, buckets) = self.seek(key);
        let mut free = [None; 2];
        let mut taken = [0; 2];
        for (at, bucket) in buckets.into_iter().enumerate() {
            for way in &self.buckets[bucket].ways {
                let word = way.load(Ordering::Relaxed);
                if word == 0 {
                    free[at] = free[at].or(Some(way));
                } else if (word >> 32) as u32 == tag {
                    return Err(Refused::Taken);
                } else {
                    taken[at] += 1;
                }
            }
        }
        let is_first = taken[0] < CROWDED || taken[0] <= taken[1];
        let way = if is_first { free[0] } else { free[1] };
        way.or(free[1]).ok_or(Refused::Full)
    }

    pub(super) fn remove(&self, key: &WireKey, place: u32) {
        let (tag, buckets) = self.seek(key);
        let word = u64::from(tag) << 32 | u64::from(place);
        for bucket in buckets {
            for way in &self.buckets[bucket].ways {
                if way.load(Ordering::Relaxed) == word {
                    way.store(0, Ordering::Release);
                    return;
                }
            }
        }
    }

    /// Leads nowhere where nobody is.
    pub(super) fn keep(&self, is_used: impl Fn(u32) -> bool) {
        for way in self.buckets.iter().flat_map(|bucket| &bucket.ways) {
            let place = way.load(Ordering::Relaxed) as u32;
            if place != 0 && !is_used((place - 1) >> 1) {
                way.store(0, Ordering::Release);
            }
        }
    }

    /// The upper half of the hash, and the key's two buckets.
    fn seek(&self, key: &WireKey) -> (u32, [usize; 2]) {
        let hash = hash(&self.keys, key);
        ((hash >> 32) as u32, buckets_of(hash, self.buckets.len()))
    }
}

/// The two buckets of a hash, among so many: a power of two.
pub(super) fn buckets_of(hash: u64, buckets: usize) -> [usize; 2] {
    /// Of `bpf/flow.h`: the golden ratio's share of 2^32.
    const SPREAD: u32 = 0x9e37_79b1;
    let (tag, mask) = ((hash >> 32) as u32, buckets as u32 - 1);
    let first = hash as u32 & mask;
    let second = (first ^ tag.wrapping_mul(SPREAD)) & mask;
    [first as usize, second as usize]
}

/// The finalizer of MurmurHash3 by A. Appleby.
pub(super) const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

/// As `hash` in `bpf/flow.h`, which reads words of the packet as they stand in memory: NH of UMAC (J. Black and others,
/// 1999), and a finalizer.
pub(super) fn hash(keys: &[u32; HASH_KEYS], key: &WireKey) -> u64 {
    let [source, destination] = [key.source, key.destination];
    let port = |port: u16| u32::from(u16::from_ne_bytes(port.to_be_bytes()));
    let ports = port(destination.port) << 16 | port(source.port);
    let words = match (source.address, destination.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [source, destination] =
                [source, destination].map(|ip| u64::from(u32::from_ne_bytes(ip.octets())));
            [destination << 32 | source, 0, 0, 0]
        }
        (source, destination) => {
            let [[a, b], [c, d]] = [source, destination].map(words);
            [a, b, c, d]
        }
    };
    let count = if source.address.is_ipv4() { 1 } else { 4 };
    let first = [ports, u32::from(key.protocol)];
    let pairs = words[..count].iter().map(|&word| [word as u32, (word >> 32) as u32]);
    let products =
        std::iter::once(first).chain(pairs).zip(keys.chunks_exact(2)).map(|([a, b], keys)| {
            u64::from(a.wrapping_add(keys[0])).wrapping_mul(b.wrapping_add(keys[1]).into())
        });
    mix(products.fold(0, u64::wrapping_add))
}

/// The words of an IPv6 address as they stand in memory.
pub(super) fn words(address: IpAddr) -> [u64; 2] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| octets[at + byte]));
    [word(0), word(8)]
}
