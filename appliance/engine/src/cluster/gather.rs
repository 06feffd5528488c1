//! Datagrams that another node hands over in fragments: kept here until they are whole, as those are that
//! come in by an interface.

use super::NodeId;
use super::receive::Arrived;
use super::rendezvous::Pair;
use crate::admit::is_opening;
use crate::datagrams::as_one;
use crate::fragments::KeptFragment;
use crate::packet::{Packet, Segment};
use crate::{DropReason, Engine, FlowKey, Frame, Offload, Time, Verdict};

impl Engine {
    /// Takes a fragment that another node hands over.
    pub(super) fn take_wrapped_fragment(
        &mut self,
        now: Time,
        arrived: &Arrived,
        frame: &Frame<'_>,
        packet: &Packet,
    ) -> Verdict {
        let fragments = match self.gather(now, arrived.from, frame, packet) {
            Ok(fragments) => fragments,
            Err(verdict) => return verdict,
        };
        let whole = fragments.first().map(|first| as_one(&first.packet, &fragments));
        let Some((whole, key)) = whole.and_then(|whole| Some((whole, whole.key()?))) else {
            return self.drop_datagram(&fragments, DropReason::FragmentInvalid);
        };
        let Arrived { from, wrapping, .. } = arrived;
        if self.is_repeated(now, wrapping) {
            self.tell_hint(wrapping, Pair::from(key));
            return self.drop_datagram(&fragments, DropReason::PeerReplayed);
        }
        if self.is_for_here(now, wrapping.origin, &whole, key) {
            self.note_handled(now, wrapping);
            let find = Self::find_here(Some(wrapping.origin));
            let verdict = self.decide_datagram(now, *from, fragments, find);
            self.tell_hint(wrapping, Pair::from(key));
            return verdict;
        }
        self.pass_datagram_on(now, arrived, fragments, key)
    }

    /// Whether the datagram is of a flow of this node's, or begins one that is.
    fn is_for_here(&mut self, now: Time, by: NodeId, whole: &Packet, key: FlowKey) -> bool {
        let found = self.flows.find(&key).or_else(|| self.adopt_for(now, &key, whole, Some(by)));
        if let Some((slot, _)) = found
            && self.doubted(now, slot, key).is_none()
            && !self.has_expired(now, slot)
        {
            return true;
        }
        matches!(&whole.segment, Segment::Tcp(tcp) if is_opening(tcp))
            || self.translator.mappings.find_external(key.protocol, key.destination).is_some()
    }

    fn pass_datagram_on(
        &mut self,
        now: Time,
        arrived: &Arrived,
        fragments: Vec<KeptFragment>,
        key: FlowKey,
    ) -> Verdict {
        let others = fragments.len() - 1;
        let mut verdict = Verdict::Held;
        for (place, KeptFragment { mut bytes, packet }) in fragments.into_iter().enumerate() {
            // Held ones wait together, and go to a peer one by one; all else is said of the datagram.
            let is_each = matches!(verdict, Verdict::Held | Verdict::ToPeer { .. });
            if is_each {
                let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
                verdict = self
                    .pass_on(now, arrived, &mut frame, &packet, key)
                    .unwrap_or_else(|refusal| Verdict::Drop(refusal.reason));
            }
            if place != others && verdict != Verdict::Held {
                self.counters.release(verdict, 1);
            }
        }
        verdict
    }

    /// The verdict on the fragment that came last; the others were held.
    fn drop_datagram(&mut self, fragments: &[KeptFragment], reason: DropReason) -> Verdict {
        let others = fragments.len().saturating_sub(1) as u64;
        self.counters.release(Verdict::Drop(reason), others);
        Verdict::Drop(reason)
    }
}
