//! What was seen lately, in bounded memory: marks in sets of eight, where a newcomer takes the place
//! of the oldest. It forgets when too much comes, and never tells of what did not come.

use std::time::Duration;

use zerocopy::FromZeros;

use crate::Time;

/// Marks that one set holds: a cache line of them. A search looks at one set, whatever was put in.
const WAYS: usize = 8;

/// Keyed marks with the time at which each came.
///
/// A mark is a hash under a secret key, so that nobody outside can choose marks of one set or marks
/// that are alike; thirty-two of its bits are kept, and two different ones are taken for one another
/// once in a few hundred million times.
#[derive(Debug)]
pub(crate) struct Recent {
    sets: Vec<[Mark; WAYS]>,
    /// How long a mark is good for.
    span: Duration,
}

/// The upper half of a hash, and the millisecond in which it came, from 1; 0 is an empty place.
#[derive(Debug, Clone, Copy, FromZeros)]
struct Mark {
    kept: u32,
    at: u32,
}

impl Recent {
    /// Room for at least `marks`, each good for `span` at most; memory is taken as it is used.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub(crate) fn new(marks: u32, span: Duration) -> Self {
        let sets = (marks as usize).div_ceil(WAYS).next_power_of_two();
        let sets =
            <[Mark; WAYS]>::new_vec_zeroed(sets).expect("the node has memory for its tables");
        Self { sets, span }
    }

    /// How long ago `hash` came, if it is still known.
    pub(crate) fn age(&self, now: Time, hash: u64) -> Option<Duration> {
        let found = self.set(hash).iter().find(|mark| mark.is_of(hash))?;
        Some(found.age(now)).filter(|age| *age <= self.span)
    }

    /// Takes down that `hash` has come, or has come again.
    pub(crate) fn note(&mut self, now: Time, hash: u64) {
        let place = hash as usize & (self.sets.len() - 1);
        let set = &mut self.sets[place];
        let chosen = set.iter().position(|mark| mark.is_of(hash)).unwrap_or_else(|| {
            let oldest = (0..WAYS).max_by_key(|way| set[*way].staleness(now));
            oldest.expect("a set has places")
        });
        set[chosen] = Mark { kept: kept(hash), at: tick(now) };
    }

    fn set(&self, hash: u64) -> &[Mark; WAYS] {
        &self.sets[hash as usize & (self.sets.len() - 1)]
    }
}

impl Mark {
    const fn is_of(self, hash: u64) -> bool {
        self.at != 0 && self.kept == kept(hash)
    }

    fn age(self, now: Time) -> Duration {
        Duration::from_millis(u64::from(tick(now).wrapping_sub(self.at)))
    }

    /// Greater for what is to make room first.
    const fn staleness(self, now: Time) -> u32 {
        if self.at == 0 { u32::MAX } else { tick(now).wrapping_sub(self.at) }
    }
}

const fn kept(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The millisecond of `time`; goes round after 49 days, when no mark is good any more.
const fn tick(time: Time) -> u32 {
    let tick = (time.as_nanos() / 1_000_000) as u32;
    if tick == 0 { 1 } else { tick }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    proptest! {
        /// What came last is known with its time, and what never came is not.
        #[test]
        fn recent_tells_no_lies(
            steps in prop::collection::vec((1..200_u64, 0..64_u64), 1..400),
        ) {
            let mut recent = Recent::new(16, SPAN);
            let mut model = std::collections::HashMap::new();
            let mut now = 1_000;
            // Marks of sets of their own halves, as those of a hash are.
            let hash = |name: u64| name << 32 | name;
            for (pause, name) in steps {
                now += pause;
                recent.note(at(now), hash(name));
                model.insert(name, now);
                for name in 0..80 {
                    if let Some(age) = recent.age(at(now), hash(name)) {
                        let noted = model.get(&name).copied();
                        prop_assert_eq!(noted.map(|noted| now - noted), Some(age.as_millis() as u64));
                    }
                }
                prop_assert_eq!(recent.age(at(now), hash(name)), Some(Duration::ZERO));
            }
        }
    }

    #[test]
    fn the_oldest_makes_room_and_seven_that_follow_do_not_drive_it_out() {
        let mut recent = Recent::new(8, SPAN);
        for name in 0..8 {
            recent.note(at(100 + name), name << 32);
        }
        assert!(recent.age(at(200), 0).is_some());
        recent.note(at(200), 8 << 32);
        assert!(recent.age(at(200), 0).is_none());
        assert!((1..9).all(|name| recent.age(at(200), name << 32).is_some()));
    }

    #[test]
    fn a_mark_is_good_for_its_span() {
        let mut recent = Recent::new(8, SPAN);
        recent.note(at(1), 77);
        assert!(recent.age(at(10_001), 77).is_some());
        assert!(recent.age(at(10_002), 77).is_none());
    }
}
