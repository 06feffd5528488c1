#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::message::{Message, messages};
use super::*;

const ROOM: usize = 600;
const STEP: Duration = Duration::from_millis(1);

/// What becomes of a datagram on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    /// It comes after so many milliseconds, so often.
    Comes {
        after: u8,
        copies: u8,
    },
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        1 => Just(Fate::Lost),
        3 => (0..40_u8, 1..3_u8).prop_map(|(after, copies)| Fate::Comes { after, copies }),
    ]
}

fn item(number: u32) -> Item {
    Item::Record { slot: Slot(number), id: FlowId(number.into()) }
}

/// Both ends of a link, and what is on it.
struct Link {
    now: Time,
    ends: [Channel; 2],
    flying: Vec<(Time, usize, Vec<u8>)>,
    fates: Vec<Fate>,
    sent: usize,
    heard: BTreeSet<u32>,
    came: BTreeSet<u32>,
}

impl Link {
    fn new(fates: Vec<Fate>) -> Self {
        let ends = [Channel::new(1_000), Channel::new(1_000)];
        let (heard, came) = (BTreeSet::new(), BTreeSet::new());
        Self { now: Time::ZERO, ends, flying: Vec::new(), fates, sent: 0, heard, came }
    }

    fn turn(&mut self) {
        self.now = self.now + STEP;
        let due = |flying: &(Time, usize, Vec<u8>)| flying.0 <= self.now;
        let (come, rest) = std::mem::take(&mut self.flying).into_iter().partition(due);
        self.flying = rest;
        let come: Vec<(Time, usize, Vec<u8>)> = come;
        for (_, to, datagram) in come {
            self.receive(to, &datagram);
        }
        for from in 0..2 {
            self.ends[from].handle_timeout(self.now);
            let mut datagram = Vec::new();
            // What an item says is its number, in the form of something that is said once.
            let say = |item: &Item| match item {
                Item::Record { slot, .. } => Some(Message::Granted { ask: slot.0 }),
                Item::Register { .. } | Item::Handover { .. } | Item::Said(_) => None,
            };
            while self.ends[from].poll(self.now, ROOM, &mut datagram, say) {
                assert!(datagram.len() <= ROOM);
                self.send(1 - from, &datagram);
            }
        }
    }

    fn send(&mut self, to: usize, datagram: &[u8]) {
        self.sent += 1;
        // Not in turns: those may lose every acknowledgement.
        let place = crate::hash::keyed([3; 16], &self.sent) % self.fates.len() as u64;
        let fate = self.fates[place as usize];
        if let Fate::Comes { after, copies } = fate {
            for copy in 0..u64::from(copies) {
                let at = self.now + Duration::from_millis(u64::from(after) + copy * 7);
                self.flying.push((at, to, datagram.to_vec()));
            }
        }
    }

    fn receive(&mut self, to: usize, datagram: &[u8]) {
        for message in messages(datagram) {
            match message.unwrap() {
                Message::Number(number) => self.ends[to].receive(number),
                Message::Acknowledgement { highest, before } => {
                    let Self { ends, came, now, .. } = self;
                    ends[to].acknowledge(*now, highest, before, |item| {
                        let Item::Record { slot, .. } = item else { panic!("{item:?}") };
                        came.insert(slot.0);
                    });
                }
                Message::Granted { ask } => {
                    self.heard.insert(ask);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a link does: what is told comes, is acknowledged only when it has come, and then there is
    /// silence.
    #[test]
    fn what_is_told_comes_and_then_there_is_silence(
        fates in prop::collection::vec(fate(), 1..12), count in 1..400_u32,
    ) {
        prop_assume!(fates.iter().any(|fate| matches!(fate, Fate::Comes { .. })));
        let mut link = Link::new(fates);
        for number in 0..count {
            prop_assert!(link.ends[0].tell(item(number)));
        }
        let mut turns = 0;
        while !link.ends[0].is_idle() && turns < 60_000 {
            link.turn();
            turns += 1;
            prop_assert!(link.came.is_subset(&link.heard), "acknowledged before it came");
            prop_assert!(link.ends[0].flight.len() <= FLIGHT_MAX);
        }
        prop_assert_eq!(link.came.len(), count as usize, "after {} ms", turns);
        link.flying.clear();
        let sent = link.sent;
        for _ in 0..1_000 {
            link.turn();
        }
        // What was due to be acknowledged still.
        prop_assert!(link.sent <= sent + 2, "{} more", link.sent - sent);
        prop_assert_eq!(link.ends[0].unacknowledged(), 0);
    }
}

#[test]
fn there_is_a_limit_to_what_waits() {
    let mut channel = Channel::new(100);
    let taken = (0..10_000).filter(|number| channel.tell(item(*number))).count();
    assert_eq!(taken, 400);
    for _ in 0..10_000 {
        channel.note(Message::Granted { ask: 1 });
    }
    assert_eq!(channel.notes.len(), NOTES_MAX);
}

/// What became pointless while it waited is left out, and no datagram is sent for it.
#[test]
fn what_has_nothing_to_say_any_more_is_not_sent() {
    let mut channel = Channel::new(100);
    channel.tell(item(1));
    let mut datagram = Vec::new();
    assert!(!channel.poll(Time::ZERO, ROOM, &mut datagram, |_| None));
    assert!(channel.is_idle());
}
