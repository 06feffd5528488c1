//! The two tables of the connection's life: which rule a segment falls under, and which state
//! follows from what was learnt.

use crate::address::Direction;
use crate::packet::TcpFlags;

use Direction::{Original, Reply};
use Kind::{Ack, Fin, Rst, Syn, SynAck};
use TcpState::{Closed, Closing, Established, SynReceived, SynSent};

/// The state of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// SYN seen from the originator.
    SynSent,
    /// SYN seen from both (SYN-ACK, or simultaneous open), not yet acknowledged.
    SynReceived,
    Established,
    /// A FIN was seen from either side.
    Closing,
    /// An exact RST, or both FINs acknowledged. Kept for a while so that the tuple is not taken by
    /// a stray segment; a SYN may open it anew.
    Closed,
}

/// What a segment is by its flags. The parser has dropped those that mix SYN, FIN and RST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Syn,
    SynAck,
    /// Data or nothing, acknowledging.
    Ack,
    Fin,
    Rst,
}

impl Kind {
    /// `None` for a segment that is neither SYN nor RST and acknowledges nothing: RFC 9293 section
    /// 3.10.7.4 has it dropped in every state.
    pub(super) const fn of(flags: TcpFlags) -> Option<Self> {
        match flags {
            TcpFlags { rst: true, .. } => Some(Rst),
            TcpFlags { syn: true, ack: true, .. } => Some(SynAck),
            TcpFlags { syn: true, ack: false, .. } => Some(Syn),
            TcpFlags { ack: false, .. } => None,
            TcpFlags { fin: true, .. } => Some(Fin),
            TcpFlags { fin: false, .. } => Some(Ack),
        }
    }
}

/// The rule that a segment falls under; each is one method of the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// No correct host sends this now.
    Refuse,
    /// The originator's SYN again, or another attempt.
    Retry,
    /// The originator takes its SYN back.
    Abort,
    /// The other side's SYN, with or without ACK.
    Answer,
    /// An ACK of another life of the connection (RFC 9293 section 3.5.1).
    HalfOpen,
    /// The other side refuses the SYN.
    Refusal,
    /// A SYN of the originator on a connection that is there.
    Renew,
    /// A SYN of the other side on a connection that is there (RFC 5961 section 4).
    Challenge,
    /// A SYN-ACK of the other side: again, or another.
    Repeat,
    /// What only simultaneous open brings about (RFC 9293 section 3.5, figure 7).
    Meet,
    /// Ordinary segments: windows decide.
    Follow,
    /// A RST (RFC 5961 section 3).
    Reset,
    /// A SYN on a closed connection.
    Reopen,
    /// What may still be under way when the connection is closed.
    Linger,
}

pub(super) const fn rule(state: TcpState, direction: Direction, kind: Kind) -> Rule {
    match (state, direction, kind) {
        (SynSent, Original, Syn) => Rule::Retry,
        (SynSent, Original, SynAck | Ack | Fin) => Rule::Refuse,
        (SynSent, Original, Rst) => Rule::Abort,
        (SynSent, Reply, Syn | SynAck) => Rule::Answer,
        (SynSent, Reply, Ack) => Rule::HalfOpen,
        (SynSent, Reply, Fin) => Rule::Refuse,
        (SynSent, Reply, Rst) => Rule::Refusal,

        (SynReceived, Original, Syn) => Rule::Renew,
        (SynReceived, Original, SynAck) => Rule::Meet,
        (SynReceived, Reply, Syn) => Rule::Meet,
        (SynReceived, Reply, SynAck) => Rule::Repeat,
        (SynReceived, Original | Reply, Ack | Fin) => Rule::Follow,
        (SynReceived, Original | Reply, Rst) => Rule::Reset,

        (Established | Closing, Original, Syn) => Rule::Renew,
        (Established | Closing, Reply, Syn) => Rule::Challenge,
        (Established | Closing, Original, SynAck) => Rule::Meet,
        (Established | Closing, Reply, SynAck) => Rule::Repeat,
        (Established | Closing, Original | Reply, Ack | Fin) => Rule::Follow,
        (Established | Closing, Original | Reply, Rst) => Rule::Reset,

        (Closed, Original | Reply, Syn) => Rule::Reopen,
        (Closed, Original | Reply, SynAck | Ack | Fin) => Rule::Linger,
        (Closed, Original | Reply, Rst) => Rule::Reset,
    }
}

/// What accepted segments have proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Both sides have sent a SYN.
    Answered,
    /// Both SYNs are acknowledged.
    Opened,
    /// One side has sent a FIN.
    Fin,
    /// Both FINs are acknowledged.
    Finished,
    /// One side has given the connection up with a RST.
    Reset,
}

impl TcpState {
    /// The state that follows. A FIN counts when the handshake is complete, not before.
    pub(super) const fn after(self, event: Event) -> Self {
        match (self, event) {
            (SynSent, Event::Answered) => SynReceived,
            (SynSent, Event::Opened | Event::Fin | Event::Finished) => SynSent,
            (SynReceived, Event::Opened) => Established,
            (SynReceived, Event::Answered | Event::Fin | Event::Finished) => SynReceived,
            (Established, Event::Fin) => Closing,
            (Established, Event::Answered | Event::Opened | Event::Finished) => Established,
            (Closing, Event::Finished) => Closed,
            (Closing, Event::Answered | Event::Opened | Event::Fin) => Closing,
            (SynSent | SynReceived | Established | Closing, Event::Reset) => Closed,
            (
                Closed,
                Event::Answered | Event::Opened | Event::Fin | Event::Finished | Event::Reset,
            ) => Closed,
        }
    }
}
