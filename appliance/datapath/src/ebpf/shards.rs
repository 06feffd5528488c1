//! Whose a key is, of the workers of a node: memory that all of them and the programs share.
//!
//! Two buckets of eight ways for a key, as in `index`; a way is one word: the hash's upper 56 bits, and the worker. Keys of
//! every protocol are here, from a flow's first packet to its end, whether programs move it or not. Workers claim at the
//! same time: each writes its claim first, then looks for another's, so that of two who want one key not both get it.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use super::flow::WireKey;
use super::index::{HASH_KEYS, Seeds, buckets_of, hash, mix, words};
use super::layout::Bucket;
use super::mapping::SharedArray;

/// Bits of a word that name the worker, plus one.
const WORKER: u64 = 0xff;

/// The directory of a node's workers.
#[derive(Debug, Clone)]
pub struct ShardTable(Claims<Arc<SharedArray<Bucket>>>);

/// Why packets of two keys are not the worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimKeysError {
    #[error("one of the keys is another worker's")]
    Taken,
    #[error("both buckets of one of the keys are full")]
    NoRoom,
}

/// The same in whatever memory.
#[derive(Debug, Clone)]
struct Claims<B> {
    buckets: B,
    keys: [u32; HASH_KEYS],
    workers: u16,
}

impl ShardTable {
    pub(super) fn new(buckets: SharedArray<Bucket>, seeds: Seeds, workers: u16) -> Self {
        Self(Claims { buckets: Arc::new(buckets), keys: seeds.hash_keys(), workers })
    }

    /// How many workers there are.
    pub const fn workers(&self) -> u16 {
        self.0.workers
    }

    /// Notes that packets of both keys are the worker's. Of two workers who want the same at the same time one or none gets
    /// it.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn claim(&self, keys: [&WireKey; 2], worker: u16) -> Result<(), ClaimKeysError> {
        self.0.claim(keys, worker)
    }

    /// Forgets what the worker has claimed.
    pub fn release(&self, keys: [&WireKey; 2], worker: u16) {
        self.0.release(keys, worker);
    }

    /// Whose packets of the key are.
    pub fn find(&self, key: &WireKey) -> Option<u16> {
        self.0.find(key)
    }

    /// Where flows of a source begin; of IPv6, one network of 64 bits is a source. As `choose_worker` of `bpf/worker.h`.
    pub fn choose(&self, source: IpAddr) -> u16 {
        self.0.choose(source)
    }

    /// Forgets all, as an earlier process has left it.
    pub(super) fn clear(&self) {
        let ways = self.0.buckets.iter().flat_map(|bucket| &bucket.ways);
        ways.for_each(|way| way.store(0, SeqCst));
    }
}

impl<B: Deref<Target: Deref<Target = [Bucket]>>> Claims<B> {
    fn claim(&self, keys: [&WireKey; 2], worker: u16) -> Result<(), ClaimKeysError> {
        let [first, second] = keys;
        self.claim_one(first, worker)?;
        self.claim_one(second, worker).inspect_err(|_| self.release_one(first, worker))
    }

    fn release(&self, keys: [&WireKey; 2], worker: u16) {
        keys.into_iter().for_each(|key| self.release_one(key, worker));
    }

    fn find(&self, key: &WireKey) -> Option<u16> {
        let hash = hash(&self.keys, key);
        let mut words = self.ways(hash).map(|way| way.load(SeqCst));
        words.find(|word| is_of(*word, hash)).map(|word| (word & WORKER) as u16 - 1)
    }

    fn choose(&self, source: IpAddr) -> u16 {
        let word = match source {
            IpAddr::V4(v4) => u64::from(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(_) => words(source)[0],
        };
        let low = (word as u32).wrapping_add(self.keys[2]);
        let high = ((word >> 32) as u32).wrapping_add(self.keys[3]);
        let mixed = mix(u64::from(low) * u64::from(high)) >> 32;
        ((mixed * u64::from(self.workers)) >> 32) as u16
    }

    fn claim_one(&self, key: &WireKey, worker: u16) -> Result<(), ClaimKeysError> {
        let hash = hash(&self.keys, key);
        let word = hash & !WORKER | u64::from(worker + 1);
        let is_placed = std::iter::from_fn(|| self.find_room(hash))
            .any(|way| way.compare_exchange(0, word, SeqCst, SeqCst).is_ok());
        if !is_placed {
            return Err(ClaimKeysError::NoRoom);
        }
        // After the claim stands: whoever has written before is seen here, and whoever writes later sees it.
        let is_others = |way: &AtomicU64| {
            let seen = way.load(SeqCst);
            is_of(seen, hash) && seen != word
        };
        let is_contended = self.ways(hash).any(is_others);
        if is_contended {
            self.release_one(key, worker);
            return Err(ClaimKeysError::Taken);
        }
        Ok(())
    }

    fn release_one(&self, key: &WireKey, worker: u16) {
        let hash = hash(&self.keys, key);
        let word = hash & !WORKER | u64::from(worker + 1);
        // Two keys of a worker's may look the same: then as many ways do, and it does not matter which goes.
        if let Some(way) = self.ways(hash).find(|way| way.load(SeqCst) == word) {
            way.store(0, SeqCst);
        }
    }

    /// A free way of the emptier bucket.
    fn find_room(&self, hash: u64) -> Option<&AtomicU64> {
        let buckets: &[Bucket] = &self.buckets;
        let free = |bucket: usize| buckets[bucket].ways.iter().filter(|way| way.load(SeqCst) == 0);
        let [first, second] = buckets_of(hash, buckets.len());
        let is_first = free(first).count() >= free(second).count();
        free(if is_first { first } else { second }).next()
    }

    fn ways(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let buckets: &[Bucket] = &self.buckets;
        let places = buckets_of(hash, buckets.len());
        places.into_iter().flat_map(|bucket| &buckets[bucket].ways)
    }
}

const fn is_of(word: u64, hash: u64) -> bool {
    word & WORKER != 0 && word & !WORKER == hash & !WORKER
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicU16};

