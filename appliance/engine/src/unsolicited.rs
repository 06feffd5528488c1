//! SYNs that NAT has refused: the other half of a simultaneous open may be on its way, so that their
//! senders hear nothing for six seconds, and nothing at all if it comes (RFC 5382 REQ-4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::judge::Answer;
use crate::packet::Packet;
use crate::reply::IcmpError;
use crate::tally::Tally;
use crate::{Engine, FlowKey, InterfaceId, Offload, Time};

/// RFC 5382 REQ-4, RFC 6146 TCP_INCOMING_SYN.
const WAIT: Duration = Duration::from_secs(6);

/// SYNs that are remembered. Whoever comes when there are as many is never told, as in a flood nobody
/// wants to be.
const SYNS_MAX: u32 = 1_024;

/// Refused SYNs, the oldest first, each once however often it is sent again.
#[derive(Debug)]
pub(crate) struct Unsolicited {
    waiting: VecDeque<Waiting>,
    keys: Tally<FlowKey>,
}

#[derive(Debug)]
struct Waiting {
    due: Time,
    key: FlowKey,
    from: InterfaceId,
    /// The ICMP error, ready to be sent.
    answer: Vec<u8>,
}

impl Unsolicited {
    /// `key` seeds the hash.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let waiting = VecDeque::with_capacity(SYNS_MAX as usize);
        Self { waiting, keys: Tally::new(SYNS_MAX, key) }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= SYNS_MAX as usize
    }

    fn push(&mut self, waiting: Waiting) {
        self.keys.add(waiting.key);
        self.waiting.push_back(waiting);
    }

    fn pop_due(&mut self, now: Time) -> Option<Waiting> {
        let due = self.waiting.pop_front_if(|first| first.due <= now)?;
        self.keys.take(&due.key);
        Some(due)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.waiting.front().map(|first| first.due)
    }

    pub(crate) fn clear(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.keys.take(&waiting.key);
        }
    }
}

impl Engine {
    /// Remembers a refused SYN, to be answered unless the inside sends its own.
    pub(crate) fn await_partner(
        &mut self,
        now: Time,
        from: InterfaceId,
        bytes: &[u8],
        packet: &Packet,
    ) {
        let Some(key) = packet.key() else { return };
        if self.unsolicited.keys.count(&key) > 0 {
            return;
        }
        if self.unsolicited.is_full() {
            self.counters.answers_limited += 1;
            return;
        }
        let answer = Answer::Icmp(IcmpError::PortUnreachable);
        let Some(answer) = self.build_answer(from, bytes, packet, answer) else { return };
        self.unsolicited.push(Waiting { due: now + WAIT, key, from, answer });
    }

    /// Tells the senders of SYNs whose time is up, but those that the inside has sent one too.
    pub(crate) fn answer_unsolicited(&mut self, now: Time) {
        while let Some(Waiting { key, from, answer, .. }) = self.unsolicited.pop_due(now) {
            if self.flows.find(&key).is_some() {
                continue;
            }
            if self.may_answer(now, key.source.address)
                && self.enqueue(from, answer, Offload::default())
            {
                self.counters.answers_sent += 1;
            }
        }
    }
}
