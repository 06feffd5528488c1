//! From a packet's addresses and ports to its flow: two buckets of eight ways each.
//!
//! A way is one word, so that the programs read it whole. Only the upper half of the hash and the place are in it:
//! two keys with one upper half in the same buckets could not be told apart, and the second is refused.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::flow::WireKey;
use super::layout::Bucket;
use super::mapping::SharedArray;

/// What the loader has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seeds {
    pub(super) a: u64,
    pub(super) b: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    buckets: SharedArray<Bucket>,
    seeds: Seeds,
}

/// What the index cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Taken,
}

impl Index {
    pub(super) const fn new(buckets: SharedArray<Bucket>, seeds: Seeds) -> Self {
        Self { buckets, seeds }
    }

    /// Leads packets with this key to `place`, which is never zero.
    pub(super) fn insert(&self, key: &WireKey, place: u32) -> Result<(), Refused> {
        let (tag, buckets) = self.seek(key);
        let mut free = None;
        for bucket in buckets {
            for way in &self.buckets[bucket].ways {
                let word = way.load(Ordering::Relaxed);
                if word == 0 {
                    free = free.or(Some(way));
                } else if (word >> 32) as u32 == tag {
                    return Err(Refused::Taken);
                }
            }
        }
        let way = free.ok_or(Refused::Full)?;
        // Release: whoever finds the way finds the flow written.
        way.store(u64::from(tag) << 32 | u64::from(place), Ordering::Release);
        Ok(())
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

    /// The upper half of the hash, and the key's two buckets.
    fn seek(&self, key: &WireKey) -> (u32, [usize; 2]) {
        /// Of `bpf/flow.h`: the golden ratio's share of 2^32.
        const SPREAD: u32 = 0x9e37_79b1;
        let hash = hash(self.seeds, key);
        let (tag, mask) = ((hash >> 32) as u32, self.buckets.len() as u32 - 1);
        let first = hash as u32 & mask;
        let second = (first ^ tag.wrapping_mul(SPREAD)) & mask;
        (tag, [first as usize, second as usize])
    }
}

/// The finalizer of MurmurHash3 by A. Appleby.
const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

/// As `hash` in `bpf/flow.h`, which reads words of the packet as they stand in memory.
fn hash(seeds: Seeds, key: &WireKey) -> u64 {
    let [source, destination] = [key.source, key.destination];
    let port = |port: u16| u64::from(u16::from_ne_bytes(port.to_be_bytes()));
    let ports = u64::from(key.protocol) << 32 | port(destination.port) << 16 | port(source.port);
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
    let value =
        words[..count].iter().fold(seeds.a ^ ports, |value, word| mix(value).wrapping_add(*word));
    mix(value ^ seeds.b)
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
