//! A packet of a known flow: is it one, by zone, policy and TCP state?

use std::time::Duration;

use gabion_rules::{RuleId, Timeouts};

use crate::event::{CloseReason, Event, FlowState};
use crate::flows::{Slot, Tracker};
use crate::judge::Refusal;
use crate::packet::{Packet, Segment};
use crate::recheck::{FLOWS_PER_TURN, Standing};
use crate::reply::IcmpError;
use crate::tcp::{TcpEffect, TcpState};
use crate::{Direction, DropReason, Engine, InterfaceId, Time};

/// What a packet with a flow's key turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Followed {
    /// One of the flow's.
    Pass,
    /// The flow has gone: the packet is to be taken as a first one.
    Gone,
}

impl Engine {
    /// Checks a packet against the flow whose key it has, and moves the flow's state.
    pub(crate) fn follow(
        &mut self,
        now: Time,
        slot: Slot,
        direction: Direction,
        from: InterfaceId,
        packet: &Packet,
    ) -> Result<Followed, Refusal> {
        self.take_usage(now, slot);
        if self.has_expired(now, slot) {
            return Ok(Followed::Gone);
        }
        if self.flows[slot].is_filtered() {
            return filtered(direction);
        }
        match self.still_permitted(now, slot) {
            Standing::Permitted => {}
            Standing::Revoked => return Ok(Followed::Gone),
            Standing::Unroutable => {
                return Err(Refusal::answered(DropReason::NoRoute, IcmpError::NoRoute));
            }
        }
        if self.topology.zone(from) != Some(self.flows[slot].zone(direction)) {
            return Err(DropReason::WrongZone.into());
        }
        if !self.homes.are_of(slot, direction, &packet.homes) {
            return Err(DropReason::ExtensionHeader.into());
        }
        if packet.hop_limit <= 1 {
            // What ends here never gets to its receiver and must not move the flow's state.
            return Err(Refusal::answered(DropReason::TtlExpired, IcmpError::TimeExceeded));
        }
        self.check_query(slot, direction, from, packet)?;
        self.relearn(slot);
        if self.ends_lost_leg(now, slot, direction, packet) {
            return Err(DropReason::LegLost.into());
        }
        let tracked = self.track(slot, direction, packet);
        if tracked.is_err() {
            self.doubt_answer(slot, direction, packet);
        }
        let (tracker, effect, is_answered) = tracked?;
        self.flows[slot].set_tracker(&tracker);
        self.withdraw_changed(now, slot, &tracker, effect);
        match effect {
            TcpEffect::Reopen => {
                self.remove_flow(now, slot, CloseReason::Reopened);
                return Ok(Followed::Gone);
            }
            TcpEffect::NoRefresh => {}
            TcpEffect::Continue => self.refresh(now, slot, &tracker),
            TcpEffect::Moved { to, .. } => self.moved(now, slot, &tracker, to),
        }
        if is_answered || matches!(effect, TcpEffect::Moved { .. }) {
            self.tell_change(slot, &tracker);
        }
        Ok(Followed::Pass)
    }

    /// What the packet makes of the flow's state, and whether it is the first answer to one that has no
    /// other states.
    fn track(
        &mut self,
        slot: Slot,
        direction: Direction,
        packet: &Packet,
    ) -> Result<(Tracker, TcpEffect, bool), Refusal> {
        let flow = &mut self.flows[slot];
        // RFC 7857 section 7: strangers do not keep the way in open that the inside has left.
        let is_stranger = direction == Direction::Original && flow.is_stranger();
        let mut tracker = flow.tracker();
        let mut is_answered = false;
        let effect = match (&mut tracker, &packet.segment) {
            (Tracker::Tcp(tcp), Segment::Tcp(segment)) => tcp.handle_segment(direction, segment)?,
            (
                Tracker::Udp { replied }
                | Tracker::Icmp { replied, .. }
                | Tracker::Association { replied }
                | Tracker::Other { replied },
                _,
            ) => {
                if direction == Direction::Reply {
                    let is_first = !std::mem::replace(replied, true);
                    self.translator.adopt(flow.guest_of().filter(|_| is_first));
                    is_answered = is_first;
                } else if *replied && flow.is_expendable() {
                    flow.set_expendable(false);
                    self.expendable.remove(slot.0);
                }
                if is_stranger { TcpEffect::NoRefresh } else { TcpEffect::Continue }
            }
            // The keys name the protocol: a TCP flow meets TCP segments only.
            (Tracker::Tcp(_), _) => return Err(DropReason::TcpState.into()),
        };
        Ok((tracker, effect, is_answered))
    }

    /// Starts the idle timer anew. The wheel is touched only where the flow is to end sooner than it
    /// was: it re-arms itself when it fires early.
    pub(crate) fn refresh(&mut self, now: Time, slot: Slot, tracker: &Tracker) {
        let flow = &self.flows[slot];
        let is_judged = self.generation().is_some_and(|generation| flow.is_of(generation));
        let expires = now + self.timeout(is_judged.then_some(flow.rule()), tracker);
        let flow = &mut self.flows[slot];
        let sooner = expires < flow.expires();
        flow.set_expires(expires);
        if sooner {
            self.timers.set(&mut self.flows, slot.0, expires);
        }
    }

