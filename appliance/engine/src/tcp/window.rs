//! Windows: what each side has sent, and how far the other has let it go.

use crate::fast_path::{FastAnswer, FastWindow};
use crate::packet::TcpSegment;
use crate::verdict::DropReason;

/// One side of a connection, from its SYN on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Side {
    /// The sequence number of its SYN.
    pub(super) isn: u32,
    /// One beyond the highest sequence number sent; SYN and FIN count.
    pub(super) end: u32,
    /// What it has acknowledged and granted; `None` until its first ACK.
    pub(super) grant: Option<Grant>,
    /// The largest window that it has granted, scaled, at least 1.
    pub(super) window: u32,
    /// From its SYN. Applies only if both SYNs carry the option (RFC 7323 section 2.2).
    pub(super) scale: Option<u8>,
    /// One beyond its FIN.
    pub(super) fin: Option<u32>,
    /// It has repeated its FIN, or since the connection was closed anything, or has sent a RST: the
    /// other may answer after the close.
    pub(super) repeated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// The highest acknowledgement.
    pub(super) ack: u32,
    /// The furthest right edge. One that was taken back (RFC 9293 section 3.8.6) still counts: the
    /// other side may have used it.
    pub(super) edge: u32,
}

/// What a SYN says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syn {
    pub(super) isn: u32,
    pub(super) end: u32,
    pub(super) ack: Option<u32>,
    pub(super) window: u16,
    pub(super) scale: Option<u8>,
}

/// RFC 7323 section 2.3: larger shifts are taken for this.
pub(super) const MAX_SHIFT: u8 = 14;

/// How far below the oldest byte in flight a correct segment may start: a keep-alive lies one below
/// (RFC 9293 section 3.8.4), and a FIN may lie in flight without having counted against the window.
const BELOW_FLIGHT: u32 = 2;

impl Syn {
    pub(super) fn of(segment: &TcpSegment) -> Self {
        Self {
            isn: segment.sequence,
            end: end(segment),
            ack: segment.flags.ack.then_some(segment.acknowledgement),
            window: segment.window,
            scale: segment.window_scale,
        }
    }

    /// Whether `acknowledgement` covers this SYN and nothing that was not sent with it.
    pub(super) fn is_acknowledged_by(&self, acknowledgement: u32) -> bool {
        covers_syn(self.isn, self.end, acknowledgement)
    }
}

impl Side {
    /// A side that has sent this SYN, with or without ACK.
    pub(super) fn opened(syn: Syn) -> Self {
        let window = u32::from(syn.window).max(1);
        Self {
            isn: syn.isn,
            end: syn.end,
            grant: syn.ack.map(|ack| Grant { ack, edge: ack.wrapping_add(window) }),
            window,
            scale: syn.scale,
            fin: None,
            repeated: false,
        }
    }

    /// Notes the same SYN again, which may leave options or data out: what allows more stays.
    pub(super) fn note_syn(&mut self, syn: Syn) {
        self.end = latest(self.end, syn.end);
        self.window = self.window.max(u32::from(syn.window));
        self.scale = self.scale.max(syn.scale);
    }

    /// Whether this side may send the segment to `receiver` (van Rooij section 4, RFC 9293 section
    /// 3.10.7.4, RFC 5961 section 5.2). The segment carries an ACK.
    pub(super) fn may_send(&self, receiver: &Self, segment: &TcpSegment) -> Result<(), DropReason> {
        if !self.is_between_edges(receiver, segment) || !self.may_acknowledge(receiver, segment) {
            return Err(DropReason::TcpWindow);
        }
        self.respects_fin(segment)
    }

    /// Notes a segment that this side was allowed to send to `receiver`.
    pub(super) fn note(&mut self, receiver: &Self, segment: &TcpSegment) {
        self.end = latest(self.end, end(segment));
        if segment.flags.fin {
            self.repeated |= self.fin.is_some();
            self.fin = Some(end(segment));
        }
        // What the SYN has granted still counts.
        let granted = self.edge(receiver);
        let window = self.scaled_window(receiver, segment);
        self.window = self.window.max(window);
        if segment.flags.ack {
            let ack = segment.acknowledgement;
            let edge = latest(granted, ack.wrapping_add(window));
            self.grant = Some(match self.grant {
                None => Grant { ack, edge },
                Some(seen) => Grant { ack: latest(seen.ack, ack), edge },
            });
        }
    }

