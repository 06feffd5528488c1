//! Challenges that the programs send for the engine (`bpf/challenge.h`): to whose SYNs, and to whom not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::flow::{WireEndpoint, WireKey};
use super::index::{HASH_KEYS, hash, words};
use super::layout::{ChallengeState, FLOODS, Flood, KNOWN, Mark};
use super::mapping::SharedArray;
use super::remains::{monotonic, units};
use super::table::FlowTable;

/// How long the number of a challenge may be good, in the same units: engine/src/challenge.rs.
const GOOD_FOR: u32 = 16;

/// How long a destination is under flood for the programs, in units of 2^30 ns: until the end of the next one. Then the
/// next SYN comes to the engine, which says it again if it is so.
const LASTS: u32 = 2;

#[derive(Debug)]
pub(super) struct Questions {
    pub(super) floods: SharedArray<Flood>,
    pub(super) known: SharedArray<Mark>,
    pub(super) state: SharedArray<ChallengeState>,
    pub(super) keys: [u32; HASH_KEYS],
}

impl FlowTable {
    /// What the numbers of challenges are made with.
    pub fn set_challenge_state(&mut self, state: [u64; 4]) {
        for (place, word) in self.questions.state[0].words.iter().zip(state) {
            place.store(word, Relaxed);
        }
    }

    /// Has SYNs of unknown sources that come from a zone to `destination` challenged for a second or two. All workers say so
    /// in one table: where two write at once, somebody is challenged who need not be.
    pub fn challenge(&mut self, destination: WireEndpoint, zone: u16) {
        let until = units(monotonic()) + LASTS;
        let nobody = nobody(destination.address);
        let place = self.questions.hash(nobody, destination) as u32 % FLOODS;
        let flood = &self.questions.floods[place as usize];
        let [first, second] = match destination.address {
            IpAddr::V4(v4) => [u64::from(u32::from_ne_bytes(v4.octets())), 0],
            IpAddr::V6(_) => words(destination.address),
        };
        let port = destination.port.to_be();
        let [a, b] = flood.words.each_ref().map(|word| word.load(Relaxed));
        let is_it = (a, b, flood.port.load(Relaxed), flood.zone.load(Relaxed))
            == (first, second, port, zone);
        if !is_it {
            flood.until.store(0, Release);
            flood.words[0].store(first, Relaxed);
            flood.words[1].store(second, Relaxed);
            flood.port.store(port, Relaxed);
            flood.zone.store(zone, Relaxed);
        }
        if flood.until.swap(until, Release) != until {
            self.control[0].flooded.store(until, Release);
        }
    }

    /// Whether the programs may have challenged anybody, for any worker, so lately that the answer is good.
    pub fn may_have_challenged(&self) -> bool {
        let flooded = self.control[0].flooded.load(Relaxed);
        flooded != 0 && units(monotonic()) <= flooded + GOOD_FOR
    }

    /// Has SYNs of a source come to the engine for ten minutes; of IPv6, of its /64.
    pub fn know(&mut self, source: IpAddr) {
        let network = match source {
            IpAddr::V4(_) => source,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX << 64).into(),
        };
        let source = WireEndpoint { address: network, port: 0 };
        let hash = self.questions.hash(source, nobody(network));
        let mark = hash >> 32 << 32 | u64::from(units(monotonic()));
        self.questions.known[hash as usize % KNOWN as usize].0.store(mark, Relaxed);
    }
}

impl Questions {
    fn hash(&self, source: WireEndpoint, destination: WireEndpoint) -> u64 {
        hash(&self.keys, &WireKey { protocol: 0, source, destination })
    }
}

fn nobody(family: IpAddr) -> WireEndpoint {
    let address = match family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    WireEndpoint { address, port: 0 }
}
