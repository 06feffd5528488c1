//! Ports of external addresses: allocated at random in constant time, also when nearly all are used.
//!
//! Per address and protocol, each range of ports has its own order in which they are given out.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher13;

use super::bitmap::Bitmap;
use super::blocks::{Blocks, Owned};
use super::order::{Order, REST, Reuse};
use super::reserved::Reserved;
use crate::address::Address;
use crate::packet::protocol;
use crate::{NodeId, Time, WorkerId};

/// Ports below are the system's (RFC 6335 section 6): one class of RFC 4787 REQ-3a, all above the other.
const FIRST_USER_PORT: u16 = 1_024;

/// External addresses with ports in use or remembered, each protocol counted. The first port of one
/// takes 8 KiB, the first of each of its ranges 8 KiB and room for 12 bytes for each port that rests, the
/// first that is shared 8 KiB; no other takes memory. For all of these it would be 3 GiB at the start.
const POOLS_MAX: usize = 4_096;

/// Ranges remembered per address and protocol: twice as many NAT rules as may sensibly share one.
const ORDERS_MAX: usize = 32;

/// The free ports of every external address in use, per protocol.
#[derive(Debug)]
pub(crate) struct PortAllocator {
    pools: BTreeMap<(Address, u8), Pool>,
    reserved: Vec<Reserved>,
    /// Pools of which no port is taken; they make room for others.
    idle: usize,
    /// Orders made so far: each is another permutation.
    orders: u64,
    seed: [u8; 32],
    /// Of a node that has peers.
    blocks: Option<Blocks>,
}

/// A port that is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub address: Address,
    pub protocol: u8,
    pub range: &'a RangeInclusive<u16>,
    /// The inside port: its class is kept.
    pub port: u16,
    pub reuse: Reuse,
}

#[derive(Debug, Default)]
struct Pool {
    taken: Taken,
    /// One for each range; ports of overlapping ranges are in several, and skipped where used.
    orders: Vec<Order>,
    /// When the last port was given back that has to rest.
    freed: Option<Time>,
    /// What is the node's to give out, where others have the rest.
    owned: Option<Box<Owned>>,
}

/// Ports that are not to be given out.
#[derive(Debug, Default)]
struct Taken {
    /// By mappings.
    used: Box<Bitmap>,
    /// By connections that share them (see `SharedPorts`): no mapping gets one of these, as it would
    /// meet those connections' remote endpoints.
    shared: Option<Box<Bitmap>>,
    /// By flows of other nodes, which have taken them over.
    foreign: Option<Box<Bitmap>>,
    /// A mapping may have one of these from before.
    reserved: Vec<RangeInclusive<u16>>,
}

impl PortAllocator {
    /// `seed` keys the permutations; the same seed and calls give the same ports.
    pub(crate) fn new(seed: [u8; 32], blocks: Option<Blocks>) -> Self {
        Self { pools: BTreeMap::new(), reserved: Vec::new(), idle: 0, orders: 0, seed, blocks }
    }

    /// Takes a free port, of the class of the wanted one; `None` when all are taken. Port 0 is never
    /// given out.
    pub(crate) fn allocate(&mut self, now: Time, wanted: &Wanted<'_>) -> Option<u16> {
        let range = class(wanted.range, wanted.port)?;
        let Self { orders, seed, .. } = self;
        let (mut made, seed) = (*orders, *seed);
        let pool = self.pool(now, wanted.address, wanted.protocol)?;
        let was_idle = pool.is_idle();
        let port = pool.take(now, range, wanted.reuse, |owned| {
            made += 1;
            Order::new(range, owned, subkey(&seed, made))
        });
        self.orders = made;
        if was_idle && port.is_some() {
            self.idle -= 1;
        }
        port
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, now: Time, address: Address, protocol: u8, port: u16) {
        let Some(pool) = self.pools.get_mut(&(address, protocol)) else { return };
        if !pool.taken.used.remove(port) {
            return;
        }
        pool.give_back(now, port);
        if protocol != protocol::TCP {
            pool.freed = Some(now);
        }
        self.idle += usize::from(pool.is_idle());
    }

    /// Keeps mappings off a port that connections share; whether there is room to know it.
    pub(crate) fn lend(&mut self, now: Time, address: Address, protocol: u8, port: u16) -> bool {
        let Some(pool) = self.pool(now, address, protocol) else { return false };
        let was_idle = pool.is_idle();
        pool.taken.shared.get_or_insert_default().insert(port);
        self.idle -= usize::from(was_idle);
        true
    }

