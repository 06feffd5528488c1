//! Packets that wait for word of their owner: at the node they came in at, and at the director.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::NodeId;
use super::consult::Question;
use super::rendezvous::Pair;
use super::wrap::Wrapping;
use crate::{Frame, InterfaceId, Offload, Time};

/// Packets and bytes that wait, in all. Half of the packets may be held for keys, a quarter for those that one
/// peer has asked for.
const PACKETS_MAX: usize = 4_096;
const BYTES_MAX: usize = 8 << 20;

/// How long the director holds a packet of whose key it has not heard, at least and at most: for as long as four
/// registrations take of which three are lost.
pub(super) const HOLD: Duration = Duration::from_millis(100);
pub(super) const HOLD_MAX: Duration = Duration::from_millis(300);

/// A packet that was sent to a director, and may have to be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) key: Pair,
    /// Who was asked last.
    pub(crate) to: NodeId,
    pub(crate) from: InterfaceId,
    pub(crate) frame: Vec<u8>,
    pub(crate) offload: Offload,
    /// When it came.
    pub(crate) since: Time,
    pub(crate) tries: u8,
    pub(crate) question: Question,
    /// It waits to be decided: what became of it is counted then.
    pub(crate) is_uncounted: bool,
    /// What is said of one fragment is said of its datagram, and so of all that were asked about with it.
    pub(crate) is_fragment: bool,
    pub(super) due: Time,
}

/// A packet that came to its director before word of its owner.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) packet: Vec<u8>,
    pub(crate) offload: Offload,
    pub(crate) from: NodeId,
    pub(crate) wrapping: Wrapping,
    until: Time,
}

/// Both kinds, with one limit.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    asked: BTreeMap<u32, Asked>,
    due: BTreeMap<(Time, u32), ()>,
    /// How many by key, so that a flow's later packets need no ask of their own.
    pending: BTreeMap<Pair, u16>,
    held: BTreeMap<Pair, Vec<Held>>,
    ends: BTreeMap<(Time, Pair), u32>,
    packets: usize,
    held_packets: usize,
    held_for: [usize; NodeId::MAX as usize + 1],
    bytes: usize,
    numbers: u32,
}

impl Waiting {
    /// Keeps a packet that is asked about and gives it a number; `None` if there is no room.
    pub(crate) fn ask(&mut self, due: Time, asked: Asked) -> Option<u32> {
        if !self.has_room(asked.frame.len()) {
            return None;
        }
        // Zero is no number.
        self.numbers = self.numbers.checked_add(1).unwrap_or(1);
        self.ask_again(due, self.numbers, asked);
        Some(self.numbers)
    }

    /// Keeps one that was taken out by `poll_due`, under its number.
    pub(crate) fn ask_again(&mut self, due: Time, number: u32, mut asked: Asked) {
        asked.due = due;
        self.packets += 1;
        self.bytes += asked.frame.len();
        self.due.insert((due, number), ());
        *self.pending.entry(asked.key).or_default() += 1;
        self.asked.insert(number, asked);
    }

    pub(crate) fn asked_about(&self, key: &Pair) -> u16 {
        self.pending.get(key).copied().unwrap_or_default()
    }

