#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const ME: &str = "fw-1";

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn event(id: &str, kind: Kind, seconds: u64) -> Event {
    Event {
        id: id.to_owned(),
        kind,
        resources: vec![ME.to_owned()],
        start: Start::In(Duration::from_secs(seconds)),
        description: String::new(),
        source: "Platform".to_owned(),
        lasts: None,
    }
}

fn document(events: &[Event]) -> Document {
    Document { incarnation: 1, events: events.to_vec(), unreadable: 0 }
}

fn agenda() -> Agenda {
    let mut agenda = Agenda::default();
    agenda.set_name(ME.to_owned());
    agenda
}

const READY: Standing = Standing { has_heirs: true, drains: false, left: 9, passed: 0 };
const DRAINED: Standing = Standing { has_heirs: true, drains: true, left: 0, passed: 7 };

/// What is done, apart from what is told.
fn done(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::Tell(_))).collect()
}

fn acknowledge(id: &str) -> Vec<Action> {
    vec![Action::Acknowledge(id.to_owned())]
}

#[test]
fn a_reboot_is_drained_for_at_once_and_acknowledged_when_all_is_quiet() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    assert_eq!(done(agenda.decide(at(0), &READY)), [Action::Drain]);
    let draining = Standing { drains: true, ..READY };
    assert_eq!(done(agenda.decide(at(5), &draining)), []);
    assert_eq!(done(agenda.decide(at(6), &DRAINED)), []);
    // The balancer still sends something.
    assert_eq!(done(agenda.decide(at(15), &Standing { passed: 8, ..DRAINED })), []);
    let quiet = Standing { passed: 8, ..DRAINED };
    assert_eq!(done(agenda.decide(at(24), &quiet)), []);
    assert_eq!(done(agenda.decide(at(25), &quiet)), acknowledge("a"));
    agenda.acknowledged(at(25), "a", true);
    assert_eq!(done(agenda.decide(at(40), &quiet)), []);
    assert!(agenda.notices(at(40))[0].text.ends_with("acknowledged"));
}

#[test]
fn who_has_nobody_serves_until_a_minute_before() {
    let mut agenda = agenda();
    let alone = Standing { has_heirs: false, ..READY };
    agenda.hear(at(0), document(&[event("a", Kind::Redeploy, 600)]));
    assert_eq!(done(agenda.decide(at(539), &alone)), []);
    assert_eq!(done(agenda.decide(at(540), &alone)), [Action::Drain]);
    assert_eq!(done(agenda.decide(at(594), &alone)), []);
    assert_eq!(done(agenda.decide(at(595), &alone)), acknowledge("a"));
}

#[test]
fn who_loses_its_heirs_takes_its_flows_back() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    assert_eq!(done(agenda.decide(at(1), &READY)), [Action::Drain]);
    let alone = Standing { has_heirs: false, drains: true, ..READY };
    assert_eq!(done(agenda.decide(at(5), &alone)), []);
    assert_eq!(done(agenda.decide(at(6), &alone)), [Action::Undrain]);
    assert_eq!(done(agenda.decide(at(9), &READY)), [Action::Drain]);
}

#[test]
fn what_is_announced_days_ahead_does_not_cost_days() {
    let mut agenda = agenda();
    let day = 86_400;
    agenda.hear(at(0), document(&[event("a", Kind::Redeploy, 3 * day)]));
    assert_eq!(done(agenda.decide(at(0), &READY)), []);
    agenda.hear(at(3 * day - 900), document(&[event("a", Kind::Redeploy, 900)]));
    assert_eq!(done(agenda.decide(at(3 * day - 900), &READY)), [Action::Drain]);
}

#[test]
fn an_event_that_disappears_while_the_node_drains_ends_the_drain() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    agenda.decide(at(0), &READY);
    agenda.hear(at(3), document(&[]));
    assert_eq!(done(agenda.decide(at(3), &READY)), [Action::Undrain]);
    assert!(agenda.is_idle());
    // Its acknowledgement may still be on its way.
    agenda.acknowledged(at(4), "a", true);
}

