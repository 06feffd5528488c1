//! Finds places of a slab by the hash of what stands there, for what only the first and the last packet
//! of a flow ask.
//!
//! Lists that begin at a head for each part of the hash: six bytes for each key, where `Index` takes
//! eight and is filled at the start. There is always a place, and memory is used as keys come. In return
//! a key is found after a line of the cache for each key of its list, of which there are two on average
//! in a full table.

use std::hash::Hash;

use crate::hash::keyed;
use crate::places::Places;

/// Keys for each head in a full table.
const KEYS_PER_HEAD: usize = 2;

/// Ids by hash. Different ids may have one hash: whoever asks says which one is meant.
#[derive(Debug)]
pub(crate) struct Chains {
    /// The first id of each list, plus one; zero for none, so that memory of zeros is an empty table.
    heads: Vec<u32>,
    /// By id: the next one in its list, in the same way.
    next: Vec<u32>,
}

impl Chains {
    /// Empty, for ids below `capacity`; memory is allocated once, and used as ids come.
    pub(crate) fn new(capacity: usize) -> Self {
        let heads = vec![0; capacity.div_ceil(KEYS_PER_HEAD).max(1)];
        Self { heads, next: vec![0; capacity] }
    }

    /// The id with this hash of which `is` says that it is the one.
    pub(crate) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.heads[self.head(hash)].checked_sub(1);
        while let Some(id) = at {
            if is(id) {
                return Some(id);
            }
            at = self.next[id as usize].checked_sub(1);
        }
        None
    }

    /// Adds an id, which is not there.
    pub(crate) fn insert(&mut self, hash: u64, id: u32) {
        let head = self.head(hash);
        self.next[id as usize] = std::mem::replace(&mut self.heads[head], id + 1);
    }

    fn clear(&mut self) {
        self.heads.fill(0);
    }

    /// Takes an id out, which is there under this hash.
    pub(crate) fn remove(&mut self, hash: u64, id: u32) {
        let head = self.head(hash);
        let after = self.next[id as usize];
        if self.heads[head] == id + 1 {
            self.heads[head] = after;
            return;
        }
        let mut at = self.heads[head];
        while let Some(before) = at.checked_sub(1) {
            at = self.next[before as usize];
            if at == id + 1 {
                self.next[before as usize] = after;
                return;
            }
        }
    }

    const fn head(&self, hash: u64) -> usize {
        // D. Lemire, "Fast Random Integer Generation in an Interval", 2019.
        ((hash as u128 * self.heads.len() as u128) >> 64) as usize
    }
}

/// Things, each found by its key, under a secret hash.
#[derive(Debug)]
pub(crate) struct Keyed<T> {
    chains: Chains,
    places: Places<T>,
    capacity: usize,
    secret: [u8; 16],
}

/// What has a key by which it is found.
pub(crate) trait HasKey {
    type Key: Hash + Eq;

    fn key(&self) -> Self::Key;
}

impl<T: HasKey + Copy> Keyed<T> {
    /// Room for so many, allocated once and used as they come.
    pub(crate) fn new(capacity: u32, secret: [u8; 16]) -> Self {
        let capacity = capacity as usize;
        Self { chains: Chains::new(capacity), places: Places::new(capacity), capacity, secret }
    }

    pub(crate) fn get(&self, key: &T::Key) -> Option<&T> {
        self.find(key).map(|id| &self.places[id])
    }

    pub(crate) fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        self.find(key).map(|id| &mut self.places[id])
    }

    /// The thing with the key of `fresh`, which is put in where there is none; `None` when there is
    /// no room for it.
    pub(crate) fn get_or_insert(&mut self, fresh: T) -> Option<&mut T> {
        let key = fresh.key();
        let id = match self.find(&key) {
            Some(id) => id,
            None => self.insert(&key, fresh)?,
        };
        Some(&mut self.places[id])
    }

    pub(crate) fn remove(&mut self, key: &T::Key) -> Option<T> {
        let id = self.find(key)?;
        self.chains.remove(self.hash(key), id);
        self.places.give_back(id);
        Some(self.places[id])
    }

    pub(crate) const fn len(&self) -> usize {
        self.places.len()
    }

    /// How many places were ever used, to walk over them.
    pub(crate) fn places(&self) -> u32 {
        self.places.used()
    }

    /// What is at a place, if that is taken.
    pub(crate) fn at(&self, place: u32) -> Option<&T> {
        let thing = self.places.at(place)?;
        (self.find(&thing.key()) == Some(place)).then_some(thing)
    }

    /// Takes everything out; the memory stays.
    pub(crate) fn clear(&mut self) {
        self.chains.clear();
        self.places.clear();
    }

    fn insert(&mut self, key: &T::Key, fresh: T) -> Option<u32> {
        if self.len() == self.capacity {
            return None;
        }
        let id = self.places.put(fresh);
        self.chains.insert(self.hash(key), id);
        Some(id)
    }

    fn find(&self, key: &T::Key) -> Option<u32> {
        self.chains.find(self.hash(key), |id| self.places[id].key() == *key)
    }

    fn hash(&self, key: &T::Key) -> u64 {
        keyed(self.secret, key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Thing {
        name: u8,
        value: u16,
    }

    impl HasKey for Thing {
        type Key = u8;

        fn key(&self) -> u8 {
            self.name
        }
    }

    proptest! {
        #[test]
        fn keyed_things_are_a_map_with_a_limit(
            capacity in 1..12_u32,
            steps in prop::collection::vec((0..3_u8, 0..20_u8, any::<u16>()), 0..400),
        ) {
            let mut things = Keyed::new(capacity, [1; 16]);
            let room = things.places.room();
            let mut model = BTreeMap::new();
            for (step, name, value) in steps {
                let thing = Thing { name, value };
                match step {
                    0 => {
                        let known = model.get(&name).copied();
                        let is_room = known.is_some() || model.len() < capacity as usize;
                        let expected = is_room.then_some(known.unwrap_or(thing));
                        prop_assert_eq!(things.get_or_insert(thing).copied(), expected);
                        expected.map(|thing| model.insert(name, thing));
                    }
                    1 => prop_assert_eq!(things.remove(&name), model.remove(&name)),
                    _ => {
                        if let Some(there) = things.get_mut(&name) {
                            *there = thing;
                        }
                        model.entry(name).and_modify(|there| *there = thing);
                    }
                }
                prop_assert_eq!(things.len(), model.len());
                for name in 0..20 {
                    prop_assert_eq!(things.get(&name), model.get(&name));
                }
            }
            prop_assert_eq!(things.places.room(), room);
        }
    }
}