    /// No connection shares the port any more.
    pub(crate) fn take_back(&mut self, now: Time, address: Address, protocol: u8, port: u16) {
        let Some(pool) = self.pools.get_mut(&(address, protocol)) else { return };
        if !pool.taken.shared.as_mut().is_some_and(|shared| shared.remove(port)) {
            return;
        }
        pool.give_back(now, port);
        self.idle += usize::from(pool.is_idle());
    }

    /// Where to begin to look for a port that connections may share: `port`, or the next one that is the
    /// node's to give out; `None` where none of the range is, or there is no room to know it.
    pub(crate) fn start(
        &mut self,
        now: Time,
        address: Address,
        protocol: u8,
        range: (u16, u16),
        port: u16,
    ) -> Option<u16> {
        match &self.pool(now, address, protocol)?.owned {
            None => Some(port),
            Some(owned) => owned.from(port, range),
        }
    }

    /// Takes this port for a mapping that comes from elsewhere; whether nobody else has it. `release` gives
    /// it back.
    pub(crate) fn claim(&mut self, now: Time, address: Address, protocol: u8, port: u16) -> bool {
        let Some(pool) = self.pool(now, address, protocol) else { return false };
        let was_idle = pool.is_idle();
        let Taken { used, shared, foreign, .. } = &mut pool.taken;
        let is_in = |ports: &Option<Box<Bitmap>>| ports.as_ref().is_some_and(|p| p.contains(port));
        let is_free = !is_in(shared) && !is_in(foreign) && used.insert(port);
        self.idle -= usize::from(was_idle && is_free);
        is_free
    }

    /// Whether a mapping has the port.
    pub(crate) fn is_mapped(&self, address: Address, protocol: u8, port: u16) -> bool {
        let pool = self.pools.get(&(address, protocol));
        pool.is_some_and(|pool| pool.taken.used.contains(port))
    }

    /// Keeps a port that another node's flows use from being given out; whether there is room to know it.
    pub(crate) fn hold_foreign(
        &mut self,
        now: Time,
        address: Address,
        protocol: u8,
        port: u16,
    ) -> bool {
        let Some(pool) = self.pool(now, address, protocol) else { return false };
        let was_idle = pool.is_idle();
        pool.taken.foreign.get_or_insert_default().insert(port);
        self.idle -= usize::from(was_idle);
        true
    }

    /// No other node's flow uses the port any more.
    pub(crate) fn release_foreign(&mut self, now: Time, address: Address, protocol: u8, port: u16) {
        let Some(pool) = self.pools.get_mut(&(address, protocol)) else { return };
        if !pool.taken.foreign.as_mut().is_some_and(|foreign| foreign.remove(port)) {
            return;
        }
        pool.give_back(now, port);
        if protocol != protocol::TCP {
            pool.freed = Some(now);
        }
        self.idle += usize::from(pool.is_idle());
    }

    /// Whether nobody but this machine's workers, who are told of each other's keys, uses the port of the address.
    pub(crate) fn is_of_machine(&self, address: Address, port: u16) -> bool {
        self.blocks.as_ref().is_none_or(|blocks| blocks.is_of_machine(address, port))
    }

    /// Whether nobody but this node's workers share addresses.
    pub(crate) fn is_dealt_to_workers(&self) -> bool {
        self.blocks.as_ref().is_some_and(Blocks::are_of_worker)
    }

    /// Says which addresses all members of the cluster use, or all workers, and which all workers of a member's machine,
    /// in place of those before.
    pub(crate) fn share(
        &mut self,
        addresses: Vec<RangeInclusive<Address>>,
        own: Vec<RangeInclusive<Address>>,
    ) {
        let Some(blocks) = &mut self.blocks else { return };
        blocks.set_shared(addresses, own);
        for ((address, _), pool) in &mut self.pools {
            if !blocks.is_as_before(*address, pool.owned.as_deref()) {
                pool.owned = blocks.owned(*address);
                pool.orders.clear();
            }
        }
    }

    /// Gives ports of shared addresses out from now on, or no longer.
    pub(crate) const fn set_open(&mut self, is_open: bool) {
        if let Some(blocks) = &mut self.blocks {
            blocks.set_open(is_open);
        }
    }