#[test]
fn a_preemption_half_a_minute_away_is_drained_for_in_time() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Preempt, 30)]));
    let alone = Standing { has_heirs: false, ..READY };
    assert_eq!(done(agenda.decide(at(0), &alone)), [Action::Drain]);
    assert_eq!(done(agenda.decide(at(25), &alone)), acknowledge("a"));
}

#[test]
fn what_had_begun_already_is_over_for_this_node() {
    let mut agenda = agenda();
    let begun = Event { start: Start::Begun, ..event("a", Kind::Reboot, 0) };
    agenda.hear(at(0), document(&[begun]));
    assert_eq!(done(agenda.decide(at(0), &READY)), []);
    assert_eq!(done(agenda.decide(at(90), &DRAINED)), []);
}

#[test]
fn a_failed_acknowledgement_is_repeated_with_growing_pauses() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    agenda.decide(at(0), &DRAINED);
    let mut asked = Vec::new();
    for now in 10..60 {
        if done(agenda.decide(at(now), &DRAINED)) == acknowledge("a") {
            asked.push(now);
            agenda.acknowledged(at(now), "a", false);
        }
    }
    assert_eq!(asked, [10, 11, 13, 17, 25, 41]);
}

#[test]
fn what_is_about_others_too_begins_by_itself() {
    let mut agenda = agenda();
    let both = vec![ME.to_owned(), "fw-2".to_owned()];
    let shared = Event { resources: both, ..event("a", Kind::Reboot, 900) };
    agenda.hear(at(0), document(&[shared]));
    assert_eq!(done(agenda.decide(at(0), &DRAINED)), [Action::Drain]);
    for now in 1..900 {
        assert_eq!(done(agenda.decide(at(now), &DRAINED)), [], "at {now}");
    }
}

#[test]
fn a_freeze_holds_resets_from_its_time_until_it_is_over() {
    let mut agenda = agenda();
    let other = vec!["fw-2".to_owned()];
    let freeze = Event { resources: other, ..event("a", Kind::Freeze, 900) };
    agenda.hear(at(0), document(std::slice::from_ref(&freeze)));
    assert_eq!(done(agenda.decide(at(897), &READY)), []);
    assert_eq!(done(agenda.decide(at(898), &READY)), [Action::HoldResets(true)]);
    let begun = Event { start: Start::Begun, ..freeze };
    agenda.hear(at(901), document(&[begun]));
    assert_eq!(done(agenda.decide(at(901), &READY)), []);
    agenda.hear(at(909), document(&[]));
    assert_eq!(done(agenda.decide(at(909), &READY)), [Action::HoldResets(false)]);
}

#[test]
fn an_event_is_ours_once_the_name_is_known_however_it_is_written() {
    let mut agenda = Agenda::default();
    let loud = vec!["FW-1".to_owned()];
    let reboot = Event { resources: loud, ..event("a", Kind::Reboot, 600) };
    agenda.hear(at(0), document(&[reboot]));
    assert_eq!(done(agenda.decide(at(0), &READY)), []);
    assert!(!agenda.notices(at(0))[0].is_own);
    agenda.set_name(ME.to_owned());
    assert_eq!(done(agenda.decide(at(1), &READY)), [Action::Drain]);
}

#[test]
fn each_change_is_told_once_and_passing_time_is_none() {
    let mut agenda = agenda();
    let told = |actions: Vec<Action>| actions.len();
    assert_eq!(told(agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]))), 1);
    assert_eq!(told(agenda.hear(at(1), document(&[event("a", Kind::Reboot, 899)]))), 0);
    let begun = Event { start: Start::Begun, ..event("a", Kind::Reboot, 0) };
    assert_eq!(told(agenda.hear(at(2), document(std::slice::from_ref(&begun)))), 1);
    assert_eq!(told(agenda.hear(at(3), document(&[begun]))), 0);
    assert_eq!(told(agenda.hear(at(4), document(&[]))), 1);
}

/// One thing that happens, after a while.
#[derive(Debug, Clone)]
enum Step {
    Hear(Vec<Event>),
    /// The service does not answer.
    Nothing,
}

