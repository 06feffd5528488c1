//! Link addresses of next hops, and the packets that wait for them.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::address::SourceNetwork;
use crate::event::FlowId;
use crate::fast_path::FastHop;
use crate::flows::Slot;
use crate::limits::Limits;
use crate::{Address, Direction, DropReason, InterfaceId, Offload, Time};

/// How long a packet waits for its neighbour's link address. RFC 1122 section 2.3.2.2 wants at
/// least one packet kept; the kernel asks three times, a second apart.
const WAIT: Duration = Duration::from_secs(3);

/// How long a neighbour that did not answer is taken for dead before it is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// How many neighbours the kernel is asked for in a second that were never known: its table takes
/// 1,024 (gc_thresh3) and a question stands there for three seconds, so that a scan of a network does
/// not crowd out who is there.
const QUESTIONS_PER_SECOND: u32 = 256;

/// The part of the queue, and so of the questions, that one source may take: who scans a network leaves
/// the rest to others.
const PART_OF_SOURCE: u32 = 8;

/// A neighbour in the table. A place is given to another when the table is full and nobody waits
/// there; ids of its former holder are then found to be outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeighbourId {
    place: u32,
    /// Never zero, so that an id that may be missing takes no more room.
    tenancy: NonZeroU32,
}

impl NeighbourId {
    /// As the fast path names it. That a place gets a 65,536th holder while a flow still names the first takes days
    /// at the rate of questions.
    pub(crate) fn fast(self) -> FastHop {
        let tenancy = (self.tenancy.get() - 1) % u32::from(u16::MAX) + 1;
        FastHop { place: self.place, tenancy: tenancy as u16 }
    }
}

/// What is known of a neighbour now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reachability {
    Known([u8; 6]),
    /// Asked for: packets can wait.
    Waiting,
    /// It did not answer lately.
    Dead,
    /// Too many are asked for already.
    NotAsked,
}

#[derive(Debug)]
struct Entry {
    tenancy: NonZeroU32,
    interface: InterfaceId,
    address: Address,
    state: State,
    /// Whether it has ever answered.
    was_known: bool,
    parked: VecDeque<Parked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Known([u8; 6]),
    Waiting { until: Time },
    Dead { until: Time },
}

impl Entry {
    fn new(tenancy: NonZeroU32, interface: InterfaceId, address: Address) -> Self {
        let (state, parked) = (State::Unknown, VecDeque::new());
        Self { tenancy, interface, address, state, was_known: false, parked }
    }
}

/// A packet that waits, rewritten already but for its link addresses.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
    /// Frames that it stands for: of one that was cut, the first part counts and the others do not.
    pub(crate) frames: u32,
    /// Whose part of the queue it takes.
    pub(crate) source: SourceNetwork,
    /// The flow that it belongs to, or is an ICMP error about, and its way.
    pub(crate) slot: Slot,
    pub(crate) flow: FlowId,
    pub(crate) direction: Direction,
}

/// Every next hop in use.
#[derive(Debug)]
pub(crate) struct Neighbours {
    entries: Vec<Entry>,
    index: BTreeMap<(InterfaceId, Address), NeighbourId>,
    parked: u32,
    /// How many packets of each source wait; none that has none.
    shares: BTreeMap<SourceNetwork, u32>,
    /// Frames whose packets have made room for others since `take_given_way`.
    given_way: u32,
    /// The second of the last question about somebody never known, and how many there were in it.
    questions: (Time, u32),
    /// Who was asked for until when. The wait is the same for all: the first are due first.
    waiting: VecDeque<(Time, NeighbourId)>,
    /// Where the search for a place that can be given to another goes on.
    hand: usize,
    limits: Limits,
}

