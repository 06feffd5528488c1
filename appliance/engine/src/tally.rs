//! Counts per key: who holds how many.

use std::hash::Hash;

use crate::chains::{HasKey, Keyed};

/// A multiset of at most so many different keys; memory is allocated once.
#[derive(Debug)]
pub(crate) struct Tally<K>(Keyed<Count<K>>)
where
    K: Hash + Eq + Copy;

#[derive(Debug, Clone, Copy)]
struct Count<K> {
    of: K,
    count: u32,
}

impl<K: Hash + Eq + Copy> HasKey for Count<K> {
    type Key = K;

    fn key(&self) -> K {
        self.of
    }
}

impl<K: Hash + Eq + Copy> Tally<K> {
    pub(crate) fn new(capacity: u32, key: [u8; 16]) -> Self {
        Self(Keyed::new(capacity, key))
    }

    pub(crate) fn count(&self, of: &K) -> u32 {
        self.0.get(of).map_or(0, |there| there.count)
    }

    pub(crate) fn add(&mut self, of: K) {
        if let Some(there) = self.0.get_or_insert(Count { of, count: 0 }) {
            there.count += 1;
        }
    }

    pub(crate) fn take(&mut self, of: &K) {
        let Some(there) = self.0.get_mut(of) else { return };
        there.count -= 1;
        if there.count == 0 {
            self.0.remove(of);
        }
    }
}

#[cfg(test)]
mod tests;
