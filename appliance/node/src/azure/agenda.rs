//! What a node does about planned events: a pure machine, with time and all that it has to know as arguments.
//!
//! | event | this VM | another VM of the set |
//! |---|---|---|
//! | Reboot, Redeploy, Preempt, Terminate, and what we do not know | drain, then acknowledge | told |
//! | Freeze | told | told |
//! | any Freeze, from when it may begin until it is over | connections of silent members are not reset | the same |
//!
//! *When to drain.* A quarter of an hour before, which is the notice that Azure gives, if all other members are ready to take over:
//! a degraded host is announced days ahead. Nobody gains from a node that refuses connections and has nobody to hand
//! its flows to, or from a second one that goes while one is away; such a one serves until a minute before, which is what
//! balancers need to notice.
//!
//! *When to acknowledge*, which lets Azure begin at once. Not before the node owns no flow that lives and has passed
//! nothing for ten seconds: a balancer keeps established connections at a draining node, which passes them on to their
//! owners for as long as it is there. (If another VM's event is to follow, that one's connections are worth more: then
//! it is enough that no flow is left.) And not while a member is missing or takes nothing. Else seconds before the
//! time, when it makes no difference, if somebody serves then. Never for an event
//! that is about other VMs as well, as it would begin for these too, and never of a kind that we do not know.
//!
//! *A Freeze is not drained for.* It takes seconds, memory and connections are as they were, and draining would
//! move every flow twice. Members miss the frozen one's heartbeats after less than a second, and that is right: flows whose packets
//! come in elsewhere go on there, and the frozen node finds that it has stood still and joins anew. Only what cannot be
//! taken back must wait: resets of connections that a balancer has pinned to the silent machine. They are held back while
//! a Freeze may be under way, of whatever VM, as events name VMs and not members.
//!
//! *What has begun when it is first heard of* is over for this node: it has just been started by it, or ends without notice. Azure
//! lists an event for minutes after it, and a node that has come back is of more use than one that waits.
//!
//! *What is not heard for a quarter of an hour*, and should have begun as long ago, is forgotten: the service may be gone, and
//! a node that has survived its event serves again.

mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_engine::Time;

use super::document::{Document, Event, Kind, Start};

/// How long before an event flows are handed over, at most. (Azure: notice of a Reboot.)
pub const DRAIN_BEFORE: Duration = Duration::from_secs(15 * 60);
/// How long before, where there is nobody who could take them: a balancer's probes take 10 to 15 s, twice over.
pub const DRAIN_ALONE: Duration = Duration::from_secs(60);
/// A node through which nothing has passed for so long is no longer sent anything.
pub const QUIET: Duration = Duration::from_secs(10);
/// How long a node drains at least for which another's event waits: as long as balancers need to notice, twice over.
pub const HURRIED: Duration = Duration::from_secs(30);
/// How long before its time an event is acknowledged in any case.
pub const NEAR: Duration = Duration::from_secs(5);
/// How long others have to be missing before the node takes its flows back.
pub const ALONE_AFTER: Duration = Duration::from_secs(5);
/// How long an event is remembered that nobody mentions.
pub const FORGET: Duration = Duration::from_secs(15 * 60);
/// How long before its time a Freeze is reckoned with.
pub const FREEZE_EARLY: Duration = Duration::from_secs(2);
/// Times that are nearer to each other are one, said twice.
const SAME: Duration = Duration::from_secs(2);
/// Between attempts to acknowledge: the first, and twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Drain,
    Undrain,
    /// By the event's identifier; to be answered with [`Agenda::acknowledged`].
    Acknowledge(String),
    /// Whether connections of silent members are not to be reset.
    HoldResets(bool),
    /// For the event log.
    Tell(String),
}

/// How the node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// It is one of a cluster.
    pub is_member: bool,
    /// Another member lives, is ready and takes flows.
    pub has_heirs: bool,
    /// Every other member does.
    pub is_whole: bool,
    /// Another member lives, whether it takes flows or not.
    pub has_company: bool,
    /// Another member drains whose number is lower.
    pub gives_way: bool,
    /// The node drains, by whomever.
    pub drains: bool,
    /// Flows of its own that live.
    pub left: u64,
    /// Frames that it has passed on, whosever they were, since it started.
    pub passed: u64,
}

/// Everything that is planned, and how far it is.
#[derive(Debug, Default)]
pub struct Agenda {
    /// This VM, as events name it; not known at first.
    name: Option<String>,
    planned: BTreeMap<String, Planned>,
    drains: bool,
    holds: bool,
    /// What had passed when it last was more, and when that was.
    last_passed: Option<(u64, Time)>,
    last_heirs: Option<Time>,
    drains_since: Option<Time>,
}

