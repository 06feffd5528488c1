//! Events for the shell, log records among them; limited per rule and per check, and what was left
//! out is counted and said.

use std::collections::VecDeque;
use std::time::Duration;

use gabion_rules::{FloodLimits, LogMode, RuleId};

use crate::event::{Decided, Denial, Event, Generation, LogSource};
use crate::{DropReason, Time};

const SECOND: Duration = Duration::from_secs(1);

/// The queue of events, and who may still write how much into it this second.
#[derive(Debug)]
pub(crate) struct Journal {
    events: VecDeque<Event>,
    limit: usize,
    lost: u64,
    generation: Generation,
    limits: FloodLimits,
    rules: Vec<Budget>,
    checks: [Budget; DropReason::ALL.len()],
    /// When the first second with suppressed records is over.
    flush: Option<Time>,
}

/// Records written in the second that began at `since`.
#[derive(Debug, Clone, Copy, Default)]
struct Budget {
    since: Time,
    written: u32,
    suppressed: u64,
}

impl Budget {
    fn take(&mut self, now: Time, per_second: u32) -> bool {
        if now.since(self.since) >= SECOND && self.suppressed == 0 {
            *self = Self { since: now, written: 0, suppressed: 0 };
        }
        if self.written < per_second {
            self.written += 1;
            return true;
        }
        self.suppressed += 1;
        false
    }

    /// What was suppressed so far; the second goes on.
    fn end(&mut self) -> Option<u64> {
        let records = std::mem::take(&mut self.suppressed);
        (records > 0).then_some(records)
    }

    fn take_suppressed(&mut self, now: Time) -> Option<u64> {
        let over = self.suppressed > 0 && now.since(self.since) >= SECOND;
        over.then(|| std::mem::take(self).suppressed)
    }
}

impl Journal {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            events: VecDeque::with_capacity(limit as usize),
            limit: limit as usize,
            lost: 0,
            generation: Generation(0),
            limits: gabion_rules::Settings::default().flood,
            rules: Vec::new(),
            checks: [Budget::default(); DropReason::ALL.len()],
            flush: None,
        }
    }

    /// Starts anew for a rule set with so many rules.
    pub(crate) fn set_rules(&mut self, generation: Generation, rules: usize, limits: FloodLimits) {
        self.say_suppressed(Budget::end);
        self.generation = generation;
        self.limits = limits;
        self.rules.clear();
        self.rules.resize(rules, Budget::default());
    }

    pub(crate) fn push(&mut self, event: Event) {
        if self.events.len() < self.limit {
            self.events.push_back(event);
        } else {
            self.lost += 1;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            // The next ones stand where these stood, in the cache, and not all round the ring.
            self.events.clear();
        }
        event
    }

    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a record about this rule may be written now; what may not is counted.
    pub(crate) fn may_log(&mut self, now: Time, rule: RuleId, mode: LogMode) -> bool {
        let per_second = match mode {
            LogMode::None => return false,
            LogMode::Sampled => self.limits.sampled_logs_per_second,
            LogMode::All => self.limits.all_logs_per_second,
        };
        let Some(budget) = self.rules.get_mut(rule.0 as usize) else { return false };
        let granted = budget.take(now, per_second);
        self.note_suppression(now, granted);
        granted
    }

    /// Records a packet that a rule has refused.
    pub(crate) fn denied(&mut self, now: Time, denial: Denial, decided: &Decided, mode: LogMode) {
        if self.may_log(now, decided.rule, mode) {
            self.push(Event::Denied(denial));
        }
    }

    /// Records a packet that was dropped without asking a rule; always sampled.
    pub(crate) fn invalid(&mut self, now: Time, denial: Denial) {
        let per_second = self.limits.sampled_logs_per_second;
        let granted = self.checks[denial.reason.index()].take(now, per_second);
        self.note_suppression(now, granted);
        if granted {
            self.push(Event::Denied(denial));
        }
    }

    fn note_suppression(&mut self, now: Time, granted: bool) {
        if !granted {
            self.flush.get_or_insert(now + SECOND);
        }
    }

    pub(crate) const fn poll_timeout(&self) -> Option<Time> {
        self.flush
    }

    /// Says how many records were left out in the seconds that are over.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.flush.is_none_or(|flush| now < flush) {
            return;
        }
        self.say_suppressed(|budget| budget.take_suppressed(now));
        let waits = |budget: &Budget| budget.suppressed > 0;
        let more = self.rules.iter().chain(&self.checks).any(waits);
        self.flush = more.then(|| now + SECOND);
    }

    fn say_suppressed(&mut self, take: impl Fn(&mut Budget) -> Option<u64>) {
        let Self { events, limit, lost, generation, rules, checks, .. } = self;
        let generation = *generation;
        let rules = (0u32..)
            .zip(rules)
            .map(|(rule, budget)| (LogSource::Rule { generation, rule: RuleId(rule) }, budget));
        let checks = DropReason::ALL
            .iter()
            .zip(checks)
            .map(|(reason, budget)| (LogSource::Check(*reason), budget));
        for (source, budget) in rules.chain(checks) {
            let Some(records) = take(budget) else { continue };
            if events.len() < *limit {
                events.push_back(Event::Suppressed { source, records });
            } else {
                *lost += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
