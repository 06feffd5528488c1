//! SipHash-1-3 of keys that are a few words long, without a buffer.
//!
//! Everybody chooses addresses and ports, so tables need a hash whose collisions nobody can compute
//! beforehand. SipHash is a pseudo-random function under a secret key (J.-P. Aumasson and D. J.
//! Bernstein, 2012); with one round for each word it is what most hash tables of Rust and Python use.
//! The values are those of the `siphasher` crate for the same bytes, which takes twice as long for
//! strings of any length. AES instructions would be faster, but calling them is unsafe.

use std::hash::{Hash, Hasher as _};

use siphasher::sip::SipHasher13;

use crate::{Address, Family, FlowKey};

/// A key that has been taken in already.
#[derive(Clone, Copy)]
pub(crate) struct KeyedHash([u64; 4]);

impl KeyedHash {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let key = u128::from_le_bytes(key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    /// For another implementation of the same.
    pub(crate) const fn state(self) -> [u64; 4] {
        self.0
    }

    /// Of 13 bytes (IPv4) or 37: addresses, ports, protocol.
    #[inline]
    pub(crate) fn flow(self, key: &FlowKey) -> u64 {
        self.flow_in(0, key)
    }

    /// The same in an epoch, which stands behind them.
    #[inline]
    pub(crate) fn flow_in(self, epoch: u16, key: &FlowKey) -> u64 {
        let (source, destination) = (key.source, key.destination);
        let rest = u64::from(source.port)
            | u64::from(destination.port) << 16
            | u64::from(key.protocol) << 32
            | u64::from(epoch) << 40;
        let [a, b] = source.address.words();
        let [c, d] = destination.address.words();
        if source.address.family() == Family::Ipv4 && destination.address.family() == Family::Ipv4 {
            self.words([b >> 32 | d & HIGH], rest | 13 << 56)
        } else {
            self.words([a, b, c, d], rest | 37 << 56)
        }
    }

    /// Of sixteen bytes, of either family.
    pub(crate) fn address(self, address: Address) -> u64 {
        self.words(address.words(), 16 << 56)
    }

    /// Of whole words and what is left of the message, its length in the highest byte.
    #[inline]
    pub(crate) fn words<const N: usize>(self, words: [u64; N], last: u64) -> u64 {
        let mut state = self.0;
        for word in words.into_iter().chain([last]) {
            state[3] ^= word;
            round(&mut state);
            state[0] ^= word;
        }
        state[2] ^= 0xff;
        for _ in 0..3 {
            round(&mut state);
        }
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
}

/// Independent 16-byte keys out of one seed.
pub(crate) fn subkey(seed: &[u8; 32], number: u8) -> [u8; 16] {
    use siphasher::sip128::{Hasher128 as _, SipHasher13};
    let (key, rest) = seed.split_first_chunk::<16>().expect("a seed is longer than a key");
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(rest);
    hasher.write_u8(number);
    hasher.finish128().as_bytes()
}

/// SipHash-1-3 of whatever can be hashed, for keys that are not a few words.
pub(crate) fn keyed(key: [u8; 16], of: &impl Hash) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    of.hash(&mut hasher);
    hasher.finish()
}

impl std::fmt::Debug for KeyedHash {
    /// The key stays a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedHash")
    }
}

/// The half of an IPv4-mapped address's second word in which the address stands.
const HIGH: u64 = 0xffff_ffff_0000_0000;

#[inline]
const fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Endpoint;

    /// The bytes that are hashed, one after the other.
    fn message(key: &FlowKey) -> Vec<u8> {
        let mut bytes = key.source.address.wire_bytes().to_vec();
        bytes.extend(key.destination.address.wire_bytes());
        bytes.extend(key.source.port.to_le_bytes());
        bytes.extend(key.destination.port.to_le_bytes());
        bytes.push(key.protocol);
        bytes
    }

    proptest! {
        /// Covers: 3.10
        #[test]
        fn flows_are_hashed_as_siphash_1_3_hashes_their_bytes(
            secret in any::<[u8; 16]>(),
            source in any::<std::net::IpAddr>(), destination: [u8; 16],
            ports in any::<[u16; 2]>(), protocol in any::<u8>(),
        ) {
            let destination = if source.is_ipv4() {
                Address::from(*destination.first_chunk::<4>().expect("sixteen"))
            } else {
                Address::from(destination)
            };
            let source = Address::from(source);
            prop_assume!(source.family() == destination.family());
            let key = FlowKey {
                source: Endpoint { address: source, port: ports[0] },
                destination: Endpoint { address: destination, port: ports[1] },
                protocol,
            };
            let mut oracle = SipHasher13::new_with_key(&secret);
            oracle.write(&message(&key));
            prop_assert_eq!(KeyedHash::new(secret).flow(&key), oracle.finish());
        }
    }
}