    pub(crate) fn take_asked(&mut self, number: u32) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.due.remove(&(asked.due, number));
        if let Entry::Occupied(mut pending) = self.pending.entry(asked.key) {
            *pending.get_mut() -= 1;
            if *pending.get() == 0 {
                pending.remove();
            }
        }
        self.packets -= 1;
        self.bytes -= asked.frame.len();
        Some(asked)
    }

    /// All that was asked about a key.
    pub(crate) fn take_asked_about(&mut self, key: &Pair) -> Vec<Asked> {
        self.take_asked_where(|asked| asked.key == *key)
    }

    /// All fragments that were asked about under a key.
    pub(crate) fn take_fragments_about(&mut self, key: &Pair) -> Vec<Asked> {
        self.take_asked_where(|asked| asked.key == *key && asked.is_fragment)
    }

    /// Packets of this node's that wait until others know of their flow.
    pub(crate) fn take_known_about(&mut self, key: &Pair) -> Vec<Asked> {
        self.take_asked_where(|asked| asked.key == *key && asked.question == Question::Known)
    }

    pub(super) fn take_asked_where(&mut self, is_wanted: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let numbers: Vec<u32> =
            self.asked.iter().filter(|(_, asked)| is_wanted(asked)).map(|(n, _)| *n).collect();
        numbers.into_iter().filter_map(|number| self.take_asked(number)).collect()
    }

    /// A packet to which nobody has answered in time, with its number.
    pub(crate) fn poll_due(&mut self, now: Time) -> Option<(u32, Asked)> {
        let (&(due, number), ()) = self.due.first_key_value()?;
        if due > now {
            return None;
        }
        self.take_asked(number).map(|asked| (number, asked))
    }

    /// Keeps a packet for the owner's word until then; whether there was room.
    pub(crate) fn hold(
        &mut self,
        until: Time,
        key: Pair,
        from: NodeId,
        wrapping: Wrapping,
        frame: &Frame<'_>,
    ) -> bool {
        let packet = &*frame.bytes;
        let has_room = self.has_room(packet.len()) && self.held_packets < PACKETS_MAX / 2;
        let Some(held_for) = self.held_for.get_mut(usize::from(from.0)) else { return false };
        if !has_room || *held_for >= PACKETS_MAX / 4 {
            return false;
        }
        *held_for += 1;
        self.packets += 1;
        self.held_packets += 1;
        self.bytes += packet.len();
        *self.ends.entry((until, key)).or_insert(0) += 1;
        let offload = frame.offload;
        let held = Held { packet: packet.to_vec(), offload, from, wrapping, until };
        self.held.entry(key).or_default().push(held);
        true
    }

    /// All that is held for a key.
    pub(crate) fn release(&mut self, key: &Pair) -> Vec<Held> {
        let Some(released) = self.held.remove(key) else { return Vec::new() };
        for held in &released {
            self.ends.remove(&(held.until, *key));
            self.packets -= 1;
            self.held_packets -= 1;
            self.held_for[usize::from(held.from.0)] -= 1;
            self.bytes -= held.packet.len();
        }
        released
    }

    /// The packets of one key that have been held for long enough.
    pub(crate) fn poll_overdue(&mut self, now: Time) -> Option<Vec<Held>> {
        let (&(until, key), _) = self.ends.first_key_value()?;
        if until > now {
            return None;
        }
        // Those that came later under this key go too: nobody has registered it meanwhile.
        Some(self.release(&key))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let due = self.due.first_key_value().map(|(&(due, _), ())| due);
        let until = self.ends.first_key_value().map(|(&(until, _), _)| until);
        due.into_iter().chain(until).min()
    }

    pub(super) const fn has_room(&self, bytes: usize) -> bool {
        self.packets < PACKETS_MAX && self.bytes + bytes <= BYTES_MAX
    }
}

impl Asked {
    pub(crate) fn new(
        since: Time,
        key: Pair,
        to: NodeId,
        from: InterfaceId,
        frame: Vec<u8>,
        offload: Offload,
    ) -> Self {
        let (tries, question, due) = (0, Question::Whose, Time::ZERO);
        let (is_uncounted, is_fragment) = (false, false);
        Self {
            key,
            to,
            from,
            frame,
            offload,
            since,
            tries,
            question,
            is_uncounted,
            is_fragment,
            due,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Address, Endpoint, FlowKey};

    fn key(port: u16) -> Pair {
        let end = |port| Endpoint { address: Address::from([10, 0, 0, 1]), port };
        Pair::from(FlowKey { source: end(port), destination: end(443), protocol: 6 })
    }

    #[test]
    fn one_peer_does_not_take_the_room_of_the_others() {
        let mut waiting = Waiting::default();
        let hold = |waiting: &mut Waiting, port, peer| {
            let frame = Frame { bytes: &mut [0; 100], offload: Offload::default() };
            waiting.hold(Time::ZERO, key(port), NodeId(peer), Wrapping::default(), &frame)
        };
        let held = (0..5_000).filter(|port| hold(&mut waiting, *port, 2)).count();
        assert_eq!(held, PACKETS_MAX / 4);
        assert!(hold(&mut waiting, 0, 3));
        assert_eq!(waiting.release(&key(0)).len(), 2);
        assert!(hold(&mut waiting, 0, 2), "there is room again");
        let others =
            (3..10).map(|peer| (0..5_000).filter(|port| hold(&mut waiting, *port, peer)).count());
        assert_eq!(others.sum::<usize>(), PACKETS_MAX / 4, "half of all is for others");
    }
}