impl Neighbours {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            entries: Vec::new(),
            index: BTreeMap::new(),
            parked: 0,
            shares: BTreeMap::new(),
            given_way: 0,
            questions: (Time::ZERO, 0),
            waiting: VecDeque::new(),
            hand: 0,
            limits: *limits,
        }
    }

    /// The entry for a next hop, made where there is none; `None` when the table is full.
    pub(crate) fn entry(
        &mut self,
        interface: InterfaceId,
        address: Address,
    ) -> Option<NeighbourId> {
        if let Some(id) = self.index.get(&(interface, address)) {
            return Some(*id);
        }
        let place = if !self.is_full() {
            self.entries.push(Entry::new(NonZeroU32::MIN, interface, address));
            self.entries.len() - 1
        } else {
            let place = self.evict()?;
            let tenancy = self.entries[place].tenancy.checked_add(1).unwrap_or(NonZeroU32::MIN);
            self.entries[place] = Entry::new(tenancy, interface, address);
            place
        };
        let tenancy = self.entries[place].tenancy;
        let id = NeighbourId { place: place as u32, tenancy };
        self.index.insert((interface, address), id);
        Some(id)
    }

    /// Takes away the place of a neighbour that no packet waits for; of one that was known only where
    /// there is no other nearby: the kernel can be asked for it again.
    fn evict(&mut self) -> Option<usize> {
        const PLACES_TRIED: usize = 64;
        let mut found = None;
        for _ in 0..PLACES_TRIED.min(self.entries.len()) {
            let place = self.hand;
            self.hand = (place + 1) % self.entries.len();
            let entry = &self.entries[place];
            if entry.parked.is_empty() {
                let known = entry.was_known;
                found = if known { found.or(Some(place)) } else { Some(place) };
                if !known {
                    break;
                }
            }
        }
        let entry = &self.entries[found?];
        self.index.remove(&(entry.interface, entry.address));
        found
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.limits.neighbours as usize
    }

    /// Whether the id still names the neighbour that it was given for.
    pub(crate) fn is_current(&self, id: NeighbourId) -> bool {
        self.entries.get(id.place as usize).is_some_and(|entry| entry.tenancy == id.tenancy)
    }

    /// The interface on which the neighbour is.
    pub(crate) fn interface(&self, id: NeighbourId) -> InterfaceId {
        self.entries[id.place as usize].interface
    }

    /// Its link address, if it is known.
    pub(crate) fn known(&self, id: NeighbourId) -> Option<[u8; 6]> {
        match self.entries[id.place as usize].state {
            State::Known(mac) => Some(mac),
            State::Unknown | State::Waiting { .. } | State::Dead { .. } => None,
        }
    }

    pub(crate) fn find(&self, interface: InterfaceId, address: Address) -> Option<NeighbourId> {
        self.index.get(&(interface, address)).copied()
    }

    /// What is known now, for a packet of `source`. `ask` is told when the kernel has to be asked.
    pub(crate) fn reachability(
        &mut self,
        now: Time,
        id: NeighbourId,
        source: SourceNetwork,
        ask: &mut dyn FnMut(InterfaceId, Address),
    ) -> Reachability {
        let may_wait = self.has_share(source);
        let entry = &mut self.entries[id.place as usize];
        match entry.state {
            State::Known(mac) => Reachability::Known(mac),
            State::Waiting { until } if now < until => Reachability::Waiting,
            State::Dead { until } if now < until => Reachability::Dead,
            State::Unknown | State::Waiting { .. } | State::Dead { .. } => {
                if !may_wait || !entry.was_known && !may_ask(&mut self.questions, now) {
                    return Reachability::NotAsked;
                }
                let until = now + WAIT;
                entry.state = State::Waiting { until };
                ask(entry.interface, entry.address);
                self.await_answer(until, id);
                Reachability::Waiting
            }
        }
    }

    fn await_answer(&mut self, until: Time, id: NeighbourId) {
        if self.waiting.len() >= 2 * self.limits.neighbours as usize {
            // Half of them at least have lost their places to others.
            let Self { waiting, entries, .. } = self;
            waiting.retain(|&(until, id)| {
                let entry = &entries[id.place as usize];
                entry.tenancy == id.tenancy && entry.state == State::Waiting { until }
            });
        }
        self.waiting.push_back((until, id));
    }

    /// Keeps a packet until its neighbour is known.
    ///
    /// # Errors
    /// `NeighbourQueueFull`; the packet is dropped.
    pub(crate) fn park(&mut self, id: NeighbourId, packet: Parked) -> Result<(), DropReason> {
        let crowd = self.entries[id.place as usize].parked.len() as u32;
        if crowd >= self.limits.parked_per_neighbour || !self.has_share(packet.source) {
            return Err(DropReason::NeighbourQueueFull);
        }
        if self.parked >= self.limits.parked && !self.give_way(id) {
            return Err(DropReason::NeighbourQueueFull);
        }
        *self.shares.entry(packet.source).or_default() += 1;
        self.entries[id.place as usize].parked.push_back(packet);
        self.parked += 1;
        Ok(())
    }

    /// Whether one more packet of the source may wait.
    fn has_share(&self, source: SourceNetwork) -> bool {
        let taken = self.shares.get(&source).copied().unwrap_or_default();
        taken < self.limits.parked.div_ceil(PART_OF_SOURCE)
    }

    /// Gives up the packets of the neighbour that was asked for first: who is there answers sooner than
    /// a scan fills the queue. False where that is `newcomer` itself.
    fn give_way(&mut self, newcomer: NeighbourId) -> bool {
        while let Some(&(until, id)) = self.waiting.front() {
            if id == newcomer {
                return false;
            }
            self.waiting.pop_front();
            let is_asked = self.is_current(id)
                && self.entries[id.place as usize].state == (State::Waiting { until });
            if is_asked {
                // The next packet to it asks again.
                self.entries[id.place as usize].state = State::Unknown;
                let lost = self.take_parked(id);
                if !lost.is_empty() {
                    self.given_way += frames(&lost);
                    return true;
                }
            }
        }
        false
    }

    /// Frames that made room for others, once.
    pub(crate) fn take_given_way(&mut self) -> u32 {
        std::mem::take(&mut self.given_way)
    }

    /// The kernel has resolved it: the packets that waited, in their order.
    pub(crate) fn resolve(
        &mut self,
        interface: InterfaceId,
        address: Address,
        mac: [u8; 6],
    ) -> VecDeque<Parked> {
        if self.is_full() && !self.index.contains_key(&(interface, address)) {
            // Who was not asked for makes nobody leave.
            return VecDeque::new();
        }
        let Some(id) = self.entry(interface, address) else { return VecDeque::new() };
        let entry = &mut self.entries[id.place as usize];
        entry.state = State::Known(mac);
        entry.was_known = true;
        self.take_parked(id)
    }

    /// It did not answer: how many packets that waited are lost.
    pub(crate) fn fail(&mut self, now: Time, interface: InterfaceId, address: Address) -> u32 {
        let Some(&id) = self.index.get(&(interface, address)) else { return 0 };
        self.entries[id.place as usize].state = State::Dead { until: now + RETRY };
        frames(&self.take_parked(id))
    }

    /// The kernel has forgotten it: the next packet asks again.
    pub(crate) fn forget(&mut self, interface: InterfaceId, address: Address) {
        if let Some(&id) = self.index.get(&(interface, address)) {
            let entry = &mut self.entries[id.place as usize];
            if matches!(entry.state, State::Known(_)) {
                entry.state = State::Unknown;
            }
        }
    }

    /// Gives up the packets that have waited too long, and returns how many.
    pub(crate) fn expire(&mut self, now: Time) -> u32 {
        let mut lost = 0;
        while let Some(&(until, id)) = self.waiting.front()
            && until <= now
        {
            self.waiting.pop_front();
            // The rest were answered, asked for again, or have lost their place.
            if self.is_current(id)
                && self.entries[id.place as usize].state == (State::Waiting { until })
            {
                self.entries[id.place as usize].state = State::Dead { until: now + RETRY };
                lost += frames(&self.take_parked(id));
            }
        }
        lost
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.waiting.front().map(|&(until, _)| until)
    }

    /// Drops the packets that wait, and returns how many.
    pub(crate) fn drop_parked(&mut self) -> u32 {
        self.parked = 0;
        self.shares.clear();
        self.entries.iter_mut().map(|entry| frames(&std::mem::take(&mut entry.parked))).sum()
    }

    /// Drops everything that is known: the interfaces have changed. Returns how many packets waited.
    pub(crate) fn clear(&mut self) -> u32 {
        let lost = self.drop_parked();
        self.entries.clear();
        self.index.clear();
        self.waiting.clear();
        self.hand = 0;
        lost
    }

    /// Packets that wait.
    pub(crate) const fn parked(&self) -> u32 {
        self.parked
    }

    pub(crate) fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    fn take_parked(&mut self, id: NeighbourId) -> VecDeque<Parked> {
        let parked = std::mem::take(&mut self.entries[id.place as usize].parked);
        self.parked -= parked.len() as u32;
        for packet in &parked {
            if let Some(taken) = self.shares.get_mut(&packet.source) {
                *taken -= 1;
                if *taken == 0 {
                    self.shares.remove(&packet.source);
                }
            }
        }
        parked
    }
}

/// Whether one more question may be asked in this second, and counts it.
fn may_ask((since, asked): &mut (Time, u32), now: Time) -> bool {
    if now.since(*since) >= Duration::from_secs(1) {
        (*since, *asked) = (now, 0);
    }
    let may = *asked < QUESTIONS_PER_SECOND;
    *asked += u32::from(may);
    may
}

fn frames(parked: &VecDeque<Parked>) -> u32 {
    parked.iter().map(|packet| packet.frames).sum()
}

#[cfg(test)]
mod tests;
