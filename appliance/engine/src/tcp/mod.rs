//! TCP as a firewall between the endpoints sees it: connection state and windows.
//!
//! Follows RFC 9293, RFC 5961, RFC 7857 section 2 and G. van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter" (2001) for the window rules.
//!
//! - `state` holds the tables: the rule for each segment, the state after each event.
//! - `window` holds what each side has sent and granted.
//! - Here are the rules. What passes without proving anything (a SYN or an inexact RST on a live
//!   connection, and what the endpoint answers) changes neither state nor windows.
//!
//! The direction of a connection is that of its first SYN and never turns.

mod learn;
mod state;
mod stored;
mod window;

use std::time::Duration;

use gabion_rules::Timeouts;

use crate::address::Direction;
use crate::fast_path::{FastUsage, FastWindow};
use crate::packet::TcpSegment;
use crate::verdict::DropReason;

use learn::Learning;
pub use state::TcpState;
use state::{Event, Kind, Rule};
pub(crate) use stored::StoredTcp;
use window::{Side, Syn, is_at_most};

/// Connection state and both windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpTracker {
    state: TcpState,
    originator: Side,
    /// `None` until its SYN was seen.
    replier: Option<Side>,
    /// The replier opened with a SYN without ACK: simultaneous open, or a split handshake. Only then
    /// does the originator send a SYN-ACK.
    simultaneous: bool,
    pending: Pending,
    learning: Learning,
}

/// What passed without changing anything, kept because the answer to it must pass too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// In `SynSent`: the other side believes in an older connection and acknowledged this; the
    /// originator will answer with a RST there (RFC 9293 section 3.5.1, figure 9).
    StrayAck(u32),
    /// A SYN on a connection that is there, or another one while the first waits for its answer. If
    /// the other side knows of no connection it takes the SYN, and that SYN-ACK or RST must find its
    /// way back. It does not take the first one's place: anybody may have sent it.
    NewSyn(Syn),
    /// In `SynReceived`: a second SYN-ACK with another sequence number, as stateless servers send
    /// (SYN cookies). The originator's ACK tells which one it took.
    OtherSynAck(Syn),
}

/// What an accepted segment means for the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpEffect {
    /// Nothing but a refreshed timer.
    Continue,
    /// The segment is to pass, but proves nothing (a SYN or an inexact RST on a live connection,
    /// what follows a close): the timer stays.
    NoRefresh,
    /// The state changed. Back to `SynReceived` when an endpoint that lost the connection has taken
    /// a new SYN for it.
    Moved { from: TcpState, to: TcpState },
    /// A SYN on a closed connection, acceptable as a new one (RFC 9293 section 3.6.1): forget this
    /// flow and admit the segment as a first packet.
    Reopen,
}

impl TcpTracker {
    /// A tracker for the connection that this SYN opens.
    pub(crate) fn open(syn: &TcpSegment) -> Self {
        Self::opened(Syn::of(syn))
    }

    fn opened(syn: Syn) -> Self {
        Self {
            state: TcpState::SynSent,
            originator: Side::opened(syn),
            replier: None,
            simultaneous: false,
            pending: Pending::Nothing,
            learning: Learning::Done,
        }
    }

    /// Checks a segment against state and windows, and moves both where it is acceptable.
    ///
    /// # Errors
    /// `TcpWindow` or `TcpState`; nothing is changed then.
    pub(crate) fn handle_segment(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        let kind = Kind::of(segment.flags).ok_or(DropReason::TcpState)?;
        match state::rule(self.state, direction, kind) {
            Rule::Refuse => Err(DropReason::TcpState),
            Rule::Retry => Ok(self.retry(segment)),
            Rule::Abort => self.abort(segment),
            Rule::Answer => self.answer(segment),
            Rule::HalfOpen => self.half_open(segment),
            Rule::Refusal => self.refusal(segment),
            Rule::Renew => Ok(self.renew(segment)),
            Rule::Challenge => Ok(TcpEffect::NoRefresh),
            Rule::Repeat => self.repeat(segment),
            Rule::Meet => self.meet(direction, segment),
            Rule::Follow => self.follow(direction, segment),
            Rule::Reset => self.reset(direction, segment),
            Rule::Reopen => self.reopen(direction, segment),
            Rule::Linger => self.linger(direction, segment),
        }
    }

