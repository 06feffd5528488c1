//! How many answers the node gives in a second: in all, and to each destination.
//!
//! What one destination gets depends on nobody else as long as the whole is not used up, and a tenth
//! of the whole is the most that one gets. So nobody learns from the answers that come whether others
//! got some, which found open ports for the spoofers of CVE-2020-25705, and nobody takes all. Both
//! limits are a little lower in each second, by as much as nobody outside can know.

use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::Time;
use crate::address::SourceNetwork;
use crate::hash::keyed;

/// One destination gets this part of all answers at most.
const SHARES: u32 = 10;

/// But so many where the whole is small.
const SHARE_MIN: u32 = 10;

/// The limits are lower by up to this part.
const JITTER: u32 = 8;

/// Destinations remembered within a second: a set for each part of the hash, with a few places.
const SETS: usize = 1_024;
const WAYS: usize = 4;

/// The answers of the second that began at `since`.
#[derive(Debug)]
pub(crate) struct Ration {
    since: Time,
    /// Counts the seconds in which anything was answered, from 1.
    second: u32,
    given: u32,
    destinations: Vec<[Share; WAYS]>,
    key: [u8; 16],
}

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    mark: u32,
    second: u32,
    given: u32,
}

impl Ration {
    /// `key` seeds what nobody can know.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let destinations = vec![[Share::default(); WAYS]; SETS];
        Self { since: Time::ZERO, second: 1, given: 0, destinations, key }
    }

    /// Whether one more answer may be given, and counts it if so.
    pub(crate) fn take(&mut self, now: Time, destination: SourceNetwork, per_second: u32) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.given) = (now, 0);
            self.second = self.second.wrapping_add(1).max(1);
        }
        let share = (per_second / SHARES).max(SHARE_MIN).min(per_second);
        let (hash, whole) = (self.hash(Some(destination)), self.lowered(per_second, None));
        let share = self.lowered(share, Some(destination));
        let is_left = self.given < whole;
        let place = self.place(hash);
        let granted = place.given < share && is_left;
        place.given += u32::from(granted);
        self.given += u32::from(granted);
        granted
    }

    /// The destination's own place in this second, or the one that it would take.
    fn place(&mut self, hash: u64) -> &mut Share {
        let second = self.second;
        let set = &mut self.destinations[hash as usize % SETS];
        let mark = (hash >> 32) as u32;
        let own = set.iter().position(|share| share.second == second && share.mark == mark);
        match own {
            Some(way) => &mut set[way],
            None => {
                let given =
                    |way: &usize| if set[*way].second == second { set[*way].given } else { 0 };
                let way = (0..WAYS).min_by_key(given).expect("a set has places");
                set[way] = Share { mark, second, given: 0 };
                &mut set[way]
            }
        }
    }

    fn lowered(&self, limit: u32, destination: Option<SourceNetwork>) -> u32 {
        let range = u64::from(limit / JITTER) + 1;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u32(self.second);
        hasher.write_u64(self.hash(destination));
        limit - (hasher.finish() % range) as u32
    }

    fn hash(&self, destination: Option<SourceNetwork>) -> u64 {
        keyed(self.key, &destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;

    fn host(number: u32) -> SourceNetwork {
        Address::from(number.to_be_bytes()).into()
    }

    /// Covers: 3.18
    #[test]
    fn what_one_gets_does_not_tell_what_another_got() {
        let granted = |others: u32| {
            let mut ration = Ration::new([5; 16]);
            (0..40u64)
                .map(|second| {
                    let now = Time::from_nanos(second * 1_000_000_000);
                    let before = (0..others).filter(|_| ration.take(now, host(1), 1_000)).count();
                    assert!(before <= 100);
                    (0..200).filter(|_| ration.take(now, host(2), 1_000)).count()
                })
                .collect::<Vec<_>>()
        };
        // Somebody who sends with another's address to learn, by what is left, how often it was
        // answered, sees the same whether it was or not.
        assert_eq!(granted(0), granted(5_000));
        // And the limit itself is not to be relied on.
        let seen: std::collections::BTreeSet<_> = granted(0).into_iter().collect();
        assert!(seen.len() > 4, "{seen:?}");
        assert!(seen.iter().all(|given| (88..=100).contains(given)), "{seen:?}");
    }

    #[test]
    fn the_whole_is_limited_and_one_cannot_take_it() {
        let mut ration = Ration::new([6; 16]);
        let now = Time::from_nanos(1);
        assert!((0..10_000).filter(|_| ration.take(now, host(1), 1_000)).count() <= 100);
        let rest = (2..5_000).filter(|number| ration.take(now, host(*number), 1_000)).count();
        assert!((700..=1_000).contains(&rest), "{rest}");
    }

    #[test]
    fn small_limits_are_exact() {
        let mut ration = Ration::new([7; 16]);
        for second in 0..20 {
            let now = Time::from_nanos(second * 1_000_000_000);
            assert_eq!((0..9).filter(|_| ration.take(now, host(1), 2)).count(), 2);
        }
    }
}
