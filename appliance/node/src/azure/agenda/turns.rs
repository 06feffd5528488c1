//! When a node drains, and when it has, where others of its cluster may have to as well.
//!
//! Azure shows every VM of a set the events of all, so all put them in the same order, by what is written there: the date, then the
//! identifier. Which VM is which member nobody says; a VM of the set that is none only makes others wait a little.

use std::time::Duration;

use gabion_engine::Time;

use super::{
    ALONE_AFTER, Agenda, DRAIN_ALONE, DRAIN_BEFORE, Event, HURRIED, Planned, QUIET, Standing, Start,
};

impl Agenda {
    pub(super) fn is_to_drain(&self, now: Time, planned: &Planned, standing: &Standing) -> bool {
        if !self.is_reason(now, planned) {
            return false;
        }
        let is_pressing = is_within(now, planned, DRAIN_ALONE);
        if !standing.is_member {
            return is_pressing;
        }
        // Whose heirs have just been lost may have missed a heartbeat. Nobody begins without.
        let had_heirs = self.last_heirs.is_some_and(|last| now.since(last) < ALONE_AFTER);
        let has_heirs = standing.has_heirs || (self.drains && had_heirs && !standing.gives_way);
        if has_heirs {
            // Where one is missing already, the next waits as long as it can.
            let is_turn = self.is_first(planned) && (self.drains || standing.is_whole);
            return is_pressing || is_turn;
        }
        is_pressing && !standing.has_company
    }

    /// Whether the event is one for which this node drains, sooner or later.
    pub(super) fn is_reason(&self, now: Time, planned: &Planned) -> bool {
        self.is_mine(&planned.event) && is_end(planned) && is_within(now, planned, DRAIN_BEFORE)
    }

    /// Whether no event of another VM comes before this one.
    fn is_first(&self, planned: &Planned) -> bool {
        !self.others().any(|other| order(&other.event) < order(&planned.event))
    }

    /// Whether the node has handed over what it can, and nobody is missing who takes it.
    pub(super) fn is_drained(&self, now: Time, standing: &Standing) -> bool {
        let has_heirs = !standing.is_member || (standing.has_heirs && standing.is_whole);
        let is_quiet = self.last_passed.is_some_and(|(_, since)| now.since(since) >= QUIET);
        let is_awaited = self.others().any(|other| is_within(now, other, DRAIN_BEFORE));
        let has_let_go = is_quiet || (is_awaited && self.has_drained_for(now, HURRIED));
        self.drains && standing.drains && standing.left == 0 && has_heirs && has_let_go
    }

    pub(super) fn has_drained_for(&self, now: Time, time: Duration) -> bool {
        self.drains && self.drains_since.is_some_and(|since| now.since(since) >= time)
    }

    /// What ends other VMs' memory and has not begun.
    fn others(&self) -> impl Iterator<Item = &Planned> {
        self.planned.values().filter(|other| {
            !self.is_mine(&other.event) && is_end(other) && other.event.start != Start::Begun
        })
    }
}

const fn is_end(planned: &Planned) -> bool {
    planned.event.kind.ends_memory() && planned.was_announced
}

fn is_within(now: Time, planned: &Planned, time: Duration) -> bool {
    planned.due.is_none_or(|due| now + time >= due)
}

/// The same for every VM of the set; what has no date comes last.
fn order(event: &Event) -> impl Ord + '_ {
    (event.not_before.is_none(), event.not_before, &event.id)
}

#[cfg(test)]
mod tests;
