//! Ports that connections share whose remote endpoints differ (RFC 7857 section 3): which are taken
//! towards each remote endpoint.

use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::bitmap::Bitmap;
use crate::Address;
use crate::address::{Endpoint, FlowKey};
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

/// The ports taken, by pairing, and how many pairings have each.
#[derive(Debug)]
pub(crate) struct SharedPorts {
    groups: HashTable<(Pairing, Taken)>,
    sharers: Tally<(Address, u8, u16)>,
    key: [u8; 16],
}

#[derive(Debug)]
enum Taken {
    Few(Vec<u16>),
    Many(Box<Bitmap>),
}

/// From so many ports on a bitmap (8 KiB) takes the place of a list, and gives it back at half.
const MANY: usize = 64;

impl SharedPorts {
    /// `key` seeds the hash.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { groups: HashTable::new(), sharers: Tally::new(0, key), key }
    }

    /// Whether anybody shares the port.
    pub(crate) fn is_shared(&self, external: Address, protocol: u8, port: u16) -> bool {
        self.sharers.count(&(external, protocol, port)) > 0
    }

    pub(crate) fn add(&mut self, pairing: Pairing, port: u16) {
        self.sharers.add((pairing.external, pairing.protocol, port));
        let Self { groups, key, .. } = self;
        let mut entry = groups
            .entry(
                hash(*key, &pairing),
                |(known, _)| *known == pairing,
                |(known, _)| hash(*key, known),
            )
            .or_insert_with(|| (pairing, Taken::Few(Vec::new())));
        entry.get_mut().1.insert(port);
    }

    pub(crate) fn remove(&mut self, pairing: &Pairing, port: u16) {
        let hash = hash(self.key, pairing);
        let Ok(mut entry) = self.groups.find_entry(hash, |(known, _)| known == pairing) else {
            return;
        };
        if entry.get_mut().1.remove(port) == 0 {
            entry.remove();
        }
        self.sharers.take(&(pairing.external, pairing.protocol, port));
    }

    /// One bit for each port of a word of 64 that is taken.
    pub(crate) fn word<'a>(&'a self, pairing: &Pairing) -> impl Fn(usize) -> u64 + use<'a> {
        let group = self.groups.find(hash(self.key, pairing), |(known, _)| known == pairing);
        let taken = group.map(|(_, taken)| taken);
        move |word| match taken {
            None => 0,
            Some(Taken::Many(ports)) => ports.word(word),
            Some(Taken::Few(ports)) => ports
                .iter()
                .filter(|port| usize::from(**port) / 64 == word)
                .fold(0, |bits, port| bits | 1 << (port % 64)),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.groups.len()
    }
}

impl Taken {
    fn insert(&mut self, port: u16) {
        match self {
            Self::Few(ports) if ports.len() < MANY => ports.push(port),
            Self::Few(ports) => {
                let mut many = Bitmap::default();
                ports.drain(..).chain([port]).for_each(|port| {
                    many.insert(port);
                });
                *self = Self::Many(Box::new(many));
            }
            Self::Many(ports) => {
                ports.insert(port);
            }
        }
    }

    /// Returns how many are left.
    fn remove(&mut self, port: u16) -> usize {
        match self {
            Self::Few(ports) => {
                ports.retain(|taken| *taken != port);
                ports.len()
            }
            Self::Many(ports) => {
                ports.remove(port);
                let left = ports.len() as usize;
                if left <= MANY / 2 {
                    let ports = (0..=u16::MAX).filter(|port| ports.contains(*port)).collect();
                    *self = Self::Few(ports);
                }
                left
            }
        }
    }
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

fn hash(key: [u8; 16], pairing: &Pairing) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    pairing.hash(&mut hasher);
    hasher.finish()
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
            let mut ports = SharedPorts::new([1; 16]);
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
            steps in prop::collection::vec((any::<bool>(), 0..2_u8, 0..120_u16), 0..600),
        ) {
            let mut ports = SharedPorts::new([1; 16]);
            let mut model = BTreeSet::new();
            for (add, host, port) in steps {
                if add && model.insert((host, port)) {
                    ports.add(pairing(host), port);
                } else if !add && model.remove(&(host, port)) {
                    ports.remove(&pairing(host), port);
                }
                for host in 0..2 {
                    let taken = ports.word(&pairing(host));
                    for word in 0..2 {
                        let expected = (0..64).filter(|bit| model.contains(&(host, word * 64 + bit)));
                        let expected = expected.fold(0, |bits, bit| bits | 1_u64 << bit);
                        prop_assert_eq!(taken(usize::from(word)), expected);
                    }
                }
            }
            let groups: BTreeSet<u8> = model.iter().map(|(host, _)| *host).collect();
            prop_assert_eq!(ports.len(), groups.len());
        }
    }
}