#[derive(Debug)]
struct Planned {
    event: Event,
    /// When it may begin, where that is known.
    due: Option<Time>,
    heard: Time,
    /// It had not begun when it was first heard of.
    was_announced: bool,
    acknowledged: Acknowledged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    /// Not before this time, after so many failures.
    Not {
        next: Time,
        failures: u32,
    },
    Asked {
        failures: u32,
    },
    Yes,
}

/// One planned event, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: String,
    pub is_own: bool,
    pub text: String,
}

impl Agenda {
    /// This VM's name has become known.
    pub fn set_name(&mut self, name: String) {
        self.name = Some(name);
    }

    pub const fn name(&self) -> Option<&String> {
        self.name.as_ref()
    }

    /// Whether anything is planned, so that it has to be looked how the node stands.
    pub fn is_idle(&self) -> bool {
        self.planned.is_empty() && !self.drains && !self.holds
    }

    /// Takes what the service has said. What it no longer mentions is over, or was cancelled.
    pub fn hear(&mut self, now: Time, document: Document) -> Vec<Action> {
        let mut told = Vec::new();
        let ids: Vec<String> = document.events.iter().map(|event| event.id.clone()).collect();
        for event in document.events {
            let due = match event.start {
                Start::In(time) => Some(now + time),
                Start::Begun => Some(now),
                Start::Unknown => None,
            };
            let known = self.planned.get_mut(&event.id);
            let is_news = known.as_ref().is_none_or(|known| is_other(&known.event, &event));
            if let Some(known) = known {
                // Each answer says it to the second: the earliest is kept of those that mean the same.
                let (old, new) = (known.due, due);
                known.due = match (old, new) {
                    (Some(old), Some(new)) if old.max(new) - old.min(new) < SAME => {
                        Some(old.min(new))
                    }
                    (Some(old), Some(_)) if event.start == Start::Begun => Some(old.min(now)),
                    (_, new) => new,
                };
                known.heard = now;
                known.event = event.clone();
            } else {
                let planned = Planned {
                    event: event.clone(),
                    due,
                    heard: now,
                    was_announced: event.start != Start::Begun,
                    acknowledged: Acknowledged::Not { next: now, failures: 0 },
                };
                self.planned.insert(event.id.clone(), planned);
            }
            if is_news {
                told.push(Action::Tell(format!("scheduled event: {}", self.text(now, &event))));
            }
        }
        let name = self.name.clone();
        self.planned.retain(|id, planned| {
            let stays = ids.contains(id);
            if !stays {
                let what = whom(&planned.event, name.as_deref());
                told.push(Action::Tell(format!("scheduled event is over or cancelled: {what}")));
            }
            stays
        });
        told
    }

    /// What is to be done now. To be asked each second.
    pub fn decide(&mut self, now: Time, standing: &Standing) -> Vec<Action> {
        let mut actions = self.forget(now);
        if self.last_passed.is_none_or(|(passed, _)| passed != standing.passed) {
            self.last_passed = Some((standing.passed, now));
        }
        if standing.has_heirs {
            self.last_heirs = Some(now);
        }
        let drains = self.planned.values().any(|planned| self.is_to_drain(now, planned, standing));
        if drains != self.drains {
            self.drains = drains;
            if drains {
                // What passed before says nothing of whether the balancer has let go.
                self.last_passed = Some((standing.passed, now));
                self.drains_since = Some(now);
            }
            actions.push(if drains { Action::Drain } else { Action::Undrain });
        }
        actions.extend(self.acknowledge(now, standing));
        let holds = self.planned.values().any(|planned| may_freeze(now, planned));
        if holds != self.holds {
            self.holds = holds;
            actions.push(Action::HoldResets(holds));
        }
        actions
    }

    /// Takes what has become of an acknowledgement.
    pub fn acknowledged(&mut self, now: Time, id: &str, is_done: bool) {
        let Some(planned) = self.planned.get_mut(id) else { return };
        let failures = match planned.acknowledged {
            Acknowledged::Asked { failures } | Acknowledged::Not { failures, .. } => failures,
            Acknowledged::Yes => return,
        };
        planned.acknowledged = if is_done {
            Acknowledged::Yes
        } else {
            let pause = RETRY.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
            Acknowledged::Not { next: now + pause, failures: failures.saturating_add(1) }
        };
    }