    /// Takes what somebody else has seen of this side.
    pub(super) fn merge(&mut self, seen: &Self) {
        self.end = latest(self.end, seen.end);
        self.fin = self.fin.or(seen.fin);
        self.window = self.window.max(seen.window);
        self.repeated |= seen.repeated;
        self.grant = match (self.grant, seen.grant) {
            (Some(one), Some(other)) => {
                Some(Grant { ack: latest(one.ack, other.ack), edge: latest(one.edge, other.edge) })
            }
            (one, other) => one.or(other),
        };
    }

    /// As a table keeps it that moves segments by itself.
    pub(super) fn settled(&self, receiver: &Self) -> FastWindow {
        let shift = self.scale.zip(receiver.scale).map_or(0, |(shift, _)| shift.min(MAX_SHIFT));
        FastWindow {
            end: self.end,
            ack: self.expected(receiver),
            edge: self.edge(receiver),
            window: self.window,
            shift,
            fin: self.fin.is_some(),
            opening: self.grant.is_none(),
            unscaled: false,
        }
    }

    /// The same of one whom nobody has answered; `None` where it has sent more than its SYN.
    pub(super) fn asking(&self) -> Option<FastWindow> {
        (self.end == self.isn.wrapping_add(1)).then(|| FastWindow {
            end: self.end,
            window: self.window,
            shift: self.scale.map_or(0, |shift| shift.min(MAX_SHIFT)),
            opening: true,
            unscaled: self.scale.is_none(),
            ..FastWindow::default()
        })
    }

    /// One of whom such a table has seen the SYN, and perhaps more.
    pub(super) fn answered(answer: &FastAnswer, seen: &FastWindow) -> Self {
        Self { isn: answer.sequence, scale: answer.shift, ..Self::settled_at(seen) }
    }

    /// A side of an established connection of which only this is known: its SYN is long gone.
    pub(super) fn settled_at(seen: &FastWindow) -> Self {
        /// Where no segment can be taken for the SYN: farther back than any window reaches (RFC 7323 section 2.3).
        const LONG_GONE: u32 = 1 << 30;
        let FastWindow { end, ack, edge, window, shift, fin, .. } = *seen;
        Self {
            isn: end.wrapping_sub(LONG_GONE),
            end,
            grant: Some(Grant { ack, edge }),
            window,
            scale: Some(shift),
            fin: fin.then_some(end),
            repeated: false,
        }
    }

    /// Both sides of a connection whose originator has sent nothing but its SYN.
    pub(super) fn opening_at(originator: &FastWindow, replier: &FastWindow) -> [Self; 2] {
        let [one, other] = [originator, replier].map(Self::settled_at);
        let isn = |end: u32| end.wrapping_sub(1);
        [Self { isn: isn(one.end), grant: None, ..one }, Self { isn: isn(originator.ack), ..other }]
    }

    /// Takes what such a table has seen since; whether it has moved anything of this side's.
    pub(super) fn note_moved(&mut self, seen: &FastWindow, moved: bool) {
        if self.fin.is_none() {
            self.end = latest(self.end, seen.end);
            self.fin = seen.fin.then_some(self.end);
        }
        self.window = self.window.max(seen.window);
        if let Some(grant) = &mut self.grant {
            grant.ack = latest(grant.ack, seen.ack);
            grant.edge = latest(grant.edge, seen.edge);
        } else if moved {
            self.grant = Some(Grant { ack: seen.ack, edge: seen.edge });
        }
    }

    /// The next sequence number that this side is known to expect from `sender`.
    pub(super) fn expected(&self, sender: &Self) -> u32 {
        self.grant.map_or_else(|| sender.isn.wrapping_add(1), |grant| grant.ack)
    }