    pub(crate) fn moved(&mut self, now: Time, slot: Slot, tracker: &Tracker, to: TcpState) {
        self.refresh(now, slot, tracker);
        let flow = &mut self.flows[slot];
        let is_over = to == TcpState::Closed;
        if flow.is_expendable() != is_over {
            flow.set_expendable(is_over);
            if is_over {
                self.expendable.append(slot.0);
            } else {
                self.expendable.remove(slot.0);
            }
        }
        let flow = &mut self.flows[slot];
        // A SYN that finds its peer restarted makes an established connection half open again.
        let opening = matches!(to, TcpState::SynSent | TcpState::SynReceived);
        if flow.is_half_open() != opening {
            flow.set_half_open(opening);
            let source = self.flows.key(slot, Direction::Original).source.address.into();
            let destination = self.flows.key(slot, Direction::Reply).source;
            if opening {
                self.half_open.add(now, slot, destination);
                self.quotas.add_half_open(source);
            } else {
                self.half_open.take(slot);
                self.quotas.take_half_open(source);
            }
            if matches!(to, TcpState::Established | TcpState::Closing) {
                self.know_source(now, source);
            }
        }
    }

    /// The idle time of a flow in this state, under the policy in force.
    pub(crate) fn timeout(&self, judged_by: Option<RuleId>, tracker: &Tracker) -> Duration {
        let timeouts = self.timeouts(judged_by);
        match tracker {
            Tracker::Tcp(tcp) => tcp.timeout(timeouts),
            Tracker::Udp { replied: true } => timeouts.udp,
            Tracker::Udp { replied: false } => timeouts.udp_unreplied,
            Tracker::Icmp { .. } => timeouts.icmp,
            Tracker::Association { replied: true } => timeouts.tcp_established,
            // RFC 6092 asks 4 min for SCTP (REC-40) and 8 min for DCCP (REC-46).
            Tracker::Association { replied: false } => timeouts.tcp_closing * 2,
            Tracker::Other { .. } => timeouts.other,
        }
    }

    /// Those of the rule that admitted the flow; those of all rules while a new policy has not judged
    /// it yet.
    fn timeouts(&self, judged_by: Option<RuleId>) -> &Timeouts {
        match (&self.policy, judged_by) {
            (Some(policy), Some(rule)) => policy.rules.timeouts(rule),
            (Some(_) | None, _) => &self.settings().timeouts,
        }
    }

    /// Ends flows whose time is up, a bounded number at a time: the wheel says when to go on.
    pub(crate) fn expire_flows(&mut self, now: Time) {
        for _ in 0..FLOWS_PER_TURN {
            let Some(index) = self.timers.poll_expired(&mut self.flows, now) else { return };
            let slot = Slot(index);
            if self.flows.get(slot).is_none() {
                continue;
            }
            if !self.has_expired(now, slot) {
                let expires = self.flows[slot].expires();
                self.timers.set(&mut self.flows, index, expires);
            }
        }
    }

    /// Whether the flow's time is up; it is gone then. Asked before each packet too, as the wheel may
    /// be late.
    pub(crate) fn has_expired(&mut self, now: Time, slot: Slot) -> bool {
        if self.flows[slot].expires() > now {
            return false;
        }
        self.take_usage(now, slot);
        let flow = &self.flows[slot];
        if flow.expires() > now {
            return false;
        }
        let closed = match flow.tracker() {
            Tracker::Tcp(tcp) => matches!(tcp.state(), TcpState::Closing | TcpState::Closed),
            Tracker::Udp { .. }
            | Tracker::Icmp { .. }
            | Tracker::Association { .. }
            | Tracker::Other { .. } => false,
        };
        self.remove_flow(now, slot, if closed { CloseReason::Closed } else { CloseReason::Idle });
        true
    }

    /// Takes a flow out of every table.
    pub(crate) fn remove_flow(&mut self, now: Time, slot: Slot, why: CloseReason) {
        self.withdraw(now, slot);
        self.timers.cancel(&mut self.flows, slot.0);
        let Some(flow) = self.flows.remove(slot) else { return };
        self.sharding.release(&flow);
        self.tell_end(now, slot, &flow);
        self.homes.forget(slot);
        if flow.expendable {
            self.expendable.remove(slot.0);
        }
        let source = flow.original.source.address.into();
        if flow.half_open {
            self.half_open.take(slot);
            self.quotas.take_half_open(source);
        }
        self.quotas.take_flow(source);
        self.translator.release(now, flow.lease, &flow.original, &flow.reply);
        if let Some(id) = flow.guest_of {
            let is_adopted = flow.tracker.state() == FlowState::Replied;
            self.translator.exit(now, id, is_adopted);
        }
        if flow.logged {
            self.journal.push(Event::FlowClosed { flow: flow.report(), why });
        }
    }
}

/// Of a flow that nothing passes by: its sender is judged anew each time, as the mapping at the other
/// end may have opened.
fn filtered(direction: Direction) -> Result<Followed, Refusal> {
    match direction {
        Direction::Original => Ok(Followed::Gone),
        Direction::Reply => Err(DropReason::NatFiltered.into()),
    }
}