    /// Everything that is planned, what is about this VM first.
    pub fn notices(&self, now: Time) -> Vec<Notice> {
        let notice = |planned: &Planned| Notice {
            kind: planned.event.kind.label().to_owned(),
            is_own: self.is_mine(&planned.event),
            text: self.text_of(now, planned),
        };
        let mut notices: Vec<_> = self.planned.values().map(notice).collect();
        notices.sort_by_key(|notice| !notice.is_own);
        notices
    }

    fn forget(&mut self, now: Time) -> Vec<Action> {
        let mut told = Vec::new();
        self.planned.retain(|id, planned| {
            let since = planned.due.map_or(planned.heard, |due| due.max(planned.heard));
            let stays = now < since + FORGET;
            if !stays {
                told.push(Action::Tell(format!(
                    "scheduled event {id} is forgotten: the metadata service has not mentioned it for {} minutes",
                    FORGET.as_secs() / 60
                )));
            }
            stays
        });
        told
    }

    fn is_mine(&self, event: &Event) -> bool {
        is_of(event, self.name.as_deref())
    }

    fn acknowledge(&mut self, now: Time, standing: &Standing) -> Vec<Action> {
        let is_drained = self.is_drained(now, standing);
        let is_served = !standing.is_member || standing.has_heirs;
        // Of an event that is late there may still be time to hand over.
        let may_end = is_served && self.has_drained_for(now, QUIET);
        let name = self.name.clone();
        let mut actions = Vec::new();
        for (id, planned) in &mut self.planned {
            let event = &planned.event;
            let is_mine_alone = event.resources.len() == 1 && is_of(event, name.as_deref());
            let is_known = !matches!(event.kind, Kind::Other(_));
            let can_wait = event.start != Start::Begun && event.kind.ends_memory();
            let Acknowledged::Not { next, failures } = planned.acknowledged else { continue };
            let is_near = may_end && planned.due.is_some_and(|due| now + NEAR >= due);
            if is_mine_alone && is_known && can_wait && next <= now && (is_drained || is_near) {
                planned.acknowledged = Acknowledged::Asked { failures };
                actions.push(Action::Acknowledge(id.clone()));
            }
        }
        actions
    }

    fn text(&self, now: Time, event: &Event) -> String {
        self.planned.get(&event.id).map_or_else(String::new, |planned| self.text_of(now, planned))
    }

    fn text_of(&self, now: Time, planned: &Planned) -> String {
        let Planned { event, due, acknowledged, .. } = planned;
        let mut text = whom(event, self.name.as_deref());
        text += &match (event.start, due) {
            (Start::Begun, _) => ", begun".to_owned(),
            (Start::In(_), Some(due)) => {
                format!(", not before {} s from now", due.since(now).as_secs())
            }
            (Start::In(_) | Start::Unknown, _) => ", at a time that is not told".to_owned(),
        };
        if let Some(lasts) = event.lasts {
            text += &format!(", for {} s", lasts.as_secs());
        }
        if !event.source.is_empty() {
            text += &format!(", by {}", event.source.to_lowercase());
        }
        if !event.description.is_empty() {
            text += &format!(" ({})", event.description);
        }
        if *acknowledged == Acknowledged::Yes {
            text += ": acknowledged";
        } else if self.drains && self.is_reason(now, planned) {
            text += ": draining";
        }
        text
    }
}

fn is_of(event: &Event, name: Option<&str>) -> bool {
    // Names of Azure's resources do not tell large letters from small.
    name.is_some_and(|name| event.resources.iter().any(|one| one.eq_ignore_ascii_case(name)))
}

fn whom(event: &Event, name: Option<&str>) -> String {
    let kind = event.kind.label();
    let others: Vec<&str> = event
        .resources
        .iter()
        .map(String::as_str)
        .filter(|one| !name.is_some_and(|name| one.eq_ignore_ascii_case(name)))
        .collect();
    match (is_of(event, name), others.len()) {
        (true, 0) => format!("{kind} of this VM"),
        (true, _) => format!("{kind} of this VM and {}", others.join(", ")),
        (false, _) => format!("{kind} of {}", others.join(", ")),
    }
}

/// Whether more than the time that is left has changed.
fn is_other(old: &Event, new: &Event) -> bool {
    let same_start = match (old.start, new.start) {
        (Start::In(_), Start::In(_)) => true,
        (old, new) => old == new,
    };
    !same_start || old.kind != new.kind || old.resources != new.resources
}

fn may_freeze(now: Time, planned: &Planned) -> bool {
    planned.event.kind == Kind::Freeze && planned.due.is_none_or(|due| now + FREEZE_EARLY >= due)
}

#[cfg(test)]
mod tests;
