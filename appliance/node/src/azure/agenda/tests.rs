#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use time::OffsetDateTime;

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
        not_before: Some(date(seconds)),
        description: String::new(),
        source: "Platform".to_owned(),
        lasts: None,
    }
}

/// Tests write the same date whenever they are asked.
fn date(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn of_other(event: Event) -> Event {
    Event { resources: vec!["fw-2".to_owned()], ..event }
}

/// With a reboot of ours and one of another VM, in as many seconds.
fn two_reboots((own, own_in): (&str, u64), (theirs, theirs_in): (&str, u64)) -> Agenda {
    let mut agenda = agenda();
    let other = of_other(event(theirs, Kind::Reboot, theirs_in));
    agenda.hear(at(0), document(&[event(own, Kind::Reboot, own_in), other]));
    agenda
}

fn document(events: &[Event]) -> Document {
    Document { incarnation: 1, events: events.to_vec(), unreadable: 0 }
}

fn agenda() -> Agenda {
    let mut agenda = Agenda::default();
    agenda.set_name(ME.to_owned());
    agenda
}

const READY: Standing = Standing {
    is_member: true,
    has_heirs: true,
    is_whole: true,
    has_company: true,
    gives_way: false,
    drains: false,
    left: 9,
    passed: 0,
};
const DRAINED: Standing = Standing { drains: true, left: 0, passed: 7, ..READY };
/// All other members are silent.
const LEFT: Standing = Standing { has_heirs: false, is_whole: false, has_company: false, ..READY };
/// No cluster.
const ALONE: Standing = Standing { is_member: false, ..LEFT };
/// The others live, and take nothing.
const LAST: Standing = Standing { has_company: true, ..LEFT };

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
    agenda.hear(at(0), document(&[event("a", Kind::Redeploy, 600)]));
    assert_eq!(done(agenda.decide(at(539), &ALONE)), []);
    assert_eq!(done(agenda.decide(at(540), &ALONE)), [Action::Drain]);
    assert_eq!(done(agenda.decide(at(594), &ALONE)), []);
    assert_eq!(done(agenda.decide(at(595), &ALONE)), acknowledge("a"));
}

#[test]
fn a_member_that_is_left_alone_drains_a_minute_before_and_does_not_hurry_its_end() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Redeploy, 600)]));
    assert_eq!(done(agenda.decide(at(539), &LEFT)), []);
    assert_eq!(done(agenda.decide(at(540), &LEFT)), [Action::Drain]);
    for now in 541..620 {
        assert_eq!(done(agenda.decide(at(now), &Standing { drains: true, ..LEFT })), []);
    }
}

#[test]
fn who_loses_its_heirs_takes_its_flows_back() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    assert_eq!(done(agenda.decide(at(1), &READY)), [Action::Drain]);
    let alone = Standing { drains: true, ..LEFT };
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
    assert_eq!(done(agenda.decide(at(0), &ALONE)), [Action::Drain]);
    assert_eq!(done(agenda.decide(at(25), &ALONE)), acknowledge("a"));
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

#[test]
fn the_last_that_serves_does_not_drain() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    for now in (0..1_000).step_by(10) {
        assert_eq!(done(agenda.decide(at(now), &LAST)), [], "at {now}");
    }
    assert_eq!(done(agenda.decide(at(1_000), &READY)), [Action::Drain]);
}

#[test]
fn whose_event_is_dated_later_waits_until_the_other_is_back() {
    let mut agenda = two_reboots(("a", 900), ("b", 800));
    assert_eq!(done(agenda.decide(at(0), &READY)), []);
    assert_eq!(done(agenda.decide(at(1), &LAST)), []);
    // The other goes, is away and joins.
    let begun = Event { start: Start::Begun, not_before: None, ..event("b", Kind::Reboot, 0) };
    agenda.hear(at(60), document(&[event("a", Kind::Reboot, 840), of_other(begun)]));
    assert_eq!(done(agenda.decide(at(60), &LAST)), []);
    assert_eq!(done(agenda.decide(at(100), &LEFT)), []);
    assert_eq!(done(agenda.decide(at(110), &LAST)), []);
    assert_eq!(done(agenda.decide(at(112), &READY)), [Action::Drain]);
}

