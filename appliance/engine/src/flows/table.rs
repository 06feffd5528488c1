//! All flows, and how they are found.

use std::hint::black_box;

use super::entry::{Entry, Kind};
use super::{Admission, Flow, Slot};
use crate::address::Endpoint;
use crate::event::{FlowReport, Generation};
use crate::hash::KeyedHash;
use crate::index::{Index, MEMORY_STEP};
use crate::places::Places;
use crate::rewrite::Rewrite;
use crate::timers::{Links, Slab};
use crate::{Address, Direction, Family, FlowKey};

/// All flows; memory is allocated once, and used as flows come.
#[derive(Debug)]
pub(crate) struct FlowTable {
    /// Grows up to its capacity, which it has from the start.
    entries: Vec<Entry>,
    /// Slots that were used and are free again.
    free: Vec<u32>,
    /// The addresses of flows whose addresses do not fit into an entry.
    wide: Places<Wide>,
    capacity: u32,
    /// Each flow twice: its slot, doubled, plus one for the reply key.
    index: Index,
    /// Seeded, so that nobody outside can choose tuples that collide.
    hash: KeyedHash,
    /// Of all flows that there were.
    newest: Generation,
}

/// Source and destination of both keys: a line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Wide([[Address; 2]; 2]);

/// An id that a key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Guess(Option<u32>);

/// A key as it is compared with what stands in an entry.
struct Sought {
    addresses: u64,
    ports: u32,
    protocol: u8,
    wide: Option<[Address; 2]>,
}

impl FlowTable {
    pub(crate) fn new(capacity: u32, key: [u8; 16]) -> Self {
        let places = capacity as usize;
        Self {
            entries: Vec::with_capacity(places),
            free: Vec::with_capacity(places),
            wide: Places::new(places),
            capacity,
            index: Index::new(2 * places),
            hash: KeyedHash::new(key),
            newest: Generation(0),
        }
    }

