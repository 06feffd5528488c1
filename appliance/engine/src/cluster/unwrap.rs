//! Wrapped packets as they come: one by one, or several in a buffer, of which those that a superframe was cut into are
//! decided as one again.

use std::ops::Range;

use super::wrap::{Flags, Wrapping, is_of_kernel, left_by_kernel, left_undone};
use super::{NodeId, WRAPPED_FRAME};
use crate::join::{Run, Sums};
use crate::{DropReason, Engine, Offload, Time, Verdict, cut};

/// How far UDP payloads have been decided that came together from one peer, one behind the other.
#[derive(Debug)]
pub struct Datagrams {
    stride: usize,
    /// Payload of the segments of a superframe that a kernel has wrapped whole.
    size: Option<u16>,
    at: usize,
    /// The next one, if it has been opened already.
    next: Option<Piece>,
}

/// What became of some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwrapped {
    pub verdict: Verdict,
    /// Where in the buffer the frame is that is forwarded, and what is left undone in it.
    pub frame: Range<usize>,
    pub offload: Offload,
}

#[derive(Debug)]
struct Piece {
    wrapping: Wrapping,
    frame: Range<usize>,
    undone: Offload,
}

impl Datagrams {
    /// Of `stride` bytes each, the last one of what is left.
    pub const fn new(stride: usize) -> Self {
        Self { stride, size: None, at: 0, next: None }
    }

    /// One that may be a superframe as a peer's kernel has wrapped it: its segments carry so many bytes.
    #[must_use]
    pub const fn of_segments(self, size: u16) -> Self {
        Self { size: Some(size), ..self }
    }

    /// Whether all that there is in so many bytes has been decided.
    pub const fn is_empty(&self, length: usize) -> bool {
        self.at >= length && self.next.is_none()
    }
}

impl Piece {
    /// Whether it is nothing but a part of its flow: nobody waits for word of it.
    fn is_plain(&self) -> bool {
        self.wrapping.ask == 0 && self.wrapping.flags.without(Flags::UNSUMMED) == Flags::default()
    }

    const fn sums(&self) -> Sums {
        if self.undone.checksum.is_partial() { Sums::Left } else { Sums::Whole }
    }
}

impl Engine {
    /// Takes the UDP payload of a peer's wrapped packet. What is forwarded stands from [`WRAPPED_FRAME`]
    /// on, and its checksum is whole.
    pub fn handle_wrapped(&mut self, now: Time, from: NodeId, datagram: &mut [u8]) -> Verdict {
        let verdict = match self.open_piece(now, from, datagram, 0, None) {
            Ok(Piece { wrapping, frame, undone }) => {
                let frame = &mut datagram[frame];
                cut::complete(frame, undone.checksum);
                self.take_wrapped(now, from, wrapping, frame, Offload::default())
            }
            Err(reason) => Verdict::Drop(reason),
        };
        self.count_unwrapped(verdict)
    }

    /// Takes the next of several in `bytes`, together with those behind it that make one superframe; `None` where there is none.
    pub fn handle_datagrams(
        &mut self,
        now: Time,
        from: NodeId,
        bytes: &mut [u8],
        datagrams: &mut Datagrams,
    ) -> Option<Unwrapped> {
        let first = match self.open_next(now, from, bytes, datagrams)? {
            Ok(piece) => piece,
            Err(reason) => {
                let verdict = self.count_unwrapped(Verdict::Drop(reason));
                return Some(Unwrapped { verdict, frame: 0..0, offload: Offload::default() });
            }
        };
        let at = first.frame.start;
        let mut run = Run::new(&bytes[first.frame.clone()], first.sums());
        while first.is_plain() && first.undone.segments.is_none() && run.is_open() {
            let Some(opened) = self.open_next(now, from, bytes, datagrams) else { break };
            let piece = match opened {
                Ok(piece) => piece,
                Err(reason) => {
                    self.count_unwrapped(Verdict::Drop(reason));
                    continue;
                }
            };
            let place = piece.frame.start - at..piece.frame.end - at;
            if piece.wrapping != first.wrapping || !run.join(&mut bytes[at..], place) {
                datagrams.next = Some(piece);
                break;
            }
        }
        let (length, joined) = run.finish(&mut bytes[at..]);
        let frame = at..at + length;
        let offload = if joined.segments.is_some() { joined } else { first.undone };
        let decided = &mut bytes[frame.clone()];
        let verdict = self.take_wrapped(now, from, first.wrapping, decided, offload);
        Some(Unwrapped { verdict: self.count_unwrapped(verdict), frame, offload })
    }

    fn open_next(
        &mut self,
        now: Time,
        from: NodeId,
        bytes: &mut [u8],
        datagrams: &mut Datagrams,
    ) -> Option<Result<Piece, DropReason>> {
        if let Some(piece) = datagrams.next.take() {
            return Some(Ok(piece));
        }
        let Datagrams { stride, size, at, .. } = datagrams;
        let begin = *at;
        let end = begin.saturating_add((*stride).max(1)).min(bytes.len());
        *at = end;
        (begin < end).then(|| self.open_piece(now, from, &mut bytes[begin..end], begin, *size))
    }

    /// Opens a datagram that stands at `at` of its buffer.
    fn open_piece(
        &mut self,
        now: Time,
        from: NodeId,
        datagram: &mut [u8],
        at: usize,
        size: Option<u16>,
    ) -> Result<Piece, DropReason> {
        let is_of_kernel = is_of_kernel(datagram);
        let wrapping = self.open_wrapped(now, from, datagram)?;
        let frame = &datagram[WRAPPED_FRAME..];
        let undone = if is_of_kernel {
            left_by_kernel(frame, size).ok_or(DropReason::PeerMalformed)?
        } else if wrapping.flags.has(Flags::UNSUMMED) {
            let checksum = left_undone(frame).ok_or(DropReason::PeerMalformed)?;
            Offload { checksum, segments: None }
        } else {
            Offload::default()
        };
        Ok(Piece { wrapping, frame: at + WRAPPED_FRAME..at + datagram.len(), undone })
    }

    fn count_unwrapped(&mut self, verdict: Verdict) -> Verdict {
        self.counters.frames_in += 1;
        self.counters.count(verdict, 1);
        verdict
    }
}
