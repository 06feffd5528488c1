//! A timer wheel over the slots of a slab: insert, move and remove in constant time, never early.
//!
//! A hashed wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 6)
//! with an intrusive list per spoke. Deadlines beyond one turn wait in the last spoke and are put back
//! when it comes round.

use std::time::Duration;

use crate::time::Time;

/// Spokes of the wheel, a power of two: with `GRANULARITY` one turn is 8,192 s, more than the longest
/// default timer (7,440 s).
const SPOKES: usize = 32_768;

/// The end of a list, and "not in a list".
const NIL: u32 = u32::MAX;

/// Timers for slab indices `0..capacity`, at most one each; memory is allocated once.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    nodes: Vec<Node>,
    heads: Vec<u32>,
    /// One bit per spoke that has a timer.
    occupied: Vec<u64>,
    /// The next tick to be looked at; all earlier ones are empty.
    cursor: u64,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    next: u32,
    previous: u32,
    /// The tick at which the timer is due; `spoke` follows from it and the cursor of its insertion.
    due: u64,
    spoke: u32,
}

impl TimerWheel {
    /// How much later than asked a timer may fire.
    pub(crate) const GRANULARITY: Duration = Duration::from_millis(250);

    pub(crate) fn new(now: Time, capacity: u32) -> Self {
        let free = Node { next: NIL, previous: NIL, due: 0, spoke: NIL };
        Self {
            nodes: vec![free; capacity as usize],
            heads: vec![NIL; SPOKES],
            occupied: vec![0; SPOKES / 64],
            cursor: tick_before(now),
        }
    }

    /// Sets or moves the timer of `index`. A deadline beyond the wheel's span fires early inside the
    /// wheel and is re-armed by it: the caller never sees it before `deadline`.
    pub(crate) fn set(&mut self, index: u32, deadline: Time) {
        self.cancel(index);
        self.link(index, tick_after(deadline));
    }

    pub(crate) fn cancel(&mut self, index: u32) {
        let Node { next, previous, spoke, .. } = self.nodes[index as usize];
        if spoke == NIL {
            return;
        }
        if next != NIL {
            self.nodes[next as usize].previous = previous;
        }
        if previous == NIL {
            self.heads[spoke as usize] = next;
            if next == NIL {
                self.occupied[spoke as usize / 64] &= !(1 << (spoke % 64));
            }
        } else {
            self.nodes[previous as usize].next = next;
        }
        self.nodes[index as usize].spoke = NIL;
    }

    /// The next time at which `poll_expired` may return something; `None` if no timer is set.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        Some(start_of(self.next_occupied()?))
    }

    /// Takes one timer that is due; call until `None`.
    pub(crate) fn poll_expired(&mut self, now: Time) -> Option<u32> {
        let last = tick_before(now);
        loop {
            let tick = match self.next_occupied() {
                Some(tick) if tick <= last => tick,
                Some(_) | None => {
                    self.cursor = self.cursor.max(last);
                    return None;
                }
            };
            self.cursor = tick;
            let index = self.heads[spoke_of(tick)];
            let due = self.nodes[index as usize].due;
            self.cancel(index);
            if due <= last {
                return Some(index);
            }
            self.link(index, due);
        }
    }

    fn link(&mut self, index: u32, due: u64) {
        let furthest = self.cursor + SPOKES as u64 - 1;
        let spoke = spoke_of(due.clamp(self.cursor, furthest));
        let head = self.heads[spoke];
        if head != NIL {
            self.nodes[head as usize].previous = index;
        }
        self.nodes[index as usize] = Node { next: head, previous: NIL, due, spoke: spoke as u32 };
        self.heads[spoke] = index;
        self.occupied[spoke / 64] |= 1 << (spoke % 64);
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
