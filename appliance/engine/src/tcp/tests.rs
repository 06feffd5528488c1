//! Tests of the tracker: the tables, each RFC rule by name, and (`hosts`) two endpoints over a bad
//! network.
#![allow(clippy::unwrap_used)]

mod ending;
mod hosts;
mod opening;
mod tables;
mod windows;

use super::*;
use crate::packet::TcpFlags;
use Direction::{Original, Reply};
use TcpEffect::{Continue, Moved, NoRefresh, Reopen};
use TcpState::{Closed, Closing, Established, SynReceived, SynSent};

/// The client's and the server's initial sequence numbers; the client's wraps soon.
const C: u32 = u32::MAX - 100;
const S: u32 = 5_000;

const DROPPED_WINDOW: Result<TcpEffect, DropReason> = Err(DropReason::TcpWindow);
const DROPPED_STATE: Result<TcpEffect, DropReason> = Err(DropReason::TcpState);

/// A segment by its flags ("S", "SA", "A", "FA", "R", "RA"), at `sequence`.
fn segment(flags: &str, sequence: u32, acknowledgement: u32) -> TcpSegment {
    TcpSegment {
        source_port: 1,
        destination_port: 2,
        sequence,
        acknowledgement,
        flags: TcpFlags {
            syn: flags.contains('S'),
            ack: flags.contains('A'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
            psh: false,
            urg: false,
        },
        window: 10_000,
        payload: 0,
        window_scale: None,
    }
}

impl TcpSegment {
    fn payload(self, payload: u32) -> Self {
        Self { payload, ..self }
    }

    fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    fn scale(self, scale: u8) -> Self {
        Self { window_scale: Some(scale), ..self }
    }
}

/// A dialogue with one tracker; sequence numbers count from each side's own initial one.
struct Dialogue(TcpTracker);

impl Dialogue {
    fn open() -> Self {
        Self(TcpTracker::open(&segment("S", C, 0)))
    }

    fn answered() -> Self {
        let mut dialogue = Self::open();
        let moved = dialogue.server(segment("SA", 0, 1));
        assert_eq!(moved, Ok(Moved { from: SynSent, to: SynReceived }));
        dialogue
    }

    fn established() -> Self {
        let mut dialogue = Self::answered();
        let moved = dialogue.client(segment("A", 1, 1));
        assert_eq!(moved, Ok(Moved { from: SynReceived, to: Established }));
        dialogue
    }

    /// Closed by FINs of both sides, the client's first.
    fn finished() -> Self {
        let mut dialogue = Self::established();
        assert_eq!(
            dialogue.client(segment("FA", 1, 1)),
            Ok(Moved { from: Established, to: Closing })
        );
        assert_eq!(dialogue.server(segment("FA", 1, 2)), Ok(Continue));
        assert_eq!(dialogue.client(segment("A", 2, 2)), Ok(Moved { from: Closing, to: Closed }));
        dialogue
    }

    /// Closed by a RST of the server.
    fn reset() -> Self {
        let mut dialogue = Self::established();
        assert_eq!(
            dialogue.server(segment("R", 1, 0)),
            Ok(Moved { from: Established, to: Closed })
        );
        dialogue
    }

    fn client(&mut self, segment: TcpSegment) -> Result<TcpEffect, DropReason> {
        self.handle(Original, segment, C, S)
    }

    fn server(&mut self, segment: TcpSegment) -> Result<TcpEffect, DropReason> {
        self.handle(Reply, segment, S, C)
    }

    fn handle(
        &mut self,
        direction: Direction,
        relative: TcpSegment,
        own: u32,
        other: u32,
    ) -> Result<TcpEffect, DropReason> {
        let before = self.0;
        let segment = TcpSegment {
            sequence: relative.sequence.wrapping_add(own),
            acknowledgement: relative.acknowledgement.wrapping_add(other),
            ..relative
        };
        let result = self.0.handle_segment(direction, &segment);
        if result.is_err() || result == Ok(Reopen) {
            assert_eq!(self.0, before, "a segment that does not pass changes nothing");
        }
        result
    }
}
