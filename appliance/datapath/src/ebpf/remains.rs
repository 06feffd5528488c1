//! What a table tells a later process, and what one finds in it.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::flow::{FlowPlace, FlowRemains, Past};
use super::index::Seeds;
use super::layout::{self, Control, Flow, KIND, KIND_LEGS, LAYOUT};
use super::table::{FlowTable, JUDGEMENT, Places, SEEN_SHIFT, TCP};
use crate::Port;

impl layout::Past {
    /// Adds what has been taken from the flow's own counters.
    pub(super) fn add(&self, packets: [u64; 2], bytes: [u64; 2]) {
        for at in 0..2 {
            // The node alone writes these.
            self.packets[at].store(self.packets[at].load(Relaxed) + packets[at], Relaxed);
            self.bytes[at].store(self.bytes[at].load(Relaxed) + bytes[at], Relaxed);
        }
    }
}

impl Control {
    /// Says what the tables are, as the last thing about new ones.
    pub(super) fn introduce(&self, seeds: Seeds) {
        self.seeds[0].store(seeds.a, Relaxed);
        self.seeds[1].store(seeds.b, Relaxed);
        self.layout.store(LAYOUT, Release);
    }

    /// The judgement is good for so long from now on, or for ever.
    pub(super) fn confirm(&self, lasts: Option<Duration>) {
        // To the end of the unit: no sooner.
        let until = lasts.map_or(0, |lasts| units(monotonic() + lasts) + 1);
        if self.confirmed.load(Relaxed) != until {
            self.confirmed.store(until, Release);
        }
    }

    /// Flows are moved that other nodes hand packets over of for so long from now on; not at all where there are no others.
    pub(super) fn confirm_between(&self, lasts: Option<Duration>) {
        // Modulo 2^32, to the end of the unit; zero is not at all.
        let until = lasts.map_or(0, |lasts| ((monotonic() + lasts).as_nanos() >> 24) as u32 + 1);
        if self.between.load(Relaxed) != until {
            self.between.store(until, Release);
        }
    }

    fn is_confirmed(&self) -> bool {
        let until = self.confirmed.load(Relaxed);
        until == 0 || units(monotonic()) <= until
    }

    /// The seeds of tables that mean what they would here.
    pub(super) fn seeds(&self) -> Option<Seeds> {
        let [a, b] = self.seeds.each_ref().map(|seed| seed.load(Relaxed));
        (self.layout.load(Relaxed) == LAYOUT).then_some(Seeds { a, b })
    }
}

impl FlowTable {
    /// Makes good what an end in the middle of something has left, and finds what is free.
    pub(super) fn recover(&mut self) {
        let control = &self.control[usize::from(self.part.worker)];
        // In the middle of taking over, hops of two processes are named, and this one would write over those of one.
        // And what is not moved any more is not to be moved again before it is judged.
        if control.resuming.load(Relaxed) != 0 || !control.is_confirmed() {
            control.stamp.store(0, Release);
        }
        self.half = 1 - control.hops.load(Relaxed).min(1);
        let mut flows = vec![false; self.part.count as usize];
        let mut wide = vec![false; self.part.count as usize];
        for (slot, flow) in self.flows[self.part.slots()].iter().enumerate() {
            if !flow.is_used() {
                continue;
            }
            // Other nodes take such flows over. What is another's goes on to that one until this process can do so.
            if flow.shifts[0].load(Relaxed) & KIND == KIND_LEGS {
                flow.turn.fetch_or(1, Release);
                continue;
            }
            if flow.version.load(Relaxed) == 6 {
                let place =
                    flow.addresses[0][0].load(Relaxed).wrapping_sub(self.part.first) as usize;
                // Nothing but a fault of this machine's writes another.
                let Some(is_used) = wide.get_mut(place) else {
                    flow.turn.fetch_or(1, Release);
                    continue;
                };
                *is_used = true;
            }
            flows[slot] = true;
        }
        self.free = Places::but(flows.len() as u32, &flows);
        self.free_wide = Places::but(wide.len() as u32, &wide);
    }

    /// Has the index lead nowhere where nobody is, and forgets whose keys were: once, when all workers have recovered.
    pub(super) fn recover_shared(&self) {
        self.index.keep(|slot| self.flows.get(slot as usize).is_some_and(Flow::is_used));
        self.shards.clear();
    }

    /// The judgement that an earlier process has left in force; zero for none.
    pub fn stamp(&self) -> u32 {
        self.control[usize::from(self.part.worker)].stamp.load(Relaxed) & JUDGEMENT
    }

    /// How many places there are; from now on flows of two processes may be there, and only this one says to whom packets
    /// are handed over.
    pub fn begin_resuming(&self) -> u32 {
        self.control[usize::from(self.part.worker)].resuming.store(1, Release);
        if self.part.worker == 0 {
            self.peers.close();
        }
        self.part.count
    }

    /// The flow that an earlier process has left at a place; `None` also where its packets came in by an interface
    /// that is no port.
    pub fn remains(&mut self, place: FlowPlace) -> Option<FlowRemains> {
        let flow = &self.flows[self.slot(place)];
        if !flow.is_used() {
            return None;
        }
        let keys = self.keys(place);
        let usage = self.take_usage(place);
        let past = &self.pasts[self.slot(place)];
        let load = |words: &[std::sync::atomic::AtomicU64; 2]| {
            words.each_ref().map(|word| word.load(Relaxed))
        };
        let [from, to] = past.ingress.each_ref().map(|interface| {
            let interface = interface.load(Relaxed);
            self.ports.port(interface)
        });
        let seen = Duration::from_nanos(past.seen.load(Relaxed));
        Some(FlowRemains {
            keys,
            tcp: (keys[0].protocol == TCP).then_some(usage.tcp),
            seen: usage.last_seen.into_iter().fold(seen, Duration::max),
            past: Past {
                opened: Duration::from_nanos(past.opened.load(Relaxed)),
                seen,
                ingress: from.zip(to).map(|(from, to)| [from, to]),
                packets: load(&past.packets),
                bytes: load(&past.bytes),
            },
        })
    }

    /// Notes what a later process will want to know of the flow.
    pub fn note(&mut self, place: FlowPlace, past: &Past) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let ingress = past.ingress.map(|ports| ports.map(|port: Port| self.ports.interface(port)));
        let note = &self.pasts[self.slot(place)];
        note.opened.store(nanos(past.opened), Relaxed);
        note.seen.store(nanos(past.seen), Relaxed);
        for at in 0..2 {
            let interface = ingress.and_then(|interfaces| interfaces[at]).unwrap_or(0);
            note.ingress[at].store(interface, Relaxed);
            note.packets[at].store(past.packets[at], Relaxed);
            note.bytes[at].store(past.bytes[at], Relaxed);
        }
    }
}

pub(super) fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// The programs' time.
pub(super) fn units(monotonic: Duration) -> u32 {
    u32::try_from(monotonic.as_nanos() >> SEEN_SHIFT).unwrap_or(u32::MAX)
}
