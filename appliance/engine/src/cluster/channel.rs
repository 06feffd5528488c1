//! What is to be said to one peer, until it has come: state, not messages, is repeated.
//!
//! An item names what is to be told; what it says is written when the datagram is. So what is sent again
//! is what is true by then, nothing old is ever repeated, and what became pointless is left out.

use std::collections::VecDeque;
use std::time::Duration;

use super::message::Message;
use crate::Time;
use crate::event::FlowId;
use crate::flows::Slot;

/// Datagrams that may be on their way.
const FLIGHT_MAX: usize = 1_024;
/// Notes, which are said once, that may wait; more are lost as if by the network.
const NOTES_MAX: usize = 4_096;
/// No message is longer than this.
const MESSAGE_MAX: usize = 256;
/// A datagram is lost when three later ones have come (RFC 9002 section 6.1.1), or after one and a half
/// round trips, but not before and not after these.
const REORDERED: u32 = 3;
const PATIENCE_MIN: Duration = Duration::from_millis(4);
const PATIENCE_MAX: Duration = Duration::from_millis(200);
/// So often something is said again before it waits longer: of what is lost now and then a packet waits.
const AGAIN_AT_ONCE: u32 = 2;
/// Before a round trip was seen.
const FIRST_PATIENCE: Duration = Duration::from_millis(20);

/// Something to be told.
#[expect(clippy::large_enum_variant, reason = "a box would cost an allocation for each message")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// One of a flow's keys, the first or the second.
    Register {
        slot: Slot,
        id: FlowId,
        side: u8,
    },
    Record {
        slot: Slot,
        id: FlowId,
    },
    Handover {
        slot: Slot,
        id: FlowId,
    },
    /// What is true for ever.
    Said(Message),
}

/// The way to one peer.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    notes: VecDeque<Message>,
    urgent: VecDeque<Item>,
    later: VecDeque<Item>,
    flight: VecDeque<Sent>,
    spare: Vec<Vec<Item>>,
    next: u32,
    round_trip: Option<Duration>,
    /// How often in a row something was taken for lost before anything was heard.
    timeouts: u32,
    received: Received,
    items_max: usize,
}

#[derive(Debug)]
struct Sent {
    number: u32,
    at: Time,
    state: State,
    items: Vec<Item>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flying,
    /// It was taken for lost, and its items are said again. That it has come may still be heard, where
    /// round trips are longer than was thought.
    Repeated,
    Came,
}

/// Which of the peer's datagrams have come.
#[derive(Debug, Default)]
struct Received {
    highest: Option<u32>,
    /// The lowest bit is the one before the highest.
    before: u64,
    due: bool,
}

impl Channel {
    /// For a node of so many flows.
    pub(crate) fn new(flows: u32) -> Self {
        Self {
            notes: VecDeque::new(),
            urgent: VecDeque::new(),
            later: VecDeque::new(),
            flight: VecDeque::new(),
            spare: Vec::new(),
            next: 0,
            round_trip: None,
            timeouts: 0,
            received: Received::default(),
            items_max: flows as usize * 4,
        }
    }