    /// The tracker of a connection that another node has followed so far; `None` for one that is not
    /// established, of which nobody else can know enough.
    pub(crate) fn adopted(self) -> Option<Self> {
        let is_known = matches!(self.state, TcpState::Established | TcpState::Closing);
        let learning = Learning::Nothing;
        is_known.then_some(Self { learning, pending: Pending::Nothing, ..self })
    }

    /// What both sides have sent and granted, of a connection whose next segments need nothing else to be judged by,
    /// unless they are SYNs or RSTs: until both have acknowledged the other's FIN. The first answer to the originator's SYN
    /// needs no more either.
    pub(crate) fn settled(&self) -> Option<[FastWindow; 2]> {
        let Self { state, originator, replier, pending, learning, .. } = self;
        let is_settled = *pending == Pending::Nothing && *learning == Learning::Done;
        let Some(replier) = replier.as_ref().filter(|_| is_settled) else {
            let is_asked = is_settled && *state == TcpState::SynSent;
            return originator
                .asking()
                .filter(|_| is_asked)
                .map(|side| [side, FastWindow::default()]);
        };
        let is_open = match state {
            // The originator has yet to acknowledge the other's SYN.
            TcpState::SynReceived => {
                !self.simultaneous && replier.grant.is_some() && originator.grant.is_none()
            }
            TcpState::Established | TcpState::Closing => true,
            TcpState::SynSent | TcpState::Closed => false,
        };
        is_open.then(|| [originator.settled(replier), replier.settled(originator)])
    }

    /// The tracker of a settled connection of which only the windows are known.
    pub(crate) fn settled_at(windows: &[FastWindow; 2]) -> Self {
        let [originator, replier] = windows;
        let (state, [originator, replier]) = if originator.opening {
            (TcpState::SynReceived, Side::opening_at(originator, replier))
        } else {
            (TcpState::Established, [originator, replier].map(Side::settled_at))
        };
        let mut tracker = Self {
            state,
            originator,
            replier: Some(replier),
            simultaneous: false,
            pending: Pending::Nothing,
            learning: Learning::Done,
        };
        tracker.settle();
        tracker
    }

    /// Learns what both sides have sent and granted since, if they have.
    pub(crate) fn note_moved(&mut self, usage: &FastUsage, moved: [bool; 2]) -> TcpEffect {
        let (from, windows) = (self.state, &usage.tcp);
        if let (TcpState::SynSent, Some(answer), [_, true]) = (from, usage.answer, moved) {
            self.replier = Some(Side::answered(&answer, &windows[1]));
            self.advance(Event::Answered);
        }
        let sides = [Some(&mut self.originator), self.replier.as_mut()];
        for ((side, window), moved) in sides.into_iter().zip(windows).zip(moved) {
            if let Some(side) = side {
                side.note_moved(window, moved);
            }
        }
        self.settle();
        self.moved(from)
    }

    pub(crate) fn state(&self) -> TcpState {
        self.state
    }

    /// Whether `sequence`, quoted in an ICMP error, was sent in `direction` and is not yet
    /// acknowledged (RFC 5927 section 4.1).
    pub(crate) fn in_flight(&self, direction: Direction, sequence: u32) -> bool {
        let (sender, receiver) = match direction {
            Direction::Original => (Some(&self.originator), self.replier.as_ref()),
            Direction::Reply => (self.replier.as_ref(), Some(&self.originator)),
        };
        let Some(sender) = sender else { return false };
        if self.state == TcpState::SynSent && self.new_syn().is_some_and(|syn| syn.isn == sequence)
        {
            return direction == Direction::Original;
        }
        let oldest = receiver.and_then(|side| side.grant).map_or(sender.isn, |grant| grant.ack);
        is_at_most(oldest, sequence) && !is_at_most(sender.end, sequence)
    }

