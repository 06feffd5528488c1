//! A timer wheel over the slots of a slab: insert, move and remove in constant time.
//!
//! A hashed wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 6)
//! with an intrusive list per spoke. It does not keep the deadlines, which the slab knows: a timer that
//! fires before its deadline, because that was moved or lies beyond one turn, is set again by whoever
//! polls.

use std::time::Duration;

use crate::time::Time;

/// Spokes of the wheel, a power of two: with `GRANULARITY` one turn is 8,192 s, more than the longest
/// default timer (7,440 s).
const SPOKES: usize = 32_768;

/// The end of a list, and "not in a list".
const NIL: u32 = u32::MAX;

/// Set in `Links::previous` for the first of a list, which stands for its spoke.
const HEAD: u32 = 1 << 31;

/// Timers for the indices of a slab, at most one each; memory is allocated once.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    heads: Vec<u32>,
    /// One bit per spoke that has a timer.
    occupied: Vec<u64>,
    /// The next tick to be looked at; all earlier ones are empty.
    cursor: u64,
}

/// Where the wheel keeps its lists: a pair of links for each index.
pub(crate) trait Slab {
    fn links(&mut self, index: u32) -> &mut Links;
}

/// The neighbours of a timer in its spoke's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Links {
    next: u32,
    previous: u32,
}

impl Links {
    /// Of no list.
    pub(crate) const NONE: Self = Self { next: NIL, previous: NIL };

    pub(crate) const fn next(self) -> u32 {
        self.next
    }
}

impl TimerWheel {
    /// How much later than asked a timer may fire.
    pub(crate) const GRANULARITY: Duration = Duration::from_millis(250);

    pub(crate) fn new(now: Time) -> Self {
        Self { heads: vec![NIL; SPOKES], occupied: vec![0; SPOKES / 64], cursor: tick_before(now) }
    }

    /// Sets or moves the timer of `index`. A deadline beyond the wheel's span fires early.
    pub(crate) fn set(&mut self, slab: &mut impl Slab, index: u32, deadline: Time) {
        self.cancel(slab, index);
        let furthest = self.cursor + SPOKES as u64 - 1;
        let spoke = spoke_of(tick_after(deadline).clamp(self.cursor, furthest));
        let head = std::mem::replace(&mut self.heads[spoke], index);
        if head != NIL {
            slab.links(head).previous = index;
        }
        *slab.links(index) = Links { next: head, previous: HEAD | spoke as u32 };
        self.occupied[spoke / 64] |= 1 << (spoke % 64);
    }

    pub(crate) fn cancel(&mut self, slab: &mut impl Slab, index: u32) {
        let Links { next, previous } = std::mem::replace(slab.links(index), Links::NONE);
        if previous == NIL {
            return;
        }
        if next != NIL {
            slab.links(next).previous = previous;
        }
        if previous & HEAD == 0 {
            slab.links(previous).next = next;
            return;
        }
        let spoke = (previous & !HEAD) as usize;
        self.heads[spoke] = next;
        if next == NIL {
            self.occupied[spoke / 64] &= !(1 << (spoke % 64));
        }
    }

    /// The next time at which `poll_expired` may return something; `None` if no timer is set.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        Some(start_of(self.next_occupied()?))
    }

    /// Takes one timer that is due, or was when it was set; call until `None`.
    pub(crate) fn poll_expired(&mut self, slab: &mut impl Slab, now: Time) -> Option<u32> {
        let last = tick_before(now);
        match self.next_occupied() {
            Some(tick) if tick <= last => {
                self.cursor = tick;
                let index = self.heads[spoke_of(tick)];
                self.cancel(slab, index);
                Some(index)
            }
            Some(_) | None => {
                self.cursor = self.cursor.max(last);
                None
            }
        }
    }

    /// The tick of the first spoke from the cursor on that has a timer.
    fn next_occupied(&self) -> Option<u64> {
        let start = spoke_of(self.cursor);
        let words = self.occupied.len();
        // The first word twice: what stands before the cursor in it comes last.
        let spoke = (0..=words).find_map(|step| {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                _ if step == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })?;
        Some(self.cursor + ((spoke + SPOKES - start) % SPOKES) as u64)
    }
}

const fn spoke_of(tick: u64) -> usize {
    tick as usize & (SPOKES - 1)
}

fn start_of(tick: u64) -> Time {
    Time::from_nanos(tick * TimerWheel::GRANULARITY.as_nanos() as u64)
}

/// The last tick that is over or begins at `time`.
const fn tick_before(time: Time) -> u64 {
    time.as_nanos() / TimerWheel::GRANULARITY.as_nanos() as u64
}

/// The first tick that does not begin before `time`.
const fn tick_after(time: Time) -> u64 {
    time.as_nanos().div_ceil(TimerWheel::GRANULARITY.as_nanos() as u64)
}

#[cfg(test)]
mod tests;