#[test]
fn events_of_the_same_date_are_in_the_same_order_for_all() {
    let mut agenda = two_reboots(("b", 900), ("a", 900));
    assert_eq!(done(agenda.decide(at(0), &READY)), []);
    // But not later than who has nobody, in case the other VM is no member.
    assert_eq!(done(agenda.decide(at(840), &READY)), [Action::Drain]);
}

#[test]
fn whoever_is_waited_for_does_not_wait_for_silence() {
    let mut agenda = two_reboots(("a", 900), ("b", 900));
    assert_eq!(done(agenda.decide(at(0), &READY)), [Action::Drain]);
    for now in 1..30 {
        let busy = Standing { passed: now, ..DRAINED };
        assert_eq!(done(agenda.decide(at(now), &busy)), [], "at {now}");
    }
    assert_eq!(done(agenda.decide(at(30), &Standing { passed: 30, ..DRAINED })), acknowledge("a"));
}

#[test]
fn nothing_is_acknowledged_while_a_member_is_missing() {
    let mut agenda = agenda();
    agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
    agenda.decide(at(0), &READY);
    let missing = Standing { is_whole: false, ..DRAINED };
    assert_eq!(done(agenda.decide(at(100), &missing)), []);
    assert_eq!(done(agenda.decide(at(200), &DRAINED)), acknowledge("a"));
}

/// Two standalone VMs see no events but their own.
#[test]
fn of_two_that_begin_in_one_moment_the_higher_number_takes_it_back_at_once() {
    let (mut lower, mut higher) = (agenda(), agenda());
    for agenda in [&mut lower, &mut higher] {
        agenda.hear(at(0), document(&[event("a", Kind::Reboot, 900)]));
        assert_eq!(done(agenda.decide(at(0), &READY)), [Action::Drain]);
    }
    let both = Standing { drains: true, ..LAST };
    assert_eq!(done(lower.decide(at(1), &both)), []);
    let gives_way = Standing { gives_way: true, ..both };
    assert_eq!(done(higher.decide(at(1), &gives_way)), [Action::Undrain]);
    assert_eq!(done(lower.decide(at(2), &Standing { drains: true, ..READY })), []);
    assert_eq!(done(higher.decide(at(2), &Standing { gives_way: true, ..LAST })), []);
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
        not_before: match start {
            Start::In(time) => Some(OffsetDateTime::UNIX_EPOCH + time),
            Start::Begun | Start::Unknown => None,
        },
        description: String::new(),
        source: String::new(),
        lasts: None,
    })
}

/// How the others are.
fn any_standing() -> impl Strategy<Value = Standing> {
    let others = prop_oneof![Just(READY), Just(LEFT), Just(LAST), Just(ALONE)];
    (others, any::<bool>(), any::<bool>(), 0..3_u64, 0..3_u64).prop_map(
        |(others, is_whole, gives_way, left, passed)| Standing {
            is_whole: is_whole && others.is_whole,
            gives_way: gives_way && others.has_company,
            left,
            passed,
            ..others
        },
    )
}

fn any_step() -> impl Strategy<Value = (u64, Step, Standing, bool)> {
    let step = prop_oneof![
        3 => prop::collection::vec(any_event(), 0..3).prop_map(Step::Hear),
        2 => Just(Step::Nothing),
    ];
    (0..200_u64, step, any_standing(), any::<bool>())
}

proptest! {
    #[test]
    fn whatever_happens_it_does_only_what_it_may(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut agenda = agenda();
        let (mut now, mut drains, mut holds) = (at(1), false, false);
        let mut acknowledged = BTreeSet::new();
        for (pause, step, standing, is_done) in steps {
            now = now + Duration::from_secs(pause);
            if let Step::Hear(events) = step {
                agenda.hear(now, document(&events));
                acknowledged.retain(|id| agenda.planned.contains_key(id));
            }
            let standing = Standing { drains, ..standing };
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
                        let is_served = !standing.is_member || standing.has_heirs;
                        let is_handed_over = drains && standing.drains && standing.left == 0;
                        let nobody_is_missing = !standing.is_member || standing.is_whole;
                        prop_assert!(is_served);
                        prop_assert!(is_near || (is_handed_over && nobody_is_missing));
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
            // Never for nothing, never too early, and in time unless nobody else would serve.
            prop_assert!(!drains || within(DRAIN_BEFORE));
            let is_last = standing.is_member && standing.has_company && !standing.has_heirs;
            prop_assert!(drains || is_last || !within(DRAIN_ALONE));
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