    /// The idle time after which the flow is given up.
    ///
    /// A connection closed from one side may carry data the other way for hours, with pauses, so it
    /// keeps the timer of an established one until the other side has sent its FIN too (RFC 6146
    /// section 3.5.2.2, the machine that RFC 7857 section 2 recommends).
    pub(crate) fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match self.state {
            TcpState::SynSent | TcpState::SynReceived => timeouts.tcp_opening,
            TcpState::Established => timeouts.tcp_established,
            TcpState::Closing if self.is_half_closed() => timeouts.tcp_established,
            TcpState::Closing => timeouts.tcp_closing,
            TcpState::Closed => timeouts.tcp_closed,
        }
    }

    /// The same SYN again, perhaps without its options or data; or that of a client which has
    /// started anew.
    fn retry(&mut self, segment: &TcpSegment) -> TcpEffect {
        let syn = Syn::of(segment);
        if syn.isn == self.originator.isn {
            self.originator.note_syn(syn);
        } else {
            self.pending = Pending::NewSyn(syn);
        }
        TcpEffect::Continue
    }

    fn abort(&mut self, segment: &TcpSegment) -> Result<TcpEffect, DropReason> {
        let sequence = segment.sequence;
        if self.originator.syn_is_acknowledged_by(sequence) {
            Ok(self.advance(Event::Reset))
        } else if self.pending == Pending::StrayAck(sequence)
            || self.new_syn().is_some_and(|syn| syn.is_acknowledged_by(sequence))
        {
            Ok(TcpEffect::NoRefresh)
        } else {
            Err(DropReason::TcpWindow)
        }
    }

    fn answer(&mut self, segment: &TcpSegment) -> Result<TcpEffect, DropReason> {
        let acknowledges = segment.flags.ack;
        if acknowledges && !self.originator.syn_is_acknowledged_by(segment.acknowledgement) {
            let syn = self.new_syn().filter(|syn| syn.is_acknowledged_by(segment.acknowledgement));
            self.originator = Side::opened(syn.ok_or(DropReason::TcpWindow)?);
            self.pending = Pending::Nothing;
        }
        self.replier = Some(Side::opened(Syn::of(segment)));
        self.simultaneous = !acknowledges;
        if self.new_syn().is_none() {
            self.pending = Pending::Nothing;
        }
        Ok(self.advance(Event::Answered))
    }

    /// The other side still has an older connection and says so; the originator's RST will cure it.
    /// An ACK that fits the SYN but lacks the other's SYN fits nothing.
    fn half_open(&mut self, segment: &TcpSegment) -> Result<TcpEffect, DropReason> {
        let ack = segment.acknowledgement;
        if segment.payload > 0 || self.originator.syn_is_acknowledged_by(ack) {
            return Err(DropReason::TcpState);
        }
        self.pending = Pending::StrayAck(ack);
        Ok(TcpEffect::NoRefresh)
    }

    /// RFC 9293 section 3.10.7.3: a RST against a SYN is good if it acknowledges the SYN.
    fn refusal(&mut self, segment: &TcpSegment) -> Result<TcpEffect, DropReason> {
        if !self.refuses_syn(Direction::Reply, segment) {
            return Err(DropReason::TcpWindow);
        }
        if !self.originator.syn_is_acknowledged_by(segment.acknowledgement) {
            return Ok(TcpEffect::NoRefresh);
        }
        Ok(self.advance(Event::Reset))
    }

    /// RFC 5961 section 4: the other side answers with a challenge ACK, or takes the SYN if it has
    /// lost the connection.
    fn renew(&mut self, segment: &TcpSegment) -> TcpEffect {
        if segment.sequence != self.originator.isn {
            self.pending = Pending::NewSyn(Syn::of(segment));
            TcpEffect::NoRefresh
        } else if self.state == TcpState::SynReceived {
            TcpEffect::Continue
        } else {
            TcpEffect::NoRefresh
        }
    }

    /// The replier's SYN-ACK again; or one for a new SYN, because it has lost the connection; or
    /// one of a server without state.
    fn repeat(&mut self, segment: &TcpSegment) -> Result<TcpEffect, DropReason> {
        let acknowledgement = segment.acknowledgement;
        if self.replier.is_some_and(|side| side.isn == segment.sequence) {
            return self.follow(Direction::Reply, segment);
        }
        if let Some(syn) = self.new_syn()
            && syn.is_acknowledged_by(acknowledgement)
        {
            let from = self.state;
            let mut renewed = Self::opened(syn);
            renewed.answer(segment)?;
            *self = renewed;
            return Ok(self.moved(from));
        }
        if self.originator.grant.is_none()
            && self.originator.syn_is_acknowledged_by(acknowledgement)
        {
            self.pending = Pending::OtherSynAck(Syn::of(segment));
            return Ok(TcpEffect::NoRefresh);
        }
        Err(DropReason::TcpWindow)
    }

    /// SYN-ACKs of the originator and SYNs of the replier. The replier's SYN may come after its
    /// SYN-ACK when the two have overtaken each other.
    fn meet(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        let simultaneous = self.simultaneous || direction == Direction::Reply;
        let repeats = self.sides(direction).is_some_and(|(side, _)| side.isn == segment.sequence);
        if !simultaneous || !repeats {
            return Err(DropReason::TcpState);
        }
        if segment.flags.ack {
            return self.follow(direction, segment);
        }
        self.simultaneous = true;
        Ok(TcpEffect::Continue)
    }

    fn follow(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        if direction == Direction::Original
            && let Pending::OtherSynAck(syn) = self.pending
            && syn.is_acknowledged_by(segment.acknowledgement)
        {
            let replier = Some(Side::opened(syn));
            let mut chosen = Self { replier, pending: Pending::Nothing, ..*self };
            let effect = chosen.follow(direction, segment)?;
            *self = chosen;
            return Ok(effect);
        }
        match self.learning {
            Learning::Done => {}
            Learning::Followed => self.believe(direction, segment),
            Learning::Nothing | Learning::Heard(_) | Learning::Unsure(_) => {
                return self.learn(direction, segment);
            }
        }
        let Some((sender, receiver)) = self.sides(direction) else {
            return Err(DropReason::TcpState);
        };
        sender.may_send(receiver, segment)?;
        sender.note(receiver, segment);
        if direction == Direction::Original {
            // The originator lives in this connection: no other SYN was its own.
            self.pending = Pending::Nothing;
        }
        Ok(self.settle())
    }

    /// RFC 5961 section 3: an exact RST closes. One elsewhere in the window makes the receiver send a
    /// challenge ACK, to which the sender answers with an exact one.
    ///
    /// The receiver may have got more than it has acknowledged, so both ends of what is in flight
    /// count as exact.
    fn reset(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        if let Some(passed) = self.doubtful_reset(direction, segment) {
            return passed;
        }
        let sequence = segment.sequence;
        let refuses = self.refuses_syn(direction, segment);
        let closed = self.state == TcpState::Closed;
        let Some((sender, receiver)) = self.sides(direction) else {
            return if refuses { Ok(TcpEffect::NoRefresh) } else { Err(DropReason::TcpWindow) };
        };
        let expected = receiver.expected(sender);
        let exact = sequence == expected || sequence == sender.end;
        let in_window =
            is_at_most(expected, sequence) && !is_at_most(receiver.edge(sender), sequence);
        if exact {
            sender.repeated = true;
            return Ok(if closed { TcpEffect::NoRefresh } else { self.advance(Event::Reset) });
        }
        if in_window || refuses { Ok(TcpEffect::NoRefresh) } else { Err(DropReason::TcpWindow) }
    }

    /// Whether the sequence number is good enough for a new connection, the endpoint in TIME-WAIT
    /// says; timestamps may make any one good (RFC 6191). But that of the connection which was there
    /// is a late copy: it would take away what is still needed to close.
    fn reopen(&self, direction: Direction, segment: &TcpSegment) -> Result<TcpEffect, DropReason> {
        let opener = match direction {
            Direction::Original => self.replier.map(|_| self.originator.isn),
            Direction::Reply => self.replier.map(|side| side.isn),
        };
        if opener == Some(segment.sequence) {
            return Err(DropReason::TcpState);
        }
        Ok(TcpEffect::Reopen)
    }

    /// After the close, what a lost acknowledgement or a lost RST makes the endpoints send: segments
    /// that were sent before, and the answers to those. Nothing new. Where both have acknowledged the
    /// other's FIN, none but the FINs: CC FFW_RUL_EXT.1.5 has no data of a session after its end.
    fn linger(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        let finished = self.is_finished();
        let Some((sender, receiver)) = self.sides(direction) else {
            return Err(DropReason::TcpState);
        };
        sender.may_send(receiver, segment)?;
        let is_new = !is_at_most(window::end(segment), sender.end);
        if is_new || (segment.flags.syn && segment.sequence != sender.isn) {
            return Err(DropReason::TcpState);
        }
        if segment.flags.fin {
            sender.repeated = true;
            // TIME-WAIT starts again too (RFC 9293 section 3.10.7.4).
            return Ok(TcpEffect::Continue);
        }
        let repeats = segment.payload > 0 || segment.flags.syn;
        if repeats && finished || !repeats && !receiver.repeated {
            return Err(DropReason::TcpState);
        }
        sender.repeated |= repeats;
        Ok(TcpEffect::NoRefresh)
    }

    /// Sender and receiver, once both have sent a SYN.
    fn sides(&mut self, direction: Direction) -> Option<(&mut Side, &mut Side)> {
        let replier = self.replier.as_mut()?;
        Some(match direction {
            Direction::Original => (&mut self.originator, replier),
            Direction::Reply => (replier, &mut self.originator),
        })
    }

    /// Whether a RST acknowledges a SYN of the originator that may still wait for its answer.
    fn refuses_syn(&self, direction: Direction, segment: &TcpSegment) -> bool {
        let ack = segment.acknowledgement;
        direction == Direction::Reply
            && segment.flags.ack
            && (self.new_syn().is_some_and(|syn| syn.is_acknowledged_by(ack))
                || self.originator.grant.is_none() && self.originator.syn_is_acknowledged_by(ack))
    }

    fn new_syn(&self) -> Option<Syn> {
        match self.pending {
            Pending::NewSyn(syn) => Some(syn),
            Pending::Nothing | Pending::StrayAck(_) | Pending::OtherSynAck(_) => None,
        }
    }

    fn is_half_closed(&self) -> bool {
        self.originator.fin.is_none() || self.replier.is_none_or(|side| side.fin.is_none())
    }

    /// Whether both sides have acknowledged the other's FIN.
    fn is_finished(&self) -> bool {
        self.replier.is_some_and(|replier| {
            self.originator.is_finished(&replier) && replier.is_finished(&self.originator)
        })
    }

    /// Draws the conclusions from what both sides have sent.
    fn settle(&mut self) -> TcpEffect {
        let Some(replier) = self.replier else { return TcpEffect::Continue };
        let originator = self.originator;
        let opened = originator.grant.is_some() && replier.grant.is_some();
        let fin = originator.fin.is_some() || replier.fin.is_some();
        let finished = self.is_finished();
        let from = self.state;
        for (seen, event) in
            [(opened, Event::Opened), (fin, Event::Fin), (finished, Event::Finished)]
        {
            if seen {
                self.state = self.state.after(event);
            }
        }
        self.moved(from)
    }

    fn advance(&mut self, event: Event) -> TcpEffect {
        let from = self.state;
        self.state = from.after(event);
        self.moved(from)
    }

    fn moved(&self, from: TcpState) -> TcpEffect {
        if from == self.state {
            TcpEffect::Continue
        } else {
            TcpEffect::Moved { from, to: self.state }
        }
    }
}

#[cfg(test)]
mod tests;
