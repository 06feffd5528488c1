//! The timers of rules that have their own: kept once each, and found by rule in two small reads.

use std::collections::HashMap;
use std::time::Duration;

use crate::settings::Timer;
use crate::{RuleId, Timeouts};

/// The timers of all rules in force.
#[derive(Debug, Default)]
pub(crate) struct RuleTimeouts {
    sets: Vec<Timeouts>,
    /// For each rule up to the last that has timers of its own, one more than their place; 0 for
    /// none.
    by_rule: Vec<u32>,
    places: HashMap<Timeouts, u32>,
    rules: usize,
}

impl RuleTimeouts {
    /// Adds the next rule, whose timers are `standard` but for the `own` ones.
    pub(crate) fn add(&mut self, standard: &Timeouts, own: &[(Timer, Duration)]) {
        let rule = self.rules;
        self.rules += 1;
        if own.is_empty() {
            return;
        }
        let mut timeouts = *standard;
        for (timer, duration) in own {
            *timeouts.get_mut(*timer) = *duration;
        }
        let Self { sets, places, by_rule, .. } = self;
        let place = *places.entry(timeouts).or_insert_with(|| {
            sets.push(timeouts);
            u32::try_from(sets.len()).expect("there are fewer sets than rules")
        });
        by_rule.resize(rule, 0);
        by_rule.push(place);
    }

    /// `None` where the rule has the timers of the settings.
    pub(crate) fn of(&self, rule: RuleId) -> Option<&Timeouts> {
        let place = *self.by_rule.get(rule.0 as usize)?;
        self.sets.get((place as usize).checked_sub(1)?)
    }
}