fn any_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        Just(Kind::Freeze),
        Just(Kind::Reboot),
        Just(Kind::Redeploy),
        Just(Kind::Preempt),
        Just(Kind::Terminate),
        Just(Kind::Other("Hibernate".to_owned())),
    ];
    let start = prop_oneof![
        4 => (0..1_200_u64).prop_map(|seconds| Start::In(Duration::from_secs(seconds))),
        1 => Just(Start::Begun),
        1 => Just(Start::Unknown),
    ];
    let resources =
        prop::sample::subsequence(vec![ME.to_owned(), "fw-2".to_owned(), "fw-3".to_owned()], 1..=3);
    ("[ab]", kind, start, resources).prop_map(|(id, kind, start, resources)| Event {
        id,
        kind,
        resources,
        start,
        description: String::new(),
        source: String::new(),
        lasts: None,
    })
}

fn any_step() -> impl Strategy<Value = (u64, Step, bool, u64, u64, bool)> {
    let step = prop_oneof![
        3 => prop::collection::vec(any_event(), 0..3).prop_map(Step::Hear),
        2 => Just(Step::Nothing),
    ];
    (0..200_u64, step, any::<bool>(), 0..3_u64, 0..3_u64, any::<bool>())
}

proptest! {
    #[test]
    fn whatever_happens_it_does_only_what_it_may(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut agenda = agenda();
        let (mut now, mut drains, mut holds) = (at(1), false, false);
        let mut acknowledged = BTreeSet::new();
        for (pause, step, has_heirs, left, passed, is_done) in steps {
            now = now + Duration::from_secs(pause);
            if let Step::Hear(events) = step {
                agenda.hear(now, document(&events));
                acknowledged.retain(|id| agenda.planned.contains_key(id));
            }
            let standing = Standing { has_heirs, drains, left, passed };
            for action in agenda.decide(now, &standing) {
                match action {
                    Action::Drain => { prop_assert!(!drains); drains = true; }
                    Action::Undrain => { prop_assert!(drains); drains = false; }
                    Action::HoldResets(held) => { prop_assert_ne!(holds, held); holds = held; }
                    Action::Tell(_) => {}
                    Action::Acknowledge(id) => {
                        let planned = &agenda.planned[&id];
                        prop_assert_eq!(&planned.event.resources, &[ME.to_owned()]);
                        prop_assert!(planned.event.kind.ends_memory());
                        prop_assert!(!matches!(planned.event.kind, Kind::Other(_)));
                        prop_assert_ne!(planned.event.start, Start::Begun);
                        let is_near = planned.due.is_some_and(|due| now + NEAR >= due);
                        prop_assert!(is_near || (drains && standing.drains && left == 0));
                        prop_assert!(!acknowledged.contains(&id), "twice");
                        agenda.acknowledged(now, &id, is_done);
                        if is_done { acknowledged.insert(id); }
                    }
                }
            }
            let reasons = agenda.planned.values().filter(|planned| {
                planned.was_announced && planned.event.kind.ends_memory() && is_of(&planned.event, Some(ME))
            });
            let dues: Vec<_> = reasons.map(|planned| planned.due).collect();
            let within = |before| dues.iter().any(|due| due.is_none_or(|due| now + before >= due));
            // Never for nothing, never too early, and in time in any case.
            prop_assert!(!drains || within(DRAIN_BEFORE));
            prop_assert!(drains || !within(DRAIN_ALONE));
            let freezes = agenda.planned.values().any(|planned| planned.event.kind == Kind::Freeze);
            prop_assert!(!holds || freezes);
        }
        // The service is silent for good.
        let end = now + Duration::from_secs(1_200) + FORGET;
        for action in agenda.decide(end, &Standing { drains, ..READY }) {
            match action {
                Action::Undrain => drains = false,
                Action::HoldResets(held) => holds = held,
                Action::Tell(_) => {}
                Action::Drain | Action::Acknowledge(_) => prop_assert!(false, "{action:?}"),
            }
        }
        prop_assert!(!drains && !holds && agenda.is_idle());
    }
}