    use super::*;
    use crate::ebpf::WireEndpoint;

    const WORKERS: u16 = 4;

    fn table(buckets: usize) -> Claims<Arc<Vec<Bucket>>> {
        let bucket = || Bucket { ways: std::array::from_fn(|_| AtomicU64::new(0)) };
        let buckets = Arc::new((0..buckets).map(|_| bucket()).collect::<Vec<_>>());
        Claims { buckets, keys: Seeds { a: 1, b: 2 }.hash_keys(), workers: WORKERS }
    }

    fn key(number: u32) -> WireKey {
        let [a, b, c, d] = number.to_be_bytes();
        let source = WireEndpoint { address: [10, b, c, d].into(), port: 1_000 + u16::from(a) };
        let destination = WireEndpoint { address: [192, 0, 2, 1].into(), port: 443 };
        WireKey { protocol: 6, source, destination }
    }

    fn reply(number: u32) -> WireKey {
        let WireKey { protocol, source, destination } = key(number);
        WireKey { protocol, source: destination, destination: source }
    }

    #[test]
    fn what_is_claimed_is_found_until_it_is_released() {
        let table = table(256);
        for number in 0..500 {
            let worker = (number % 4) as u16;
            assert_eq!(table.find(&key(number)), None);
            table.claim([&key(number), &reply(number)], worker).unwrap();
        }
        for number in 0..500 {
            let worker = (number % 4) as u16;
            assert_eq!(table.find(&key(number)), Some(worker));
            assert_eq!(table.find(&reply(number)), Some(worker));
            // One of them is another's: neither changes hands.
            let refused =
                table.claim([&key(number + 1_000), &reply(number)], (worker + 1) % WORKERS);
            assert_eq!(refused, Err(ClaimKeysError::Taken));
            assert_eq!(table.find(&key(number + 1_000)), None);
        }
        for number in 0..500 {
            table.release([&key(number), &reply(number)], (number % 4) as u16);
        }
        let is_empty = |bucket: &Bucket| bucket.ways.iter().all(|way| way.load(SeqCst) == 0);
        assert!(table.buckets.iter().all(is_empty));
    }

    #[test]
    fn a_full_bucket_refuses_and_keeps_what_it_has() {
        let table = table(1);
        let claim = |table: &Claims<_>, number| table.claim([&key(number), &reply(number)], 1);
        let claimed: Vec<u32> = (0..20).filter(|&number| claim(&table, number).is_ok()).collect();
        assert_eq!(claimed, [0, 1, 2, 3]);
        assert!(claimed.iter().all(|&number| table.find(&reply(number)) == Some(1)));
        assert_eq!(claim(&table, 4), Err(ClaimKeysError::NoRoom));
        assert_eq!(table.find(&key(4)), None);
    }

    #[test]
    fn sources_are_spread_over_all_workers() {
        let table = table(1);
        let mut counts = [0_u32; WORKERS as usize];
        for number in 0..4_000 {
            counts[usize::from(table.choose(key(number).source.address))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    /// All want the same few keys, some of them turned round: nobody ever gets what another has.
    #[test]
    fn of_workers_who_want_a_key_at_once_one_gets_it() {
        const KEYS: u32 = 4;
        const ROUNDS: usize = 20_000;
        let table = table(2);
        let holders: Vec<AtomicU16> = (0..KEYS).map(|_| AtomicU16::new(0)).collect();
        let (start, is_wrong) = (Barrier::new(usize::from(WORKERS)), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (table, holders, start, is_wrong) = (&table, &holders, &start, &is_wrong);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..ROUNDS {
                        let number = (round as u32 * 7 + u32::from(worker)) % KEYS;
                        let mut keys = [key(number), reply(number)];
                        if worker % 2 == 1 {
                            keys.reverse();
                        }
                        let [first, second] = &keys;
                        if table.claim([first, second], worker).is_err() {
                            continue;
                        }
                        let holder = &holders[number as usize];
                        let was = holder.swap(worker + 1, SeqCst);
                        let is = holder.swap(0, SeqCst);
                        if was != 0 || is != worker + 1 {
                            is_wrong.store(true, SeqCst);
                        }
                        table.release([first, second], worker);
                    }
                });
            }
        });
        assert!(!is_wrong.load(SeqCst));
        let is_empty = |bucket: &Bucket| bucket.ways.iter().all(|way| way.load(SeqCst) == 0);
        assert!(table.buckets.iter().all(is_empty));
    }
}
