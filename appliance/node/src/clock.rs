//! The one clock: the engine's time, and what the wall shows for it.

use std::time::{Instant, SystemTime};

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

    /// What the wall clock showed at `time`, as far as it has not been set since.
    pub fn wall(&self, time: Time) -> OffsetDateTime {
        let ago = self.now().since(time);
        OffsetDateTime::from(SystemTime::now()) - ago
    }
}
