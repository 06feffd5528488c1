//! The one clock: the engine's time, and what the wall shows for it.

use std::time::{Duration, SystemTime};

use gabion_engine::Time;
use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;

/// CLOCK_MONOTONIC: nanoseconds since the machine started, so that a time means the same to the next process.
#[derive(Debug, Clone, Copy)]
pub struct Clock;

impl Clock {
    pub fn now(&self) -> Time {
        time(Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default())
    }

    /// What the wall clock showed at `time`, as far as it has not been set since.
    pub fn wall(&self, time: Time) -> OffsetDateTime {
        let ago = self.now().since(time);
        OffsetDateTime::from(SystemTime::now()) - ago
    }
}

/// The engine's time for one of CLOCK_MONOTONIC.
pub fn time(monotonic: Duration) -> Time {
    Time::from_nanos(u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX))
}
