#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GRANULARITY: u64 = TimerWheel::GRANULARITY.as_nanos() as u64;
const SPAN: u64 = SPOKES as u64 * GRANULARITY;
const CAPACITY: u32 = 12;

fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// A wheel as the flow table uses it: who polls knows the deadlines.
struct Timers {
    wheel: TimerWheel,
    slab: Vec<Links>,
    deadlines: Vec<u64>,
}

impl Slab for Vec<Links> {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self[index as usize]
    }
}

impl Timers {
    fn new(start: u64, capacity: u32) -> Self {
        Self {
            wheel: TimerWheel::new(at(start)),
            slab: vec![Links::NONE; capacity as usize],
            deadlines: vec![0; capacity as usize],
        }
    }

    fn set(&mut self, index: u32, deadline: u64) {
        self.deadlines[index as usize] = deadline;
        self.wheel.set(&mut self.slab, index, at(deadline));
    }

    /// One that is due, and not early.
    fn poll_expired(&mut self, now: u64) -> Option<u32> {
        loop {
            let index = self.wheel.poll_expired(&mut self.slab, at(now))?;
            let deadline = self.deadlines[index as usize];
            if deadline <= now {
                return Some(index);
            }
            self.wheel.set(&mut self.slab, index, at(deadline));
        }
    }

    fn expired(&mut self, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| self.poll_expired(now)).collect()
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.wheel.poll_timeout()
    }
}

#[test]
fn a_timer_fires_once_and_within_the_granularity() {
    for start in [0, 1, GRANULARITY - 1, 77 * GRANULARITY + 3] {
        for delay in [0, 1, GRANULARITY, 5 * GRANULARITY - 1, SPAN - 1, SPAN, 3 * SPAN + 7] {
            let mut timers = Timers::new(start, 1);
            let deadline = start + delay;
            timers.set(0, deadline);
            if deadline > start {
                assert!(timers.expired(deadline - 1).is_empty());
            }
            assert_eq!(timers.expired(deadline + GRANULARITY), [0], "{start} {delay}");
            assert!(timers.expired(deadline + 9 * SPAN).is_empty());
            assert_eq!(timers.poll_timeout(), None);
        }
    }
}

/// Sleeping until `poll_timeout` each time, as the shell does.
#[test]
fn a_far_deadline_costs_one_wake_up_per_turn() {
    let mut timers = Timers::new(0, 1);
    let deadline = 10 * SPAN + 12_345;
    timers.set(0, deadline);
    let mut wakes = 0;
    loop {
        wakes += 1;
        let now = timers.poll_timeout().unwrap();
        if timers.poll_expired(now.as_nanos()).is_some() {
            assert!(now >= at(deadline) && now < at(deadline + GRANULARITY));
            break;
        }
    }
    assert!(wakes <= 12, "{wakes}");
}

#[test]
fn a_deadline_beyond_the_end_of_time_never_fires() {
    let mut timers = Timers::new(0, 2);
    timers.set(0, u64::MAX);
    timers.set(1, 1);
    assert_eq!(timers.expired(1_000 * SPAN), [1]);
    assert!(timers.poll_timeout().is_some());
}

/// A flow may be refreshed from within the loop that polls.
#[test]
fn a_timer_may_be_set_again_while_polling() {
    let mut timers = Timers::new(0, 3);
    for index in 0..3 {
        timers.set(index, GRANULARITY);
    }
    let now = 2 * GRANULARITY;
    let first = timers.poll_expired(now).unwrap();
    timers.set(first, 4 * GRANULARITY);
    let mut rest = timers.expired(now);
    rest.sort_unstable();
    assert_eq!(rest.len(), 2);
    assert!(!rest.contains(&first));
    assert_eq!(timers.expired(4 * GRANULARITY), [first]);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Nanoseconds from now; may lie in the past.
    Set(u32, i64),
    Cancel(u32),
    Wait(u64),
    /// Waits as long as `poll_timeout` says.
    Sleep,
}

fn steps() -> impl Strategy<Value = Step> {
    let index = 0..CAPACITY;
    let near = -2 * GRANULARITY as i64..8 * GRANULARITY as i64;
    let far = 0..4 * SPAN as i64;
    prop_oneof![
        4 => (index.clone(), near).prop_map(|(index, delay)| Step::Set(index, delay)),
        2 => (index.clone(), far).prop_map(|(index, delay)| Step::Set(index, delay)),
        1 => index.prop_map(Step::Cancel),
        2 => (0..4 * GRANULARITY).prop_map(Step::Wait),
        1 => (0..3 * SPAN).prop_map(Step::Wait),
        2 => Just(Step::Sleep),
    ]
}

proptest! {
    /// Against a map: never early, never later than the granularity, each once.
    #[test]
    fn wheel_is_a_map_of_deadlines(
        start in 0..2 * SPAN,
        steps in prop::collection::vec(steps(), 0..120),
    ) {
        let mut now = start;
        let mut timers = Timers::new(now, CAPACITY);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(index, delay) => {
                    let deadline = now.saturating_add_signed(delay);
                    timers.set(index, deadline);
                    model.insert(index, deadline);
                }
                Step::Cancel(index) => {
                    timers.wheel.cancel(&mut timers.slab, index);
                    model.remove(&index);
                }
                Step::Wait(nanos) => now += nanos,
                Step::Sleep => {
                    if let Some(next) = timers.poll_timeout() {
                        now = now.max(next.as_nanos());
                    }
                }
            }
            for index in timers.expired(now) {
                let deadline = model.remove(&index);
                prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "early or twice");
            }
            for (index, deadline) in &model {
                prop_assert!(now < deadline + GRANULARITY, "{index} is late");
            }
            // Nobody oversleeps.
            let first = model.values().min();
            prop_assert_eq!(timers.poll_timeout().is_some(), first.is_some());
            if let (Some(next), Some(first)) = (timers.poll_timeout(), first) {
                prop_assert!(next > at(now));
                prop_assert!(next.as_nanos() < first + GRANULARITY);
            }
        }
    }
}
