//! What is good for a while, in bounded memory: of two halves the younger one is filled, and becomes the
//! older one when it is full or half its life is over. What is used moves to the younger one.

use std::time::Duration;

use crate::Time;
use crate::chains::{HasKey, Keyed};

/// Things that are forgotten between half and all of `life` after they were used last, or sooner where
/// there are too many.
#[derive(Debug)]
pub(crate) struct Aging<T> {
    young: Keyed<T>,
    old: Keyed<T>,
    turned: Time,
    life: Duration,
    capacity: usize,
}

impl<T: HasKey + Copy> Aging<T> {
    pub(crate) fn new(now: Time, capacity: u32, life: Duration, secret: [u8; 16]) -> Self {
        let half = (capacity / 2).max(1);
        let [young, old] = [(); 2].map(|()| Keyed::new(half, secret));
        Self { young, old, turned: now, life, capacity: half as usize }
    }

    /// The thing, used now.
    pub(crate) fn get(&mut self, now: Time, key: &T::Key) -> Option<T> {
        self.turn_in_time(now);
        if let Some(thing) = self.young.get(key) {
            return Some(*thing);
        }
        let thing = self.old.remove(key)?;
        self.put(now, thing);
        Some(thing)
    }

    /// In place of the one with its key.
    pub(crate) fn put(&mut self, now: Time, thing: T) {
        self.turn_in_time(now);
        self.old.remove(&thing.key());
        if self.young.len() == self.capacity && self.young.get(&thing.key()).is_none() {
            self.turn(now);
        }
        if let Some(place) = self.young.get_or_insert(thing) {
            *place = thing;
        }
    }

    pub(crate) fn remove(&mut self, key: &T::Key) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn turn_in_time(&mut self, now: Time) {
        let age = now.since(self.turned);
        if age < self.life / 2 {
            return;
        }
        self.turn(now);
        if age >= self.life {
            self.old.clear();
        }
    }

    fn turn(&mut self, now: Time) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        self.turned = now;
    }
}