    /// Whether ports of shared addresses are given out.
    pub(crate) fn is_open(&self) -> bool {
        self.blocks.as_ref().is_none_or(Blocks::is_open)
    }

    /// Whether the node or worker may give out a port of the address, as far as others go.
    pub(crate) fn gives_out(&self, address: Address, port: u16) -> bool {
        self.blocks.as_ref().is_none_or(|blocks| blocks.is_ours(address, port))
    }

    /// Has each of several workers give out ports of its own, before any is given out.
    pub(crate) fn deal(&mut self, me: WorkerId, workers: u16) {
        self.blocks = Some(Blocks::of_worker(me, workers));
    }

    /// The worker that gives out a port; `None` where none does: the address is not one of source NAT's, or the port is
    /// reserved.
    pub(crate) fn worker(&self, address: Address, protocol: u8, port: u16) -> Option<WorkerId> {
        let mut reserved = reserved_for(&self.reserved, address, protocol);
        let worker = self.blocks.as_ref()?.worker(address, port)?;
        (!reserved.any(|ports| ports.contains(&port))).then_some(worker)
    }

    /// The member that gives out a port; `None` where it is this node's own, or nobody's as it is
    /// reserved.
    pub(crate) fn owner(&self, address: Address, protocol: u8, port: u16) -> Option<NodeId> {
        let mut reserved = reserved_for(&self.reserved, address, protocol);
        let owner = self.blocks.as_ref()?.owner(address, port)?;
        (!reserved.any(|ports| ports.contains(&port))).then_some(owner)
    }

    /// Says which ports are never given out, in place of those before.
    pub(crate) fn reserve(&mut self, reserved: Vec<Reserved>) {
        self.reserved = reserved;
        for ((address, protocol), pool) in &mut self.pools {
            let before = std::mem::replace(
                &mut pool.taken.reserved,
                reserved_of(&self.reserved, *address, *protocol),
            );
            for port in before.into_iter().flatten() {
                if pool.taken.is_free(port) {
                    pool.give_back(Time::ZERO, port);
                }
            }
        }
    }

    /// One bit for each port of a word of 64 that a mapping or another node has, or that is reserved.
    pub(crate) fn word(&self, address: Address, protocol: u8) -> impl Fn(usize) -> u64 {
        let pool = self.pools.get(&(address, protocol));
        move |word| {
            let reserved = reserved_for(&self.reserved, address, protocol);
            pool.map_or(0, |pool| pool.withheld(word))
                | reserved.fold(0, |bits, ports| bits | word_of(ports, word))
        }
    }

    #[cfg(test)]
    pub(crate) fn is_used(&self, address: Address, protocol: u8, port: u16) -> bool {
        self.word(address, protocol)(usize::from(port) / 64) & 1 << (port % 64) != 0
    }

    /// How many ports mappings have.
    #[cfg(test)]
    pub(crate) fn used(&self, address: Address, protocol: u8) -> u32 {
        self.pools.get(&(address, protocol)).map_or(0, |pool| pool.taken.used.len())
    }

    /// The pool of an address, in the place of idle ones if there are too many; `None` if there is
    /// no place.
    fn pool(&mut self, now: Time, address: Address, protocol: u8) -> Option<&mut Pool> {
        let key = (address, protocol);
        if !self.pools.contains_key(&key) {
            if self.pools.len() >= POOLS_MAX {
                if self.idle == 0 {
                    return None;
                }
                // What has to rest is not forgotten.
                self.pools.retain(|_, pool| {
                    !pool.is_idle() || pool.freed.is_some_and(|at| now.since(at) < REST)
                });
                self.idle = self.pools.values().filter(|pool| pool.is_idle()).count();
                if self.pools.len() >= POOLS_MAX {
                    return None;
                }
            }
            let reserved = reserved_of(&self.reserved, address, protocol);
            let taken = Taken { reserved, ..Taken::default() };
            let owned = self.blocks.as_ref().and_then(|blocks| blocks.owned(address));
            self.pools.insert(key, Pool { taken, owned, ..Pool::default() });
            self.idle += 1;
        }
        self.pools.get_mut(&key)
    }
}