    /// Says something once.
    pub(crate) fn note(&mut self, message: Message) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push_back(message);
        }
    }

    /// Says something until it has come; whether there is room for it.
    pub(crate) fn tell(&mut self, item: Item) -> bool {
        let fits = self.waiting() < self.items_max;
        if fits {
            match item {
                Item::Record { .. } => self.later.push_back(item),
                Item::Register { .. } | Item::Handover { .. } | Item::Said(_) => {
                    self.urgent.push_back(item);
                }
            }
        }
        fits
    }

    /// Forgets everything that was to be said: the peer has gone.
    pub(crate) fn clear(&mut self) {
        self.notes.clear();
        self.urgent.clear();
        self.later.clear();
        while let Some(sent) = self.flight.pop_front() {
            self.give_back(sent.items);
        }
    }

    /// A peer that began anew counts anew.
    pub(crate) fn restart(&mut self) {
        self.clear();
        self.received = Received::default();
        self.round_trip = None;
    }

    /// Whether nothing waits and nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.flying().next().is_none()
    }

    /// Items that have not come yet.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.waiting() + self.flying().map(|sent| sent.items.len()).sum::<usize>()
    }

    /// Since when the oldest datagram has been on its way.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.flying().next().map(|sent| sent.at)
    }

    /// Takes down that the peer's datagram of this number has come.
    pub(crate) fn receive(&mut self, number: u32) {
        let Received { highest, before, due } = &mut self.received;
        *due = true;
        let Some(seen) = *highest else {
            *highest = Some(number);
            return;
        };
        let ahead = number.wrapping_sub(seen).cast_signed();
        if ahead > 0 {
            *before = before.checked_shl(ahead.cast_unsigned()).unwrap_or(0);
            *before |= 1_u64.checked_shl(ahead.cast_unsigned() - 1).unwrap_or(0);
            *highest = Some(number);
        } else if ahead < 0 {
            *before |= 1_u64.checked_shl(ahead.unsigned_abs() - 1).unwrap_or(0);
        }
    }

    /// Hears of each item that the peer acknowledges for the first time.
    pub(crate) fn acknowledge(
        &mut self,
        now: Time,
        highest: u32,
        before: u64,
        mut came: impl FnMut(&Item),
    ) {
        for sent in &mut self.flight {
            let behind = highest.wrapping_sub(sent.number).cast_signed();
            let is_named = match behind {
                0 => true,
                1..=64 => before & 1 << (behind - 1) != 0,
                _ => false,
            };
            if is_named && sent.state != State::Came {
                sent.state = State::Came;
                sent.items.iter().for_each(&mut came);
                self.timeouts = 0;
                if behind == 0 {
                    let seen = now.since(sent.at);
                    let smoothed = self.round_trip.map_or(seen, |known| (known * 7 + seen) / 8);
                    self.round_trip = Some(smoothed);
                }
            }
        }
        for place in 0..self.flight.len() {
            let behind = highest.wrapping_sub(self.flight[place].number).cast_signed();
            if behind <= REORDERED.cast_signed() {
                break;
            }
            self.repeat(place);
        }
        self.drop_past(now);
    }

    /// Repeats what has been on its way for too long.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        let patience = self.patience();
        for place in 0..self.flight.len() {
            if self.flight[place].at + patience > now {
                break;
            }
            self.repeat(place);
        }
        self.timeouts = self.timeouts.saturating_add(1);
        self.drop_past(now);
    }

    /// When `handle_timeout` is wanted.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.flying().next().map(|first| first.at + self.patience())
    }

    pub(crate) fn patience(&self) -> Duration {
        // RFC 9002 section 6.2.1: twice as long each time that nothing is heard.
        let doubled = self.timeouts.saturating_sub(AGAIN_AT_ONCE).min(6);
        (self.usual_patience() * (1 << doubled)).min(PATIENCE_MAX)
    }

    /// The same where nothing was lost lately.
    pub(crate) fn usual_patience(&self) -> Duration {
        let usual = self.round_trip.map_or(FIRST_PATIENCE, |seen| seen * 3 / 2);
        usual.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// Writes the next datagram of at most `room` bytes; whether there is one. `say` gives what an item
    /// says now, if anything.
    pub(crate) fn poll(
        &mut self,
        now: Time,
        room: usize,
        datagram: &mut Vec<u8>,
        mut say: impl FnMut(&Item) -> Option<Message>,
    ) -> bool {
        datagram.clear();
        let may_tell = self.flight.len() < FLIGHT_MAX && self.waiting() > 0;
        if !may_tell && self.notes.is_empty() && !self.received.due {
            return false;
        }
        if let Some(highest) = self.received.highest {
            Message::Acknowledgement { highest, before: self.received.before }.write(datagram);
            self.received.due = false;
        }
        while datagram.len() + MESSAGE_MAX <= room
            && let Some(note) = self.notes.pop_front()
        {
            note.write(datagram);
        }
        if may_tell {
            let before = datagram.len();
            Message::Number(self.next).write(datagram);
            let mut items = self.spare.pop().unwrap_or_default();
            while datagram.len() + MESSAGE_MAX <= room
                && let Some(item) = self.urgent.pop_front().or_else(|| self.later.pop_front())
            {
                if let Some(message) = say(&item) {
                    message.write(datagram);
                    items.push(item);
                }
            }
            if items.is_empty() {
                datagram.truncate(before);
                self.give_back(items);
            } else {
                self.flight.push_back(Sent {
                    number: self.next,
                    at: now,
                    state: State::Flying,
                    items,
                });
                self.next = self.next.wrapping_add(1);
            }
        }
        !datagram.is_empty()
    }

    fn waiting(&self) -> usize {
        self.urgent.len() + self.later.len()
    }

    fn flying(&self) -> impl Iterator<Item = &Sent> {
        self.flight.iter().filter(|sent| sent.state == State::Flying)
    }

    /// Says again what a datagram said that has not come.
    fn repeat(&mut self, place: usize) {
        let Self { flight, urgent, later, .. } = self;
        let sent = &mut flight[place];
        if sent.state != State::Flying {
            return;
        }
        sent.state = State::Repeated;
        for item in sent.items.iter().rev() {
            match item {
                Item::Record { .. } => later.push_front(*item),
                Item::Register { .. } | Item::Handover { .. } | Item::Said(_) => {
                    urgent.push_front(*item);
                }
            }
        }
    }

    /// Forgets datagrams of which nothing more is to be heard.
    fn drop_past(&mut self, now: Time) {
        let is_past = |sent: &Sent| match sent.state {
            State::Flying => false,
            State::Repeated => now.since(sent.at) >= 2 * PATIENCE_MAX,
            State::Came => true,
        };
        while self.flight.front().is_some_and(is_past) {
            if let Some(sent) = self.flight.pop_front() {
                self.give_back(sent.items);
            }
        }
    }

    fn give_back(&mut self, mut items: Vec<Item>) {
        items.clear();
        self.spare.push(items);
    }
}

#[cfg(test)]
mod tests;
