//! Counts per key, with a limit: who holds how many flows.

use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

/// A multiset; at most one entry per flow, so never larger than the flow table.
#[derive(Debug)]
pub(crate) struct Tally<K> {
    counts: HashTable<(K, u32)>,
    key: [u8; 16],
}

impl<K: Hash + Eq + Copy> Tally<K> {
    pub(crate) fn new(capacity: u32, key: [u8; 16]) -> Self {
        // Twice the room: what was removed never makes it grow.
        Self { counts: HashTable::with_capacity(2 * capacity as usize), key }
    }

    pub(crate) fn count(&self, of: &K) -> u32 {
        self.counts.find(hash(self.key, of), |(k, _)| k == of).map_or(0, |(_, count)| *count)
    }

    pub(crate) fn add(&mut self, of: K) {
        let Self { counts, key } = self;
        counts
            .entry(hash(*key, &of), |(k, _)| *k == of, |(k, _)| hash(*key, k))
            .and_modify(|(_, count)| *count += 1)
            .or_insert((of, 1));
    }

    pub(crate) fn take(&mut self, of: &K) {
        let Ok(mut entry) = self.counts.find_entry(hash(self.key, of), |(k, _)| k == of) else {
            return;
        };
        let (_, count) = entry.get_mut();
        *count -= 1;
        if *count == 0 {
            entry.remove();
        }
    }
}

fn hash<K: Hash>(key: [u8; 16], of: &K) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
