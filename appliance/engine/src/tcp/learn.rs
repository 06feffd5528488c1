//! A connection that another node has followed so far: what it had seen last is known, and what it saw
//! since is not. Segments are checked loosely until one round trip was seen, and strictly from then on
//! (RFC 6092 REC-32).

use super::window::{Side, end, is_at_most};
use super::{TcpEffect, TcpState, TcpTracker};
use crate::address::Direction;
use crate::packet::TcpSegment;
use crate::verdict::DropReason;

/// How far from what is known a segment may lie: what a connection sends in a second at 8 Gbit/s.
const FAR: u32 = 1 << 30;

/// What has been seen since the connection was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learning {
    /// All of the connection.
    Done,
    /// A round trip. What was sent before may lie behind what has been sent since, as that filled a gap:
    /// a side may acknowledge all that it has let the other send.
    Followed,
    Nothing,
    /// Segments of one side only.
    Heard(Direction),
    /// Segments of both sides; of this one none since the other was heard.
    Unsure(Direction),
}

impl Learning {
    /// Whether a segment of this side may be further on than what is known of it.
    pub(super) fn is_loose(self, side: Direction) -> bool {
        match self {
            Self::Done | Self::Followed => false,
            Self::Nothing | Self::Heard(_) => true,
            Self::Unsure(unsure) => unsure == side,
        }
    }

    fn after(self, side: Direction) -> Self {
        match self {
            Self::Nothing => Self::Heard(side),
            Self::Heard(heard) if heard != side => Self::Unsure(heard),
            Self::Unsure(unsure) if unsure == side => Self::Followed,
            other @ (Self::Done | Self::Followed | Self::Heard(_) | Self::Unsure(_)) => other,
        }
    }
}

impl TcpTracker {
    /// Whether a segment of a connection that nobody follows at the moment may be one of it: it
    /// acknowledges, ends nothing, and lies near what was seen last.
    pub(crate) fn is_revived_by(&self, direction: Direction, segment: &TcpSegment) -> bool {
        let Some(replier) = &self.replier else { return false };
        let (sender, receiver) = match direction {
            Direction::Original => (&self.originator, replier),
            Direction::Reply => (replier, &self.originator),
        };
        let flags = segment.flags;
        flags.ack
            && !flags.rst
            && !flags.syn
            && is_near(segment.sequence, sender.end)
            && is_near(segment.acknowledgement, receiver.end)
    }

    /// Whether the originator acknowledges another SYN than the one that has come back: it has taken another answer,
    /// and what was seen here is of a connection that it is not in.
    pub(crate) fn is_answered_elsewhere(&self, direction: Direction, segment: &TcpSegment) -> bool {
        let Some(replier) = &self.replier else { return false };
        let (first, sequence) = (self.originator.isn.wrapping_add(1), segment.sequence);
        let is_of_originator = is_at_most(first, sequence)
            && is_at_most(sequence, replier.edge(&self.originator))
            && direction == Direction::Original;
        let flags = segment.flags;
        self.state == TcpState::SynReceived
            && is_of_originator
            && flags.ack
            && !flags.syn
            && !flags.rst
            && !replier.syn_is_acknowledged_by(segment.acknowledgement)
    }

    /// What a side may expect next, as far as is known: what it has acknowledged, and all that the other has
    /// sent.
    pub(crate) fn expected(&self, side: Direction) -> Option<[u32; 2]> {
        let replier = self.replier.as_ref()?;
        let (side, other) = match side {
            Direction::Original => (&self.originator, replier),
            Direction::Reply => (replier, &self.originator),
        };
        Some([side.expected(other), other.end])
    }

    /// Follows a segment of which it is not known exactly where it must lie.
    pub(super) fn learn(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        let learning = self.learning;
        let (sender, receiver) = self.sides(direction).ok_or(DropReason::TcpState)?;
        let acknowledged = segment.acknowledgement;
        if !is_near(segment.sequence, sender.end) || !is_near(acknowledged, receiver.end) {
            return Err(DropReason::TcpWindow);
        }
        let mut known = *receiver;
        if !is_at_most(acknowledged, known.end) {
            known.end = acknowledged;
        }
        if !learning.is_loose(direction) {
            sender.may_send(&known, segment)?;
        }
        if segment.flags.fin && !is_at_most(sender.end, end(segment)) {
            return Ok(TcpEffect::NoRefresh);
        }
        if sender.fin.is_some_and(|fin| !is_at_most(end(segment), fin)) {
            // Not the last, then: anybody may have sent that FIN.
            sender.fin = None;
        }
        sender.note(&known, segment);
        self.learned(direction, acknowledged);
        Ok(self.settle())
    }

    /// What a side acknowledges was sent, though it was not seen.
    pub(super) fn believe(&mut self, direction: Direction, segment: &TcpSegment) {
        let Some((sender, receiver)) = self.sides(direction) else { return };
        let acknowledged = segment.acknowledgement;
        let has_let = sender.grant.is_some_and(|grant| is_at_most(acknowledged, grant.edge));
        let known = Side { end: acknowledged, ..*receiver };
        if !is_at_most(acknowledged, receiver.end)
            && has_let
            && sender.may_send(&known, segment).is_ok()
        {
            *receiver = known;
        }
    }

    /// Takes what another node has seen of the connection, by which the other half of it went.
    pub(crate) fn merge(&mut self, seen: &Self) -> TcpEffect {
        let Some((replier, others)) = self.replier.as_mut().zip(seen.replier.as_ref()) else {
            return TcpEffect::Continue;
        };
        self.originator.merge(&seen.originator);
        replier.merge(others);
        self.settle()
    }

    /// A RST that can not be told from a forged one: the receiver can tell.
    pub(super) fn doubtful_reset(
        &self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Option<Result<TcpEffect, DropReason>> {
        if !self.learning.is_loose(direction) {
            return None;
        }
        let side = match direction {
            Direction::Original => Some(&self.originator),
            Direction::Reply => self.replier.as_ref(),
        };
        let is_near = side.is_some_and(|side| is_near(end(segment), side.end));
        Some(if is_near { Ok(TcpEffect::NoRefresh) } else { Err(DropReason::TcpWindow) })
    }

    fn learned(&mut self, direction: Direction, acknowledged: u32) {
        let receiver = match direction {
            Direction::Original => self.replier.as_mut(),
            Direction::Reply => Some(&mut self.originator),
        };
        if let Some(receiver) = receiver
            && !is_at_most(acknowledged, receiver.end)
        {
            receiver.end = acknowledged;
        }
        self.learning = self.learning.after(direction);
    }
}

fn is_near(a: u32, b: u32) -> bool {
    let distance = a.wrapping_sub(b);
    distance < FAR || distance.wrapping_neg() < FAR
}
