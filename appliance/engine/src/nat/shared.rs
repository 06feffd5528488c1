//! Ports that connections share whose remote endpoints differ (RFC 7857 section 3): which are taken
//! towards each remote endpoint.

use std::num::NonZeroU32;

use super::bitmap::Bitmap;
use crate::Address;
use crate::address::{Endpoint, FlowKey};
use crate::chains::{HasKey, Keyed};
use crate::places::Places;
use crate::tally::Tally;

/// An external address and a remote endpoint: what a port must be unique together with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pairing {
    pub(crate) external: Address,
    remote: Endpoint,
    protocol: u8,
}

impl Pairing {
    /// Of the flow whose answers have this key.
    pub(crate) fn of_reply(reply: &FlowKey) -> Self {
        let mut remote = reply.source;
        if reply.is_icmp_query() {
            // The identifier is what is chosen.
            remote.port = 0;
        }
        Self { external: reply.destination.address, remote, protocol: reply.protocol }
    }
}

/// The ports taken, by pairing, and how many pairings have each. Memory is allocated once, and used as
/// pairings come.
#[derive(Debug)]
pub(crate) struct SharedPorts {
    groups: Keyed<Group>,
    /// Ports of groups that have few, in lists.
    few: Places<Listed>,
    /// Ports of groups that have many: room for as many as there can be.
    many: Vec<Bitmap>,
    free_many: Vec<u32>,
    sharers: Tally<(Address, u8, u16)>,
}

/// The ports that are taken towards one remote endpoint.
#[derive(Debug, Clone, Copy)]
struct Group {
    pairing: Pairing,
    taken: Taken,
    count: u16,
}

#[derive(Debug, Clone, Copy)]
enum Taken {
    /// The first of a list in `few`.
    Few(Option<NonZeroU32>),
    /// A place in `many`.
    Many(u32),
}

/// A port and the next one of its list, by place plus one.
#[derive(Debug, Clone, Copy)]
struct Listed {
    port: u16,
    next: Option<NonZeroU32>,
}

/// From so many ports on a bitmap (8 KiB) takes the place of a list, and gives it back at [`FEW`].
const MANY: u16 = 128;
const FEW: u16 = 64;

impl HasKey for Group {
    type Key = Pairing;

    fn key(&self) -> Pairing {
        self.pairing
    }
}

impl SharedPorts {
    /// For a table of so many flows; `key` seeds the hash.
    pub(crate) fn new(flows: u32, key: [u8; 16]) -> Self {
        let groups_with_many = (flows / u32::from(FEW)) as usize;
        Self {
            groups: Keyed::new(flows, key),
            few: Places::new(flows as usize),
            many: Vec::with_capacity(groups_with_many),
            free_many: Vec::with_capacity(groups_with_many),
            sharers: Tally::new(flows, key),
        }
    }

    /// Whether anybody shares the port.
    pub(crate) fn is_shared(&self, external: Address, protocol: u8, port: u16) -> bool {
        self.sharers.count(&(external, protocol, port)) > 0
    }

    /// Takes a port that is free.
    pub(crate) fn add(&mut self, pairing: Pairing, port: u16) {
        self.sharers.add((pairing.external, pairing.protocol, port));
        let fresh = Group { pairing, taken: Taken::Few(None), count: 0 };
        let Some(mut group) = self.groups.get_or_insert(fresh).copied() else { return };
        if group.count == MANY
            && let Taken::Few(first) = group.taken
        {
            group.taken = Taken::Many(self.gather(first));
        }
        match &mut group.taken {
            Taken::Few(first) => {
                *first = list(&mut self.few, Listed { port, next: *first });
            }
            Taken::Many(place) => {
                self.many[*place as usize].insert(port);
            }
        }
        group.count += 1;
        self.put(group);
    }

    /// Gives back a port that is taken.
    pub(crate) fn remove(&mut self, pairing: &Pairing, port: u16) {
        let Some(mut group) = self.groups.get(pairing).copied() else { return };
        let was_there = match &mut group.taken {
            Taken::Few(first) => self.unlist(first, port),
            Taken::Many(place) => self.many[*place as usize].remove(port),
        };
        if !was_there {
            return;
        }
        self.sharers.take(&(pairing.external, pairing.protocol, port));
        group.count -= 1;
        if group.count == 0 {
            self.groups.remove(pairing);
            return;
        }
        if group.count == FEW
            && let Taken::Many(place) = group.taken
        {
            group.taken = Taken::Few(self.scatter(place));
        }
        self.put(group);
    }

