//! A connection one side of which still sends by way of a node that has died: load balancers that pin
//! connections do not move them. It would hang for minutes; it is reset instead.

use std::time::Duration;

use super::share::{ADOPTED, RELEARNT};
use crate::event::CloseReason;
use crate::flows::{Slot, Tracker};
use crate::packet::{Packet, Parsed, Segment};
use crate::{Direction, Engine, Frame, Offload, Time, reply};

/// How long the other side may be silent after the death, or after the connection was taken over. It is waited for longer where
/// its round trips are: only a sender that repeats itself has waited in vain.
const SILENCE: Duration = Duration::from_millis(250);

impl Engine {
    /// A peer has gone, or cannot be reached: packets of this node's flows that came to it may pass there
    /// now, or nowhere. Windows are learnt anew, so that one half of a connection is enough to go on with.
    pub(crate) fn relearn(&mut self, slot: Slot) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let losses = cluster.losses;
        let Some(share) = cluster.shares.get_mut(slot).filter(|share| share.losses != losses)
        else {
            return;
        };
        share.losses = losses;
        if let Tracker::Tcp(tcp) = flows[slot].tracker()
            && let Some(loose) = tcp.adopted()
        {
            flows[slot].set_tracker(&Tracker::Tcp(loose));
            cluster.shares.mark(slot, RELEARNT, true);
        }
    }

    /// Whether a packet goes to a side from which nothing comes any more.
    pub(crate) fn has_lost_leg(
        &self,
        now: Time,
        slot: Slot,
        direction: Direction,
        packet: &Packet,
    ) -> bool {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.config.reset_lost)
        else {
            return false;
        };
        let Segment::Tcp(segment) = packet.segment else { return false };
        let flow = &self.flows[slot];
        let share = cluster.shares.get(slot);
        let is_concerned = share.has(ADOPTED) || share.has(RELEARNT);
        let since =
            cluster.lost_at.max(if share.has(ADOPTED) { flow.opened() } else { Time::ZERO });
        if !is_concerned || now.since(since) < SILENCE {
            return false;
        }
        let Tracker::Tcp(tcp) = flow.tracker() else { return false };
        tcp.repeats_alone(direction, &segment).is_some()
    }

    /// Tells the side that is not heard that the connection is over: what it expects next is what was
    /// acknowledged last, or all that was sent. The other side is told by the refusal.
    pub(crate) fn reset_lost_leg(&mut self, now: Time, bytes: &[u8], packet: &Packet) {
        let Some((slot, direction)) = packet.key().and_then(|key| self.flows.find(&key)) else {
            return;
        };
        let Segment::Tcp(segment) = packet.segment else { return };
        let Tracker::Tcp(tcp) = self.flows[slot].tracker() else { return };
        let Some(end) = tcp.repeats_alone(direction, &segment) else { return };
        let rewrite = self.flows.rewrite(slot, direction);
        for sequence in [segment.sequence, end] {
            let Some(mut reset) = reply::tcp_reset_onward(bytes, packet, sequence) else {
                continue;
            };
            let mut frame = Frame { bytes: &mut reset, offload: Offload::default() };
            if let Ok(Parsed::Ip(made)) = Packet::parse(&frame) {
                rewrite.apply(&mut frame, &made);
                self.send_routed(now, reset);
            }
        }
        self.remove_flow(now, slot, CloseReason::LegLost);
    }
}
