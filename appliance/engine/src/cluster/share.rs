//! What other nodes know of the flows that this one owns.

use super::NodeId;
use super::message::{Birth, Term};
use crate::flows::Slot;

/// Registrations of one flow.
pub(crate) const SIDES: usize = 5;

/// Which of its keys each of them is of, and whether it is one with a worker of the owner's machine.
pub(crate) const KEY_OF_SIDE: [u8; SIDES] = [0, 1, 1, 0, 1];
pub(crate) const BESIDE: [u8; 2] = [3, 4];

/// What was said of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share {
    pub(crate) term: Term,
    /// None of one that another node has.
    pub(crate) birth: Birth,
    /// Of the last record that was sent.
    pub(crate) version: u32,
    /// Where its keys are registered: the first and the second with those who are asked for them once the owner's machine
    /// has gone, the second with whoever gives out the port that is in it, and the first and the second with
    /// those who are asked for them now, where these are on the owner's machine.
    pub(crate) holders: [Option<NodeId>; SIDES],
    pub(super) marks: u32,
    /// The pause of this node's after which its ownership was last known.
    pub(crate) doubt: u16,
    /// The loss of a peer after which its windows were last learnt anew.
    pub(crate) losses: u16,
    /// Megabytes that it had moved, and seconds at which it was to expire, when the last record was sent.
    pub(crate) moved: u16,
    pub(crate) expires: u32,
    /// The nodes that packets of each direction come in by; the default where none has come.
    pub(crate) legs: [NodeId; 2],
}

/// Whether an item about it waits to be sent.
pub(crate) const REGISTER_WAITS: [u32; SIDES] = [1, 1 << 1, 1 << 2, 1 << 15, 1 << 16];
pub(crate) const RECORD_WAITS: u32 = 1 << 3;
/// What the holders have acknowledged.
pub(crate) const REGISTERED: [u32; SIDES] = [1 << 4, 1 << 5, 1 << 6, 1 << 17, 1 << 18];
/// The backup has a record of it.
pub(crate) const COVERED: u32 = 1 << 7;
/// A record of it is to be kept elsewhere.
pub(crate) const REPLICATED: u32 = 1 << 8;
pub(crate) const ESTABLISHED: u32 = 1 << 9;
/// It has been offered to another node.
pub(crate) const OFFERED: u32 = 1 << 10;
/// Its first packet waits until all holders know of it.
pub(crate) const AWAITED: u32 = 1 << 11;
/// Its packets have gone on since its last record, and it waits for the next.
pub(crate) const BEHIND: u32 = 1 << 12;

/// Its originator has taken another answer than the one that has come back here.
pub(crate) const REFUTED: u32 = 1 << 14;

/// It is over, and waits for what may still come of it.
pub(crate) const CLOSED: u32 = 1 << 13;

/// By slot; memory is used as flows come.
#[derive(Debug)]
pub(crate) struct Shares {
    shares: Vec<Share>,
    pub(crate) established: u64,
    pub(crate) covered: u64,
    pub(crate) closed: u64,
}

impl Share {
    pub(crate) const fn has(&self, mark: u32) -> bool {
        self.marks & mark != 0
    }

    /// Whether all who are asked for its keys know of it.
    pub(crate) fn is_known(&self) -> bool {
        let mut holders = self.holders.iter().zip(REGISTERED);
        holders.all(|(holder, registered)| holder.is_none() || self.has(registered))
    }
}

impl Shares {
    pub(crate) fn new(flows: u32) -> Self {
        Self { shares: Vec::with_capacity(flows as usize), established: 0, covered: 0, closed: 0 }
    }

    /// A flow has begun in this slot.
    pub(crate) fn begin(&mut self, slot: Slot, share: Share) {
        let place = slot.0 as usize;
        if self.shares.len() <= place {
            self.shares.resize(place + 1, Share::default());
        }
        self.end(slot);
        self.shares[place] = share;
    }

    /// The flow in this slot has ended; what was said of it.
    pub(crate) fn end(&mut self, slot: Slot) -> Share {
        let share = self.get(slot);
        self.mark(slot, ESTABLISHED | COVERED | CLOSED, false);
        share
    }

    pub(crate) fn get(&self, slot: Slot) -> Share {
        self.shares.get(slot.0 as usize).copied().unwrap_or_default()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Share> {
        self.shares.get_mut(slot.0 as usize)
    }

    /// Sets or clears marks, and keeps count of those that count.
    pub(crate) fn mark(&mut self, slot: Slot, marks: u32, on: bool) {
        let Some(share) = self.shares.get_mut(slot.0 as usize) else { return };
        let before = share.marks;
        share.marks = if on { before | marks } else { before & !marks };
        let change =
            |mark: u32, after: u32| i64::from(after & mark != 0) - i64::from(before & mark != 0);
        let after = share.marks;
        let covered = |marks: u32| marks & (ESTABLISHED | COVERED) == ESTABLISHED | COVERED;
        self.established = self.established.saturating_add_signed(change(ESTABLISHED, after));
        self.closed = self.closed.saturating_add_signed(change(CLOSED, after));
        let more = i64::from(covered(after)) - i64::from(covered(before));
        self.covered = self.covered.saturating_add_signed(more);
    }
}