    /// One bit for each port of a word of 64 that is taken.
    pub(crate) fn word<'a>(&'a self, pairing: &Pairing) -> impl Fn(usize) -> u64 + use<'a> {
        let taken = self.groups.get(pairing).map_or(Taken::Few(None), |group| group.taken);
        move |word| match taken {
            Taken::Many(place) => self.many[place as usize].word(word),
            Taken::Few(first) => {
                std::iter::successors(self.listed(first), |one| self.listed(one.next))
                    .filter(|one| usize::from(one.port) / 64 == word)
                    .fold(0, |bits, one| bits | 1 << (one.port % 64))
            }
        }
    }

    fn put(&mut self, group: Group) {
        if let Some(there) = self.groups.get_mut(&group.pairing) {
            *there = group;
        }
    }

    fn listed(&self, at: Option<NonZeroU32>) -> Option<Listed> {
        at.map(|here| self.few[here.get() - 1])
    }

    /// Takes a port out of a list; whether it was there.
    fn unlist(&mut self, first: &mut Option<NonZeroU32>, port: u16) -> bool {
        let (mut before, mut at) = (None::<u32>, *first);
        while let Some(here) = at {
            let place = here.get() - 1;
            let Listed { port: there, next } = self.few[place];
            if there == port {
                match before {
                    None => *first = next,
                    Some(before) => self.few[before].next = next,
                }
                self.few.give_back(place);
                return true;
            }
            (before, at) = (Some(place), next);
        }
        false
    }

    /// Puts the ports of a list into a bitmap, in its stead.
    fn gather(&mut self, first: Option<NonZeroU32>) -> u32 {
        let place = self.free_many.pop().unwrap_or_else(|| {
            self.many.push(Bitmap::default());
            self.many.len() as u32 - 1
        });
        let mut at = first;
        while let Some(here) = at {
            let Listed { port, next } = self.few[here.get() - 1];
            self.many[place as usize].insert(port);
            self.few.give_back(here.get() - 1);
            at = next;
        }
        place
    }

    /// Puts the ports of a bitmap into a list, in its stead.
    fn scatter(&mut self, place: u32) -> Option<NonZeroU32> {
        let Self { many, few, .. } = self;
        let bitmap = &mut many[place as usize];
        let first = bitmap.iter().fold(None, |next, port| list(few, Listed { port, next }));
        bitmap.clear();
        self.free_many.push(place);
        first
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.groups.len()
    }
}

/// A place for one more port of a list.
fn list(few: &mut Places<Listed>, listed: Listed) -> Option<NonZeroU32> {
    NonZeroU32::new(few.put(listed) + 1)
}

/// The first port of a range from `start` on, and round to it again, of which no bit is set in the
/// word that `taken` gives for it.
pub(crate) fn free_port(
    (first, last): (u16, u16),
    start: u16,
    taken: impl Fn(usize) -> u64,
) -> Option<u16> {
    let scan = |from: u16, to: u16| {
        (usize::from(from) / 64..=usize::from(to) / 64).find_map(|word| {
            let begin = (word * 64) as u32;
            let mut free = !taken(word);
            if u32::from(from) > begin {
                free &= u64::MAX << (u32::from(from) - begin);
            }
            if u32::from(to) < begin + 63 {
                free &= u64::MAX >> (begin + 63 - u32::from(to));
            }
            (free != 0).then(|| (begin + free.trailing_zeros()) as u16)
        })
    };
    scan(start, last).or_else(|| if start > first { scan(first, start - 1) } else { None })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pairing(host: u8) -> Pairing {
        let remote = Endpoint { address: Address::from([198, 51, 100, host]), port: 443 };
        Pairing { external: Address::from([203, 0, 113, 1]), remote, protocol: 6 }
    }

    proptest! {
        /// A free port is found wherever the search starts, as long as there is one; and none that
        /// is taken.
        #[test]
        fn a_port_is_found_as_long_as_one_is_free(
            first in 0..=u16::MAX, count in 1..200_u16, start in any::<u16>(),
            free in prop::collection::btree_set(0..200_u16, 0..3),
        ) {
            let last = first.saturating_add(count - 1);
            let start = first + start % (last - first + 1);
            let mut ports = SharedPorts::new(1_000, [1; 16]);
            let free: BTreeSet<u16> =
                free.iter().filter_map(|free| first.checked_add(*free)).filter(|port| *port <= last).collect();
            for port in (first..=last).filter(|port| !free.contains(port)) {
                ports.add(pairing(1), port);
            }
            let found = free_port((first, last), start, ports.word(&pairing(1)));
            let expected = free.range(start..).chain(&free).next();
            prop_assert_eq!(found, expected.copied());
        }

        #[test]
        fn ports_are_taken_and_given_back_per_pairing(
            steps in prop::collection::vec((any::<bool>(), 0..2_u8, 0..280_u16), 0..1_200),
        ) {
            let mut ports = SharedPorts::new(560, [1; 16]);
            let room = (ports.few.room(), ports.many.capacity());
            let mut model = BTreeSet::new();
            for (add, host, port) in steps {
                if add && model.insert((host, port)) {
                    ports.add(pairing(host), port);
                } else if !add && model.remove(&(host, port)) {
                    ports.remove(&pairing(host), port);
                }
                for host in 0..2 {
                    let taken = ports.word(&pairing(host));
                    for word in 0..5 {
                        let expected = (0..64).filter(|bit| model.contains(&(host, word * 64 + bit)));
                        let expected = expected.fold(0, |bits, bit| bits | 1_u64 << bit);
                        prop_assert_eq!(taken(usize::from(word)), expected);
                    }
                }
            }
            let groups: BTreeSet<u8> = model.iter().map(|(host, _)| *host).collect();
            prop_assert_eq!(ports.len(), groups.len());
            prop_assert_eq!((ports.few.room(), ports.many.capacity()), room);
        }
    }
}