    /// How far this side lets `sender` go. The window of a SYN counts from the other's SYN.
    pub(super) fn edge(&self, sender: &Self) -> u32 {
        self.grant.map_or_else(
            || sender.isn.wrapping_add(1).wrapping_add(self.window),
            |grant| grant.edge,
        )
    }

    /// Whether `acknowledgement` covers this side's SYN and nothing that was not sent.
    pub(super) fn syn_is_acknowledged_by(&self, acknowledgement: u32) -> bool {
        covers_syn(self.isn, self.end, acknowledgement)
    }

    /// Whether this side has sent a FIN and `receiver` has acknowledged it.
    pub(super) fn is_finished(&self, receiver: &Self) -> bool {
        self.fin.zip(receiver.grant).is_some_and(|(fin, grant)| is_at_most(fin, grant.ack))
    }

    fn is_between_edges(&self, receiver: &Self, segment: &TcpSegment) -> bool {
        // A FIN does not count against the window, so an empty segment behind one lies one beyond.
        let beyond = u32::from(segment.payload == 0);
        let right = receiver.edge(self).wrapping_add(beyond);
        let begins = match self.grant {
            // A segment that starts below may still bring what is missing: its end counts.
            Some(_) => {
                let oldest = self.end.wrapping_sub(receiver.window).wrapping_sub(BELOW_FLIGHT);
                is_at_most(oldest, end(segment))
            }
            // The ACK that completes the handshake lies behind the SYN.
            None => {
                let first = self.isn.wrapping_add(u32::from(!segment.flags.syn));
                is_at_most(first, segment.sequence)
            }
        };
        begins && is_at_most(data_end(segment), right)
    }

    fn may_acknowledge(&self, receiver: &Self, segment: &TcpSegment) -> bool {
        let oldest = match self.grant {
            Some(grant) => grant.ack.wrapping_sub(self.window),
            None => receiver.isn.wrapping_add(1),
        };
        is_at_most(oldest, segment.acknowledgement)
            && is_at_most(segment.acknowledgement, receiver.end)
    }

    /// Nothing follows a FIN, and a FIN follows everything.
    fn respects_fin(&self, segment: &TcpSegment) -> Result<(), DropReason> {
        let sound = match (self.fin, segment.flags.fin) {
            (Some(fin), true) => end(segment) == fin,
            // A keep-alive may put its byte of garbage where the FIN was.
            (Some(fin), false) => is_at_most(data_end(segment), fin),
            (None, true) => is_at_most(self.end, end(segment)),
            (None, false) => true,
        };
        if sound { Ok(()) } else { Err(DropReason::TcpState) }
    }

    /// The window that a segment grants, at least 1: a byte may always probe (RFC 9293 section
    /// 3.8.6.1). That of a SYN is never scaled (RFC 7323 section 2.2).
    fn scaled_window(&self, receiver: &Self, segment: &TcpSegment) -> u32 {
        let shift = match (self.scale, receiver.scale) {
            (Some(shift), Some(_)) if !segment.flags.syn => shift.min(MAX_SHIFT),
            (Some(_) | None, Some(_) | None) => 0,
        };
        (u32::from(segment.window) << shift).max(1)
    }
}

/// Whether `acknowledgement` covers the SYN at `isn` and nothing from `end` on.
fn covers_syn(isn: u32, end: u32, acknowledgement: u32) -> bool {
    is_at_most(isn.wrapping_add(1), acknowledgement) && is_at_most(acknowledgement, end)
}

/// One beyond the segment's last sequence number but for the FIN.
fn data_end(segment: &TcpSegment) -> u32 {
    segment.sequence.wrapping_add(segment.payload).wrapping_add(u32::from(segment.flags.syn))
}

/// One beyond the segment's last sequence number.
pub(super) fn end(segment: &TcpSegment) -> u32 {
    data_end(segment).wrapping_add(u32::from(segment.flags.fin))
}

/// Whether `a` lies at or before `b`, modulo 2^32 (RFC 9293 section 3.4).
pub(super) const fn is_at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

const fn latest(a: u32, b: u32) -> u32 {
    if is_at_most(a, b) { b } else { a }
}
