//! What programs note in a flow: usage, and how far its windows are. The node reads it, and notes what it has seen itself.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use super::flow::{FlowUsage, TcpAnswer, TcpWindow};
use super::layout::{ANSWERED, Flow, OPENING, Past, SENT_FIN, SHIFT, UNSCALED};
use super::table::SEEN_SHIFT;

impl Flow {
    /// Before anything was done for it, with its windows; of TCP, scales too.
    pub(super) fn start(&self, tcp: Option<[TcpWindow; 2]>) {
        for direction in 0..2 {
            let window = tcp.map(|windows| windows[direction]).unwrap_or_default();
            let side = &self.sides[direction];
            side.end.store(window.end, Relaxed);
            side.ack.store(window.ack, Relaxed);
            side.edge.store(window.edge, Relaxed);
            let fin = if window.fin { SENT_FIN } else { 0 };
            side.window.store(window.window | fin, Relaxed);
            self.shifts[direction].store(window.shift, Relaxed);
            self.packets[direction].store(0, Relaxed);
            self.bytes[direction].store(0, Relaxed);
            self.last_seen[direction].store(0, Relaxed);
        }
    }

    /// The node has seen its windows move on.
    pub(super) fn move_on(&self, tcp: Option<[TcpWindow; 2]>) {
        // Programs may know more of one who has not answered, for all that the node knows.
        let is_answered = tcp.is_some_and(|[_, replier]| replier.window > 0);
        let windows = tcp.iter().flatten().filter(|_| is_answered);
        for (side, window) in self.sides.iter().zip(windows) {
            advance(&side.end, window.end);
            advance(&side.ack, window.ack);
            advance(&side.edge, window.edge);
            widen(&side.window, window.window);
            if window.fin {
                side.window.fetch_or(SENT_FIN, Release);
            }
        }
    }

    /// What was done since this was asked last, which goes to what was done before, and where windows stand.
    pub(super) fn take_usage(&self, past: &Past) -> FlowUsage {
        let seen = |direction: usize| {
            let units = u64::from(self.last_seen[direction].load(Relaxed));
            // The end of the unit: nothing is given up too early.
            Duration::from_nanos(if units == 0 { 0 } else { (units + 1) << SEEN_SHIFT })
        };
        let packets = self.packets.each_ref().map(take);
        let bytes = self.bytes.each_ref().map(take);
        if packets != [0, 0] {
            past.add(packets, bytes);
        }
        let shifts = self.shifts.each_ref().map(|shift| shift.load(Relaxed));
        let is_unscaled = (shifts[0] | shifts[1]) & UNSCALED != 0;
        FlowUsage {
            packets,
            bytes,
            last_seen: [0, 1].map(seen),
            tcp: [0, 1].map(|direction: usize| {
                let side = &self.sides[direction];
                // A FIN is written behind its end.
                let window = side.window.load(Acquire);
                TcpWindow {
                    end: side.end.load(Relaxed),
                    ack: side.ack.load(Relaxed),
                    edge: side.edge.load(Relaxed),
                    window: window & !SENT_FIN,
                    shift: if is_unscaled { 0 } else { shifts[direction] & SHIFT },
                    fin: window & SENT_FIN != 0,
                    opening: direction == 0 && shifts[0] & OPENING != 0 && packets[0] == 0,
                    unscaled: false,
                }
            }),
            answer: (shifts[1] & ANSWERED != 0).then(|| TcpAnswer {
                sequence: past.sequence.load(Relaxed),
                shift: (shifts[1] & UNSCALED == 0).then_some(shifts[1] & SHIFT),
            }),
        }
    }
}

/// Empties a counter. Most are empty, and a load costs less.
fn take(counter: &AtomicU64) -> u64 {
    if counter.load(Relaxed) == 0 { 0 } else { counter.swap(0, Relaxed) }
}

/// Moves a sequence number forward; the programs do at the same time.
fn advance(field: &AtomicU32, value: u32) {
    let is_later = |seen: u32| value.wrapping_sub(seen).cast_signed() > 0;
    let _ = field.fetch_update(Relaxed, Relaxed, |seen| is_later(seen).then_some(value));
}

/// Notes a larger window, beside which the programs may note a FIN.
fn widen(field: &AtomicU32, window: u32) {
    let _ = field.fetch_update(Relaxed, Relaxed, |seen| {
        (window > seen & !SENT_FIN).then_some(window | seen & SENT_FIN)
    });
}
