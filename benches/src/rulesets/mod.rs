//! Rule sets and packets for them, from a seed: what classifiers of packets are measured with.
//!
//! The mixes of prefix lengths, ports and protocols follow what is published about the rule sets of
//! ClassBench (access lists, firewalls, IP chains); nothing of its seeds is used.

mod dice;
mod hostile;
mod rule;
mod trace;

use std::collections::HashSet;

pub use dice::Dice;
pub use hostile::Hostile;
pub use rule::{Addresses, Family, Rule, Service, first_match, policy_text};
pub use trace::{Popularity, boundaries, hits};

/// What a rule set is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Access lists: networks and hosts as destinations, exact ports.
    Acl,
    /// Firewalls: many wildcards, high ports, source ports.
    Fw,
    /// IP chains: a mix of both.
    Ipc,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Acl, Self::Fw, Self::Ipc];

    /// As in the names of benchmarks.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Fw => "fw",
            Self::Ipc => "ipc",
        }
    }

    /// Out of a hundred rules, how many name no source, how many no destination.
    const fn wildcards(self) -> (u64, u64) {
        match self {
            Self::Acl => (20, 2),
            Self::Fw => (45, 30),
            Self::Ipc => (15, 15),
        }
    }

    /// Out of a hundred prefixes, how many are of each level: see [`Network`].
    const fn levels(self) -> [u64; 4] {
        match self {
            Self::Acl => [1, 9, 40, 50],
            Self::Fw => [5, 15, 30, 50],
            Self::Ipc => [2, 18, 40, 40],
        }
    }

    /// Out of a hundred rules: any destination port, high ports, another range; the rest is exact.
    const fn ports(self) -> [u64; 3] {
        match self {
            Self::Acl => [30, 3, 7],
            Self::Fw => [35, 20, 10],
            Self::Ipc => [40, 5, 10],
        }
    }

    /// Out of a hundred rules, how many name source ports.
    const fn source_ports(self) -> u64 {
        match self {
            Self::Acl => 0,
            Self::Fw => 15,
            Self::Ipc => 10,
        }
    }

    /// Out of a hundred rules: TCP, UDP, ICMP; the rest names no protocol.
    const fn protocols(self) -> [u64; 3] {
        match self {
            Self::Acl => [70, 15, 5],
            Self::Fw => [60, 25, 3],
            Self::Ipc => [50, 25, 5],
        }
    }
}

/// The ports that exact rules name, the first most often.
const PORTS: [u16; 24] = [
    443, 80, 22, 53, 25, 3389, 1433, 3306, 5432, 8080, 8443, 389, 636, 445, 139, 123, 161, 514,
    993, 110, 5060, 6379, 9092, 27017,
];
/// Address blocks that all prefixes of a rule set lie in.
const SITES: u64 = 48;

/// Makes `count` rules that differ, none of them for all packets.
pub fn generate(class: Class, family: Family, count: usize, seed: u64) -> Vec<Rule> {
    let mut dice = Dice::new(seed);
    let pool = Pool::new(class, count, &mut dice);
    let mut seen = HashSet::with_capacity(count);
    let mut rules = Vec::with_capacity(count);
    while rules.len() < count {
        let rule = rule(class, family, &pool, &mut dice);
        if seen.insert(rule.clone()) {
            rules.push(rule);
        }
    }
    rules
}

/// Prefixes that nest at most four deep.
struct Pool(Vec<Network>);

/// A prefix of 12, 16, 24 or 32 bits, or in between; of 40, 48, 64 or 128 for IPv6.
#[derive(Clone, Copy)]
struct Network {
    bits: u32,
    level: usize,
    /// Shortens the prefix within its level.
    slack: u32,
}

impl Pool {
    fn new(class: Class, count: usize, dice: &mut Dice) -> Self {
        let sites: Vec<u32> = (0..SITES).map(|_| (dice.next() as u32) & 0xfff0_0000).collect();
        let networks = (0..(count / 2).max(16)).map(|_| {
            let site = sites[dice.below(SITES) as usize];
            let level = dice.choose(&class.levels());
            // Networks of a site stand side by side, as people number them.
            let (middle, low) = (dice.below(16) as u32, dice.below(256) as u32);
            let bits = site | middle << 16 | low << 8 | dice.below(256) as u32;
            Network { bits, level: level.min(3), slack: dice.below(4) as u32 }
        });
        Self(networks.collect())
    }

    fn pick(&self, family: Family, dice: &mut Dice) -> Addresses {
        let network = self.0[dice.below(self.0.len() as u64) as usize];
        match family {
            Family::V4 => {
                let length =
                    [12, 16, 24, 32][network.level] - [0, 0, network.slack, 0][network.level];
                Addresses::prefix(Family::V4, u128::from(network.bits), length)
            }
            Family::V6 => {
                let length =
                    [40, 48, 64, 128][network.level] - [0, 0, network.slack, 0][network.level];
                // 2600::/12; each level numbers the same networks as with IPv4.
                let [site, middle, low, host] = [(20, 12), (16, 4), (8, 8), (0, 8)]
                    .map(|(at, width)| u128::from(network.bits >> at & ((1 << width) - 1)));
                let bits = 0x260 << 116 | site << 88 | middle << 80 | low << 64 | host;
                Addresses::prefix(Family::V6, bits, length)
            }
        }
    }
}

fn rule(class: Class, family: Family, pool: &Pool, dice: &mut Dice) -> Rule {
    let (any_source, any_destination) = class.wildcards();
    let pick = |chance: u64, dice: &mut Dice| {
        if dice.below(100) < chance { Vec::new() } else { vec![pool.pick(family, dice)] }
    };
    let source = pick(any_source, dice);
    // Rules that name neither are few and exact, as in real sets: else they hide all others.
    let chance = if source.is_empty() { 1 } else { any_destination };
    let destination = pick(chance, dice);
    let is_open = source.is_empty() && destination.is_empty();
    let service = if is_open {
        let port = 10_000 + dice.below(2_000) as u16;
        Service::tcp((0, u16::MAX), (port, port))
    } else {
        service(class, family, dice)
    };
    Rule { source, destination, service, is_allow: dice.below(3) != 0 }
}

fn service(class: Class, family: Family, dice: &mut Dice) -> Service {
    let protocol = dice.choose(&class.protocols());
    if protocol == 2 {
        return Service::Icmp(family, [None, Some(8), Some(3), Some(11)][dice.below(4) as usize]);
    }
    if protocol > 2 {
        return Service::Any;
    }
    let destination = match dice.choose(&class.ports()) {
        0 => (0, u16::MAX),
        1 => (1_024, u16::MAX),
        2 => {
            let first = 1_024 + dice.below(60_000) as u16;
            (first, first.saturating_add(1 + dice.below(200) as u16))
        }
        _ => {
            // The smaller of two throws: the first ports of the list come more often.
            let port = PORTS[dice.below(24).min(dice.below(24)) as usize];
            let port = if dice.below(4) == 0 { dice.below(65_536) as u16 } else { port };
            (port, port)
        }
    };
    let source = if dice.below(100) < class.source_ports() {
        [(1_024, u16::MAX), (53, 53), (123, 123)][dice.below(3) as usize]
    } else {
        (0, u16::MAX)
    };
    if protocol == 0 {
        Service::tcp(source, destination)
    } else {
        Service::udp(source, destination)
    }
}