    /// Has the system give all memory that packets of established flows will read; calls `turn` now
    /// and then. To be called before there is a flow.
    pub(crate) fn take_memory(&mut self, mut turn: impl FnMut()) {
        if !self.entries.is_empty() {
            return;
        }
        self.index.take_memory(&mut turn);
        let places = self.capacity as usize;
        while self.entries.len() < places {
            let more = self.entries.len() + MEMORY_STEP / size_of::<Entry>();
            self.entries.resize(more.min(places), Entry::free());
            turn();
        }
        // What is dropped is written, and stays in memory.
        self.entries.clear();
    }

    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.hash.flow(key)
    }

    pub(crate) fn find(&self, key: &FlowKey) -> Option<(Slot, Direction)> {
        let sought = Sought::new(key);
        self.index.find(self.hash(key), |id| self.is(id, &sought)).map(place_of)
    }

    /// Loads into the cache what `find_guessed` will look at for each of these hashes, and guesses
    /// which ids it will find. One lookup waits for memory twice, or three times; those of a batch
    /// wait together.
    pub(crate) fn guess(&self, hashes: &[u64], guesses: &mut [Guess]) {
        let buckets = hashes.iter().map(|hash| self.index.touch(*hash));
        black_box(buckets.fold(0, u32::wrapping_add));
        for (hash, guess) in hashes.iter().zip(&mut *guesses) {
            *guess = Guess(self.index.guess(*hash));
        }
        // A loop that does nothing else: a processor looks ahead some hundred instructions.
        let entries = guesses.iter().filter_map(|guess| self.guessed(*guess));
        black_box(entries.fold(0, |loaded, entry| loaded ^ entry.ports[0]));
        let mut loaded = 0;
        for entry in guesses.iter().filter_map(|guess| self.guessed(*guess)) {
            if entry.is_wide() {
                let [[source, _], _] = self.wide[entry.addresses[0] as u32].0;
                loaded ^= source.words()[0];
            }
        }
        black_box(loaded);
    }

    /// Loads the rest of the flows that were guessed, for those that will use them.
    pub(crate) fn load(&self, guesses: &[Guess]) {
        let entries = guesses.iter().filter_map(|guess| self.guessed(*guess));
        black_box(
            entries.fold(0, |loaded, entry| loaded ^ entry.id().0 ^ u64::from(entry.timer.next())),
        );
    }

    /// `find` for a key whose hash is known, and what was guessed for it: a guess may be wrong.
    pub(crate) fn find_guessed(
        &self,
        hash: u64,
        guess: Guess,
        key: &FlowKey,
    ) -> Option<(Slot, Direction)> {
        let sought = Sought::new(key);
        let right = guess.0.filter(|id| {
            self.guessed(guess).is_some_and(|entry| entry.kind != Kind::Free)
                && self.is(*id, &sought)
        });
        Some(place_of(right.or_else(|| self.index.find(hash, |id| self.is(id, &sought)))?))
    }

    fn guessed(&self, guess: Guess) -> Option<&Entry> {
        self.entries.get(guess.0? as usize >> 1)
    }

    /// Adds a flow; `None` when the table has no place for it. The caller has seen that neither key
    /// is taken.
    pub(crate) fn insert(&mut self, flow: &Flow) -> Option<Slot> {
        let slot = self.free.last().copied().or_else(|| self.fresh())?;
        let hashes = [flow.original, flow.reply].map(|key| self.hash(&key));
        if !self.index.insert(hashes[0], slot << 1) {
            return None;
        }
        if !self.index.insert(hashes[1], slot << 1 | 1) {
            self.index.remove(hashes[0], slot << 1);
            return None;
        }
        self.newest = self.newest.max(flow.admission.generation);
        let entry = self.pack(flow);
        if self.free.pop().is_some() {
            self.entries[slot as usize] = entry;
        } else {
            self.entries.push(entry);
        }
        Some(Slot(slot))
    }

    /// The first slot that was never used.
    fn fresh(&self) -> Option<u32> {
        let slot = self.entries.len() as u32;
        (slot < self.capacity).then_some(slot)
    }

    fn pack(&mut self, flow: &Flow) -> Entry {
        let keys = [flow.original, flow.reply];
        let sought = keys.each_ref().map(Sought::new);
        let wide = keys.map(|key| [key.source.address, key.destination.address]);
        let is_wide = sought.iter().any(|key| key.wide.is_some());
        let mut entry = Entry::new(flow, is_wide);
        if is_wide {
            let place = self.wide.put(Wide(wide));
            entry.addresses = [place.into(); 2];
        } else {
            entry.addresses = sought.map(|key| key.addresses);
        }
        entry
    }

    /// Takes a flow out. Its timer has been cancelled.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Flow> {
        let flow = self.read(slot)?;
        for (side, key) in (0u32..).zip([flow.original, flow.reply]) {
            self.index.remove(self.hash(&key), slot.0 << 1 | side);
        }
        let entry = &mut self.entries[slot.0 as usize];
        entry.kind = Kind::Free;
        if entry.is_wide() {
            self.wide.give_back(entry.addresses[0] as u32);
        }
        self.free.push(slot.0);
        Some(flow)
    }

    /// The flow in the slot, if there is one.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot.0 as usize).filter(|entry| entry.kind != Kind::Free)
    }

    /// All that is known of the flow in the slot, if there is one.
    pub(crate) fn read(&self, slot: Slot) -> Option<Flow> {
        let entry = self.get(slot)?;
        let keys = Direction::BOTH.map(|way| self.stored_key(entry, way));
        Some(entry.flow(keys, self.widen(entry.generation())))
    }

    /// What can be told of the flow in the slot, if there is one.
    pub(crate) fn report(&self, slot: Slot) -> Option<FlowReport> {
        self.read(slot).map(|flow| flow.report())
    }

    /// The key of packets of a direction as they come in.
    ///
    /// # Panics
    /// Where the slot is free.
    pub(crate) fn key(&self, slot: Slot, direction: Direction) -> FlowKey {
        self.stored_key(&self[slot], direction)
    }

    /// What packets of a direction are changed into.
    ///
    /// # Panics
    /// Where the slot is free.
    pub(crate) fn rewrite(&self, slot: Slot, direction: Direction) -> Rewrite {
        let entry = &self[slot];
        if entry.is_plain() {
            return Rewrite::default();
        }
        let leaving = self.stored_key(entry, direction.reversed()).reversed();
        Rewrite::between(&self.stored_key(entry, direction), &leaving)
    }

    /// # Panics
    /// Where the slot is free.
    pub(crate) fn set_admission(&mut self, slot: Slot, admission: &Admission) {
        self.newest = self.newest.max(admission.generation);
        self[slot].set_admission(admission);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    pub(crate) fn len(&self) -> u32 {
        (self.entries.len() - self.free.len()) as u32
    }

    /// Slots from here on were never used.
    pub(crate) fn slots(&self) -> u32 {
        self.entries.len() as u32
    }

    fn is(&self, id: u32, sought: &Sought) -> bool {
        let (entry, side) = (&self.entries[id as usize >> 1], id as usize & 1);
        if entry.ports[side] != sought.ports || entry.protocol != sought.protocol {
            return false;
        }
        match &sought.wide {
            None => entry.addresses[side] == sought.addresses && !entry.is_wide(),
            Some(wide) => entry.is_wide() && self.wide[entry.addresses[0] as u32].0[side] == *wide,
        }
    }

    fn stored_key(&self, entry: &Entry, direction: Direction) -> FlowKey {
        let side = direction.index();
        let addresses = entry.addresses[side];
        let [source, destination] = if entry.is_wide() {
            self.wide[addresses as u32].0[side]
        } else {
            [addresses as u32, (addresses >> 32) as u32]
                .map(|address| Address::from(address.to_le_bytes()))
        };
        let ports = entry.ports[side];
        FlowKey {
            source: Endpoint { address: source, port: ports as u16 },
            destination: Endpoint { address: destination, port: (ports >> 16) as u16 },
            protocol: entry.protocol,
        }
    }

    /// The generation with this lower half: the last one that is not newer than the newest.
    const fn widen(&self, lower: u32) -> Generation {
        let newest = self.newest.0;
        Generation(newest - (newest as u32).wrapping_sub(lower) as u64)
    }
}

