//! What has passed the engine, and with it the judgement whether a frame that was dropped was worth
//! anything: read by another parser, knowing nothing of the tracker's windows.

use std::collections::BTreeSet;

use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use gabion_engine::DropReason;

/// Client and server: index by the sender.
#[derive(Debug, Default)]
pub(super) struct Seen {
    sides: [Side; 2],
    /// Everything that has passed, by its sender.
    frames: [BTreeSet<Vec<u8>>; 2],
    pub(super) dropped: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Side {
    /// The highest acknowledgement that has passed, and the furthest edge that it granted.
    ack: Option<u32>,
    edge: Option<u32>,
    /// Window scale of its SYN.
    scale: Option<u8>,
    has_reset: bool,
}

#[derive(Debug)]
struct Segment {
    end: u32,
    has_content: bool,
    ack: Option<u32>,
    window: u16,
    scale: Option<u8>,
    is_syn: bool,
    is_reset: bool,
}

impl Segment {
    fn read(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("not TCP") };
        let length = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
        Self {
            end: tcp.sequence_number().wrapping_add(length),
            has_content: length > 0,
            ack: tcp.ack().then_some(tcp.acknowledgment_number()),
            window: tcp.window_size(),
            scale: tcp.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::WindowScale(shift)) => Some(shift),
                _ => None,
            }),
            is_syn: tcp.syn(),
            is_reset: tcp.rst(),
        }
    }
}

impl Seen {
    pub(super) fn passed(&mut self, from: usize, frame: &[u8]) {
        let segment = Segment::read(frame);
        let side = &mut self.sides[from];
        side.has_reset |= segment.is_reset;
        if segment.is_syn {
            side.scale = segment.scale;
        }
        let shift = if segment.is_syn { None } else { side.scale.and(self.sides[1 - from].scale) };
        let side = &mut self.sides[from];
        let shift = shift.and(side.scale).unwrap_or(0);
        if let Some(ack) = segment.ack {
            let edge = ack.wrapping_add(u32::from(segment.window) << shift);
            side.ack = Some(side.ack.map_or(ack, |old| latest(old, ack)));
            side.edge = Some(side.edge.map_or(edge, |old| latest(old, edge)));
        }
        self.frames[from].insert(frame[14..].to_vec());
    }

    /// Nothing is lost where the other side has acknowledged everything in the segment, and this
    /// side's acknowledgement, or a later one, has passed. A window update is as old as the
    /// acknowledgement that it came with.
    pub(super) fn dropped(
        &mut self,
        from: usize,
        frame: &[u8],
        reason: DropReason,
    ) -> Result<(), String> {
        self.dropped += 1;
        let segment = Segment::read(frame);
        let [own, other] = [self.sides[from], self.sides[1 - from]];
        let covered = |seen: Option<u32>, mark: u32| seen.is_some_and(|ack| is_at_most(mark, ack));
        let content = !segment.has_content || covered(other.ack, segment.end);
        let acknowledgement = segment.ack.is_none_or(|ack| covered(own.ack, ack));
        let is_copy = self.frames[from].contains(&frame[14..]);
        // smoltcp may send a segment larger than a window that is smaller than a segment.
        let is_wrong =
            other.edge.is_some_and(|edge| !is_at_most(segment.end, edge.wrapping_add(1)));
        let over = own.has_reset || other.has_reset;
        if is_wrong || (content && acknowledgement) || over && is_copy {
            return Ok(());
        }
        let what = gabion_tests::words::describe(frame, gabion_engine::Offload::default());
        Err(format!(
            "dropped as {}, and of use: {what} {segment:?} {own:?} {other:?}",
            reason.label()
        ))
    }
}

fn latest(a: u32, b: u32) -> u32 {
    if is_at_most(a, b) { b } else { a }
}

fn is_at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}
