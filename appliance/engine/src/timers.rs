//! A timer wheel over the slots of a slab: insert, move and remove in constant time, never early.

use std::time::Duration;

use crate::time::Time;

/// Timers for slab indices `0..capacity`, at most one each; memory is allocated once.
#[derive(Debug)]
pub struct TimerWheel {}

impl TimerWheel {
    /// How much later than asked a timer may fire.
    pub const GRANULARITY: Duration = Duration::from_millis(250);

    pub fn new(_now: Time, _capacity: u32) -> Self {
        unimplemented!()
    }

    /// Sets or moves the timer of `index`. A deadline beyond the wheel's span fires early inside the
    /// wheel and is re-armed by it: the caller never sees it before `deadline`.
    pub fn set(&mut self, _index: u32, _deadline: Time) {
        unimplemented!()
    }

    pub fn cancel(&mut self, _index: u32) {
        unimplemented!()
    }

    /// The next time at which `poll_expired` may return something; `None` if no timer is set.
    pub fn poll_timeout(&self) -> Option<Time> {
        unimplemented!()
    }

    /// Takes one timer that is due; call until `None`.
    pub fn poll_expired(&mut self, _now: Time) -> Option<u32> {
        unimplemented!()
    }
}
