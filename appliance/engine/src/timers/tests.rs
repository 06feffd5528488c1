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

fn expired(wheel: &mut TimerWheel, now: u64) -> Vec<u32> {
    std::iter::from_fn(|| wheel.poll_expired(at(now))).collect()
}

#[test]
fn a_timer_fires_once_and_within_the_granularity() {
    for start in [0, 1, GRANULARITY - 1, 77 * GRANULARITY + 3] {
        for delay in [0, 1, GRANULARITY, 5 * GRANULARITY - 1, SPAN - 1, SPAN, 3 * SPAN + 7] {
            let mut wheel = TimerWheel::new(at(start), 1);
            let deadline = start + delay;
            wheel.set(0, at(deadline));
            if deadline > start {
                assert!(expired(&mut wheel, deadline - 1).is_empty());
            }
            assert_eq!(expired(&mut wheel, deadline + GRANULARITY), [0], "{start} {delay}");
            assert!(expired(&mut wheel, deadline + 9 * SPAN).is_empty());
            assert_eq!(wheel.poll_timeout(), None);
        }
    }
}

/// Sleeping until `poll_timeout` each time, as the shell does.
#[test]
fn a_far_deadline_costs_one_wake_up_per_turn() {
    let mut wheel = TimerWheel::new(Time::ZERO, 1);
    let deadline = 10 * SPAN + 12_345;
    wheel.set(0, at(deadline));
    let mut wakes = 0;
    loop {
        wakes += 1;
        let now = wheel.poll_timeout().unwrap();
        if wheel.poll_expired(now).is_some() {
            assert!(now >= at(deadline) && now < at(deadline + GRANULARITY));
            break;
        }
    }
    assert!(wakes <= 12, "{wakes}");
}

#[test]
fn a_deadline_beyond_the_end_of_time_never_fires() {
    let mut wheel = TimerWheel::new(Time::ZERO, 2);
    wheel.set(0, at(u64::MAX));
    wheel.set(1, at(1));
    assert_eq!(expired(&mut wheel, 1_000 * SPAN), [1]);
    assert!(wheel.poll_timeout().is_some());
}

/// A flow may be refreshed from within the loop that polls.
#[test]
fn a_timer_may_be_set_again_while_polling() {
    let mut wheel = TimerWheel::new(Time::ZERO, 3);
    for index in 0..3 {
        wheel.set(index, at(GRANULARITY));
    }
    let now = 2 * GRANULARITY;
    let first = wheel.poll_expired(at(now)).unwrap();
    wheel.set(first, at(4 * GRANULARITY));
    let mut rest = expired(&mut wheel, now);
    rest.sort_unstable();
    assert_eq!(rest.len(), 2);
    assert!(!rest.contains(&first));
    assert_eq!(expired(&mut wheel, 4 * GRANULARITY), [first]);
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
        let mut wheel = TimerWheel::new(at(now), CAPACITY);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(index, delay) => {
                    let deadline = now.saturating_add_signed(delay);
                    wheel.set(index, at(deadline));
                    model.insert(index, deadline);
                }
                Step::Cancel(index) => {
                    wheel.cancel(index);
                    model.remove(&index);
                }
                Step::Wait(nanos) => now += nanos,
                Step::Sleep => {
                    if let Some(next) = wheel.poll_timeout() {
                        now = now.max(next.as_nanos());
                    }
                }
            }
            for index in expired(&mut wheel, now) {
                let deadline = model.remove(&index);
                prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "early or twice");
            }
            for (index, deadline) in &model {
                prop_assert!(now < deadline + GRANULARITY, "{index} is late");
            }
            // Nobody oversleeps.
            let first = model.values().min();
            prop_assert_eq!(wheel.poll_timeout().is_some(), first.is_some());
            if let (Some(next), Some(first)) = (wheel.poll_timeout(), first) {
                prop_assert!(next > at(now));
                prop_assert!(next.as_nanos() < first + GRANULARITY);
            }
        }
    }
}