impl Slab for FlowTable {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.entries[index as usize].timer
    }
}

impl std::ops::Index<Slot> for FlowTable {
    type Output = Entry;

    /// # Panics
    /// Where the slot is free: slots come from `find` and `insert` and do not outlive their flow.
    fn index(&self, slot: Slot) -> &Entry {
        self.get(slot).expect("the slot holds a flow")
    }
}

impl std::ops::IndexMut<Slot> for FlowTable {
    fn index_mut(&mut self, slot: Slot) -> &mut Entry {
        let entry = &mut self.entries[slot.0 as usize];
        assert!(entry.kind != Kind::Free, "the slot holds a flow");
        entry
    }
}

fn place_of(id: u32) -> (Slot, Direction) {
    (Slot(id >> 1), if id & 1 == 0 { Direction::Original } else { Direction::Reply })
}

impl Sought {
    fn new(key: &FlowKey) -> Self {
        let (source, destination) = (key.source, key.destination);
        let [_, low_source] = source.address.words();
        let [_, low_destination] = destination.address.words();
        let is_wide = [source, destination].iter().any(|end| end.address.family() == Family::Ipv6);
        Self {
            addresses: low_source >> 32 | low_destination >> 32 << 32,
            ports: u32::from(source.port) | u32::from(destination.port) << 16,
            protocol: key.protocol,
            wide: is_wide.then_some([source.address, destination.address]),
        }
    }
}

#[cfg(test)]
mod tests;
