//! Nodes of a cluster, each with its agenda, and events that may be about any, at any time.
#![allow(clippy::unwrap_used)]

use std::ops::Range;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::super::super::document::{Document, Kind};
use super::super::{Action, is_of};
use super::*;

const NAMES: [&str; 3] = ["fw-1", "fw-2", "fw-3"];
/// How long an event is listed once it has begun, and how long after an acknowledgement it begins.
const LISTED: u64 = 300;
const PROMPT: u64 = 5;
/// Until a node that is back has learnt what it missed; and until one that drains owns nothing.
const JOIN: u64 = 5;
const HAND_OVER: u64 = 3;
const END: u64 = 4_000;

fn at(second: u64) -> Time {
    Time::ZERO + Duration::from_secs(second)
}

#[derive(Debug, Clone)]
struct Fate {
    vm: usize,
    not_before: u64,
    /// Azure may be late, unless somebody acknowledges.
    begins: u64,
    /// For so long the VM is away.
    lasts: u64,
}

fn fate(vm: usize, not_before: impl Strategy<Value = u64>) -> impl Strategy<Value = Fate> {
    (not_before, 0..90_u64, 40..120_u64).prop_map(move |(not_before, late, lasts)| Fate {
        vm,
        not_before,
        begins: not_before + late,
        lasts,
    })
}

fn anything(nodes: usize) -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec((0..nodes).prop_flat_map(|vm| fate(vm, 0..1_800_u64)), 1..4)
}

/// One for each, with time enough for all.
fn one_each(nodes: usize, times: &Range<u64>) -> impl Strategy<Value = Vec<Fate>> + use<> {
    (0..nodes).map(|vm| fate(vm, times.clone())).collect::<Vec<_>>()
}

fn nodes() -> impl Strategy<Value = usize> {
    2..=NAMES.len()
}

struct Node {
    agenda: Agenda,
    /// Since when it drains, and whether anything of it is left to do.
    drains: Option<u64>,
    away_until: u64,
}

impl Node {
    fn new(vm: usize, away_until: u64) -> Self {
        let mut agenda = Agenda::default();
        agenda.set_name(NAMES[vm].to_owned());
        Self { agenda, drains: None, away_until }
    }

    const fn lives(&self, now: u64) -> bool {
        now >= self.away_until
    }

    const fn is_ready(&self, now: u64) -> bool {
        now >= self.away_until + JOIN && self.drains.is_none()
    }
}

/// What the service says to one of them.
fn document(fates: &[Fate], now: u64, is_told: impl Fn(&Fate) -> bool) -> Document {
    let listed = fates.iter().enumerate().filter(|(_, fate)| now < fate.begins + LISTED);
    let events = listed.filter(|(_, fate)| is_told(fate)).map(|(id, fate)| {
        let has_begun = now >= fate.begins;
        let not_before = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(fate.not_before);
        let left = Duration::from_secs(fate.not_before.saturating_sub(now));
        Event {
            id: id.to_string(),
            kind: Kind::Reboot,
            resources: vec![NAMES[fate.vm].to_owned()],
            start: if has_begun { Start::Begun } else { Start::In(left) },
            not_before: (!has_begun).then_some(not_before),
            description: String::new(),
            source: String::new(),
            lasts: None,
        }
    });
    Document { incarnation: 1, events: events.collect(), unreadable: 0 }
}

/// What became of a run.
#[derive(Debug, Default)]
struct Outcome {
    drains: usize,
    /// The longest time in which nobody took anything new although somebody lived.
    refused: u64,
    nobody_lived: bool,
    /// How many drained or were away at once.
    absent: usize,
}

