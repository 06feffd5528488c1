//! What is good for a while, in bounded memory: of two halves the younger one is filled, and becomes the
//! older one when it is full or half its life is over. What is used moves to the younger one.

use std::time::Duration;

use crate::Time;
use crate::chains::{HasKey, Keyed};

/// Things that are forgotten between a half and one and a half of `life` after they were used last, or
/// sooner where there are too many.
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

    /// The thing, whose age that does not change.
    pub(crate) fn peek(&self, key: &T::Key) -> Option<&T> {
        self.young.get(key).or_else(|| self.old.get(key))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Thing(u8, u16);

    impl HasKey for Thing {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    const LIFE: Duration = Duration::from_secs(60);

    proptest! {
        /// What was used in the last half life is there as long as there is room for it, what was not for
        /// three of them is not, and nothing is there that was not put in.
        #[test]
        fn what_is_used_stays(
            steps in prop::collection::vec((0..4_u8, 0..12_u8, any::<u16>(), 0..40_u64), 0..200),
        ) {
            let mut now = Time::ZERO;
            let mut things = Aging::new(now, 24, LIFE, [1; 16]);
            let mut model: BTreeMap<u8, (u16, Time)> = BTreeMap::new();
            for (step, key, value, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                match step {
                    0 => {
                        things.put(now, Thing(key, value));
                        model.insert(key, (value, now));
                    }
                    1 => {
                        things.remove(&key);
                        model.remove(&key);
                    }
                    _ => {
                        let found = things.get(now, &key);
                        let known = model.get(&key).copied();
                        let age = known.map(|(_, used)| now.since(used));
                        match found {
                            Some(Thing(_, value)) => {
                                prop_assert_eq!(Some(value), known.map(|(value, _)| value));
                                prop_assert!(age < Some(LIFE * 3 / 2));
                                model.insert(key, (value, now));
                            }
                            None => prop_assert!(age.is_none_or(|age| age >= LIFE / 2)),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn there_is_a_limit() {
        let mut things = Aging::new(Time::ZERO, 8, LIFE, [1; 16]);
        for key in 0..200 {
            things.put(Time::ZERO, Thing(key, 0));
        }
        let kept = (0..200).filter(|key| things.get(Time::ZERO, key).is_some()).count();
        assert!((4..=8).contains(&kept), "{kept}");
    }
}
