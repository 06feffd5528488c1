//! The one clock: the engine's time, and what the wall shows for it.

use std::time::{Duration, Instant, SystemTime};

use gabion_engine::Time;
use time::OffsetDateTime;

/// Nanoseconds since the node started.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// What CLOCK_MONOTONIC showed at the engine's zero.
    pub fn beginning(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::try_from(now).unwrap_or_default();
        now.saturating_sub(self.started.elapsed())
    }

    /// What the wall clock showed at `time`, as far as it has not been set since.
    pub fn wall(&self, time: Time) -> OffsetDateTime {
        let ago = self.now().since(time);
        OffsetDateTime::from(SystemTime::now()) - ago
    }
}
