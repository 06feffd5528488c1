//! Rule sets that classifiers are known to break on.

use super::{Addresses, Dice, Family, Rule, Service};

/// What is hard about a rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostile {
    /// Every pair of prefix lengths: a table for each in classifiers that hash.
    Tuples,
    /// Ranges that cross in all fields and share one point.
    Overlapping,
    /// Different ranges of destination ports and nothing else.
    Ports,
    /// Different ranges of both ports.
    PortPairs,
    /// Ranges that cross in source and destination, wherever a packet comes from.
    Crossing,
    /// Rules with lists of a hundred networks on either side.
    Lists,
}

impl Hostile {
    pub const ALL: [Self; 6] = [
        Self::Tuples,
        Self::Overlapping,
        Self::Ports,
        Self::PortPairs,
        Self::Crossing,
        Self::Lists,
    ];

    /// As in the names of benchmarks.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tuples => "tuples",
            Self::Overlapping => "overlapping",
            Self::Ports => "ports",
            Self::PortPairs => "port-pairs",
            Self::Crossing => "crossing",
            Self::Lists => "lists",
        }
    }

    /// Makes `count` rules.
    pub fn generate(self, count: usize, seed: u64) -> Vec<Rule> {
        let mut dice = Dice::new(seed);
        let all = (0, u16::MAX);
        (0..count)
            .map(|index| {
                let (source, destination, service) = match self {
                    Self::Tuples => {
                        let lengths = (index % 33, index / 33 % 33);
                        let port = dice.below(65_536) as u16;
                        let prefix = |length: usize, dice: &mut Dice| {
                            let bits = u128::from(dice.next() as u32);
                            vec![Addresses::prefix(Family::V4, bits, length as u32)]
                        };
                        let source = prefix(lengths.0, &mut dice);
                        (source, prefix(lengths.1, &mut dice), Service::tcp(all, (port, port)))
                    }
                    Self::Overlapping => {
                        let (source, destination) = (around(&mut dice), around(&mut dice));
                        let ports = (dice.below(30_000) as u16, 30_000 + dice.below(30_000) as u16);
                        (source, destination, Service::tcp(ports, ports))
                    }
                    Self::Ports => (Vec::new(), Vec::new(), Service::tcp(all, ports(&mut dice))),
                    Self::PortPairs => {
                        let service = Service::tcp(ports(&mut dice), ports(&mut dice));
                        (Vec::new(), Vec::new(), service)
                    }
                    Self::Crossing => {
                        let (source, destination) = (stretch(&mut dice), stretch(&mut dice));
                        let port = dice.below(65_536) as u16;
                        (source, destination, Service::tcp(all, (port, port)))
                    }
                    Self::Lists => {
                        (networks(&mut dice), networks(&mut dice), Service::tcp(all, (443, 443)))
                    }
                };
                Rule { source, destination, service, is_allow: index % 2 == 0 }
            })
            .collect()
    }
}

fn v4(first: u64, last: u64) -> Vec<Addresses> {
    vec![Addresses { family: Family::V4, first: first.into(), last: last.into() }]
}

/// A range that holds the middle of all addresses.
fn around(dice: &mut Dice) -> Vec<Addresses> {
    let middle = 1 << 31;
    let first = middle - dice.below(1 << 30);
    v4(first, middle + dice.below(1 << 30))
}

/// A range of a sixteenth of all addresses or less, anywhere.
fn stretch(dice: &mut Dice) -> Vec<Addresses> {
    let first = dice.below(15 << 28);
    v4(first, first + dice.below(1 << 28))
}

fn ports(dice: &mut Dice) -> (u16, u16) {
    let (a, b) = (dice.below(65_536) as u16, dice.below(65_536) as u16);
    (a.min(b), a.max(b))
}

fn networks(dice: &mut Dice) -> Vec<Addresses> {
    let network = |_| Addresses::prefix(Family::V4, u128::from(dice.next() as u32), 24);
    (0..100).map(network).collect()
}