impl Pool {
    fn take(
        &mut self,
        now: Time,
        range: (u16, u16),
        reuse: Reuse,
        fresh: impl FnOnce(Option<&Owned>) -> Order,
    ) -> Option<u16> {
        let Self { taken, orders, owned, .. } = self;
        let known = orders.iter().position(|order| order.range() == range);
        let place = known.unwrap_or_else(|| {
            if orders.len() >= ORDERS_MAX {
                // Ranges of rules that have gone; those that have not are shuffled anew.
                orders.clear();
            }
            orders.push(fresh(owned.as_deref()));
            orders.len() - 1
        });
        let order = &mut orders[place];
        // Ports that are taken in another way meanwhile fall out here, and come back when they are
        // free: each is skipped once for each time that it was taken.
        let port = std::iter::from_fn(|| order.next(now, reuse)).find(|port| taken.is_free(*port));
        port.inspect(|port| {
            taken.used.insert(*port);
        })
    }

    /// Puts a port at the end of its orders, if it is free.
    fn give_back(&mut self, now: Time, port: u16) {
        if !self.taken.is_free(port) {
            return;
        }
        for order in &mut self.orders {
            let (first, last) = order.range();
            if (first..=last).contains(&port) {
                order.give_back(now, port);
            }
        }
    }

    /// One bit for each port of a word of 64, which is a block, that no connection may share.
    fn withheld(&self, word: usize) -> u64 {
        if self.owned.as_ref().is_some_and(|owned| !owned.has(word)) {
            return u64::MAX;
        }
        self.taken.used.word(word)
            | self.taken.foreign.as_ref().map_or(0, |foreign| foreign.word(word))
    }

    /// Whether no port is taken.
    fn is_idle(&self) -> bool {
        let Taken { used, shared, foreign, .. } = &self.taken;
        let is_empty = |ports: &Option<Box<Bitmap>>| ports.as_ref().is_none_or(|p| p.len() == 0);
        used.len() == 0 && is_empty(shared) && is_empty(foreign)
    }
}

impl Taken {
    fn is_free(&self, port: u16) -> bool {
        let is_in = |ports: &Option<Box<Bitmap>>| ports.as_ref().is_some_and(|p| p.contains(port));
        !self.used.contains(port)
            && !is_in(&self.shared)
            && !is_in(&self.foreign)
            && !self.reserved.iter().any(|ports| ports.contains(&port))
    }
}

/// The ports of a range that are of the class of `port` (RFC 4787 REQ-3a); all of it where it has none
/// of that class. A class that is full is not left: behaviour does not change with load (REQ-11).
pub(crate) fn class(range: &RangeInclusive<u16>, port: u16) -> Option<(u16, u16)> {
    let (first, last) = ((*range.start()).max(1), *range.end());
    let system = (first, last.min(FIRST_USER_PORT - 1));
    let user = (first.max(FIRST_USER_PORT), last);
    let classes = if port < FIRST_USER_PORT { [system, user] } else { [user, system] };
    classes.into_iter().find(|(first, last)| first <= last)
}

fn reserved_of(reserved: &[Reserved], address: Address, protocol: u8) -> Vec<RangeInclusive<u16>> {
    reserved_for(reserved, address, protocol).cloned().collect()
}

fn reserved_for(
    reserved: &[Reserved],
    address: Address,
    protocol: u8,
) -> impl Iterator<Item = &RangeInclusive<u16>> {
    let here = move |one: &&Reserved| one.protocol == protocol && one.addresses.contains(&address);
    reserved.iter().filter(here).map(|one| &one.ports)
}

/// The bits of the ports of a range in a word of 64.
fn word_of(ports: &RangeInclusive<u16>, word: usize) -> u64 {
    let (begin, end) = (word * 64, word * 64 + 63);
    let first = usize::from(*ports.start()).max(begin);
    let last = usize::from(*ports.end()).min(end);
    if first > last { 0 } else { u64::MAX << (first - begin) & u64::MAX >> (end - last) }
}

fn subkey(seed: &[u8; 32], number: u64) -> [u8; 16] {
    let (key, rest) = seed.split_first_chunk::<16>().expect("a seed is longer than a key");
    let mut subkey = [0; 16];
    for (half, bytes) in subkey.chunks_exact_mut(8).enumerate() {
        let mut hasher = SipHasher13::new_with_key(key);
        hasher.write(rest);
        hasher.write_u64(number);
        hasher.write_u8(half as u8);
        bytes.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    subkey
}

#[cfg(test)]
mod tests;
