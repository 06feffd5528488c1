//! Plain integers: one verdict counter per frame.

use crate::{DropReason, Usage, Verdict};

/// What became of every frame so far. `frames_in` = the sum of all verdicts + `held`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    pub frames_in: u64,
    pub forwarded: u64,
    /// Frames that were handed to peers.
    pub to_peers: u64,
    /// Frames that were handed to other workers, which count them anew.
    pub to_workers: u64,
    pub local: u64,
    pub answered: u64,
    pub dropped: [u64; DropReason::ALL.len()],
    pub rejected: [u64; DropReason::ALL.len()],
    /// Frames kept for now: fragments, and packets that wait for a neighbour.
    pub held: u64,
    /// Events that found the queue full.
    pub events_lost: u64,
    /// Answers (ICMP errors, RSTs) that were sent, and those that the rate limit kept back.
    pub answers_sent: u64,
    pub answers_limited: u64,
    /// Flows that were over or had not shown that they live, and made room for others at a limit.
    pub evicted: u64,
}

/// What one rule has done since its name first appeared in a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCounters {
    /// First packets that the rule decided or, for a monitor rule, saw.
    pub hits: u64,
    /// All packets and bytes of the flows that it allowed.
    pub usage: Usage,
    pub last_hit: Option<crate::Time>,
}

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableUse {
    pub name: &'static str,
    pub used: u64,
    pub limit: u64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            frames_in: 0,
            forwarded: 0,
            to_peers: 0,
            to_workers: 0,
            local: 0,
            answered: 0,
            dropped: [0; DropReason::ALL.len()],
            rejected: [0; DropReason::ALL.len()],
            held: 0,
            events_lost: 0,
            answers_sent: 0,
            answers_limited: 0,
            evicted: 0,
        }
    }

    /// Counts a frame's verdict; `Held` waits for its final one.
    pub(crate) fn count(&mut self, verdict: Verdict, frames: u64) {
        match verdict {
            Verdict::Forward { .. } | Verdict::Queued { .. } => self.forwarded += frames,
            Verdict::ToPeer { .. } => self.to_peers += frames,
            Verdict::ToWorker { .. } => self.to_workers += frames,
            Verdict::Local => self.local += frames,
            Verdict::Answered => self.answered += frames,
            Verdict::Held => self.held += frames,
            Verdict::Drop(reason) => self.dropped[reason.index()] += frames,
            Verdict::Reject(reason) => self.rejected[reason.index()] += frames,
        }
    }

    /// The final verdict of frames that were held until now.
    pub(crate) fn release(&mut self, verdict: Verdict, frames: u64) {
        self.held -= frames;
        self.count(verdict, frames);
    }

    /// A frame that went to a peer is decided anew from its copy.
    pub(crate) fn recall_from_peer(&mut self) {
        self.to_peers -= 1;
        self.held += 1;
    }

    /// Frames with a final verdict.
    pub fn decided(&self) -> u64 {
        self.forwarded
            + self.to_peers
            + self.to_workers
            + self.local
            + self.answered
            + self.dropped.iter().sum::<u64>()
            + self.rejected.iter().sum::<u64>()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()]
    }

    pub fn rejected(&self, reason: DropReason) -> u64 {
        self.rejected[reason.index()]
    }
}