/// Lets all happen, a second at a time, and the nodes in whichever order. `sees_all`: they are of one set.
fn play(count: usize, fates: &mut [Fate], sees_all: bool, pinned: bool) -> Outcome {
    let mut nodes: Vec<_> = (0..count).map(|vm| Node::new(vm, 0)).collect();
    let mut outcome = Outcome::default();
    let mut refused = 0;
    for now in 0..END {
        for fate in fates.iter().filter(|fate| fate.begins == now) {
            nodes[fate.vm] = Node::new(fate.vm, now + fate.lasts);
        }
        let each = |is_so: &dyn Fn(&Node) -> bool| nodes.iter().map(is_so).collect::<Vec<_>>();
        let is_ready = each(&|node| node.is_ready(now));
        let drained = each(&|node| node.drains.is_some());
        let lives = each(&|node| node.lives(now));
        for vm in (0..count).filter(|vm| lives[*vm]) {
            let node = &mut nodes[vm];
            let mut others = (0..count).filter(|other| *other != vm);
            let has_heirs = others.clone().any(|other| is_ready[other]);
            let told = document(fates, now, |fate| sees_all || fate.vm == vm);
            node.agenda.hear(at(now), told);
            let standing = Standing {
                is_member: true,
                has_heirs,
                is_whole: others.clone().all(|other| is_ready[other]),
                has_company: others.clone().any(|other| lives[other]),
                gives_way: others.any(|other| other < vm && lives[other] && drained[other]),
                drains: node.drains.is_some(),
                left: u64::from(node.drains.is_none_or(|since| now < since + HAND_OVER)),
                passed: if pinned { now } else { 0 },
            };
            for action in node.agenda.decide(at(now), &standing) {
                match action {
                    Action::Drain => {
                        node.drains = Some(now);
                        outcome.drains += 1;
                    }
                    Action::Undrain => node.drains = None,
                    Action::Acknowledge(id) => {
                        assert!(has_heirs, "{id} at {now}, and nobody serves");
                        let fate = &mut fates[id.parse::<usize>().unwrap()];
                        assert!(is_of(&node.agenda.planned[&id].event, Some(NAMES[fate.vm])));
                        node.agenda.acknowledged(at(now), &id, true);
                        fate.begins = fate.begins.min(now + PROMPT);
                    }
                    Action::HoldResets(_) | Action::Tell(_) => {}
                }
            }
        }
        outcome.nobody_lived |= !nodes.iter().any(|node| node.lives(now));
        let absent = nodes.iter().filter(|node| !node.is_ready(now) && now > JOIN).count();
        outcome.absent = outcome.absent.max(absent);
        // Who joins cannot do more yet.
        let serves = |node: &Node| !node.lives(now + JOIN) || node.drains.is_none();
        let all_refuse = nodes.iter().all(|node| node.lives(now) && !serves(node));
        refused = if all_refuse { refused + 1 } else { 0 };
        outcome.refused = outcome.refused.max(refused);
    }
    outcome
}

proptest! {
    #[test]
    fn never_do_all_drain_for_longer_than_it_takes_to_see(
        (nodes, mut fates) in nodes().prop_flat_map(|nodes| (Just(nodes), anything(nodes))),
        sees_all: bool,
        pinned: bool,
    ) {
        let count = fates.len();
        let outcome = play(nodes, &mut fates, sees_all, pinned);
        prop_assert!(outcome.refused <= 2, "{outcome:?}");
        // It is not begun and taken back again and again.
        prop_assert!(outcome.drains <= 3 * count, "{outcome:?}");
    }

    /// Even if all are announced for the same second. The second of three drained while the first was away.
    #[test]
    fn who_see_each_others_events_go_one_after_the_other(
        (nodes, mut fates) in nodes().prop_flat_map(|nodes| (Just(nodes), one_each(nodes, &(600..900)))),
        pinned: bool,
    ) {
        let outcome = play(nodes, &mut fates, true, pinned);
        prop_assert!(!outcome.nobody_lived, "{fates:?}");
        prop_assert_eq!(outcome.drains, nodes);
        prop_assert_eq!(outcome.absent, 1, "{:?}", fates);
    }
}
