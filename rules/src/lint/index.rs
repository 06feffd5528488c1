//! Which rules match a packet, all of them, found without asking each: rules lie in buckets by the
//! prefixes of their addresses, their protocol and their port ("tuple space", Srinivasan, Suri and
//! Varghese, 1999), with few lengths of prefixes so that there are few tuples.

use std::collections::HashMap;

use super::cover::Work;
use super::space::{Family, Point, Region, Regions, ServiceBox, Span};

/// Cells of one rule that lie in buckets of their own; the rest of a longer rule goes by its bounds.
const CELLS: usize = 32;

/// Lengths of prefixes, of IPv4 and of IPv6. A range lies in the bucket of the longest that holds it.
const LENGTHS: [&[u32]; 2] = [&[32, 24, 16, 8, 0], &[128, 64, 48, 32, 16, 0]];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    /// One protocol and one destination port or code.
    Port,
    Protocol,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Tuple {
    source: u32,
    destination: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    tuple: Tuple,
    source: u128,
    destination: u128,
    service: u128,
}

/// The rules of one family.
#[derive(Debug, Default)]
struct Space {
    tuples: Vec<Tuple>,
    /// Rules in their order.
    buckets: HashMap<Key, Vec<u32>>,
}

/// All rules by what they match.
#[derive(Debug, Default)]
pub(super) struct Index([Space; 2]);

impl Index {
    pub(super) fn new(rules: &[Regions]) -> Self {
        let mut index = Self::default();
        for (number, regions) in (0..).zip(rules) {
            for family in Family::ALL {
                if let Some(region) = &regions[family as usize] {
                    index.0[family as usize].add(number, region, family);
                }
            }
        }
        for space in &mut index.0 {
            space.tuples.sort_unstable();
            space.tuples.dedup();
        }
        index
    }

    /// The rules that match a packet, in their order, of those for which `counts` holds. `None` when
    /// the budget of the work is spent.
    pub(super) fn matching(
        &self,
        rules: &[Regions],
        (family, point): (Family, &Point),
        counts: impl Fn(usize) -> bool,
        work: &mut Work,
    ) -> Option<Vec<usize>> {
        let space = &self.0[family as usize];
        let mut found = Vec::new();
        for tuple in &space.tuples {
            let Some(bucket) = space.buckets.get(&key(*tuple, family, point)) else { continue };
            for rule in bucket.iter().map(|rule| *rule as usize) {
                work.spend(1)?;
                let region = rules[rule][family as usize].as_ref();
                let Some(region) = region.filter(|_| counts(rule)) else { continue };
                work.spend(region.services.len() / 4)?;
                if region.holds(point) {
                    found.push(rule);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Some(found)
    }
}

impl Space {
    fn add(&mut self, rule: u32, region: &Region, family: Family) {
        let whole = |spans: &[Span]| match spans {
            [first, .., last] => vec![(first.0, last.1)],
            spans => spans.to_vec(),
        };
        let few = |spans: &[Span]| if spans.len() > 8 { whole(spans) } else { spans.to_vec() };
        let (mut sources, mut destinations) = (few(&region.sources), few(&region.destinations));
        if sources.len() * destinations.len() * region.services.len() > CELLS {
            (sources, destinations) = (whole(&sources), whole(&destinations));
        }
        let mut services: Vec<(Kind, u128)> = region.services.iter().map(kind).collect();
        services.sort_unstable();
        services.dedup();
        if services.len() > CELLS {
            services = vec![(Kind::Any, 0)];
        }
        for source in &sources {
            for destination in &destinations {
                for (kind, service) in &services {
                    let (source, from) = prefix(*source, family);
                    let (destination, to) = prefix(*destination, family);
                    let tuple = Tuple { source, destination, kind: *kind };
                    self.tuples.push(tuple);
                    let key = Key { tuple, source: from, destination: to, service: *service };
                    let bucket = self.buckets.entry(key).or_default();
                    if bucket.last() != Some(&rule) {
                        bucket.push(rule);
                    }
                }
            }
        }
        if self.tuples.len() > 4_096 {
            self.tuples.sort_unstable();
            self.tuples.dedup();
        }
    }
}

fn kind(service: &ServiceBox) -> (Kind, u128) {
    let [protocol, _, port] = service;
    match (protocol.0 == protocol.1, port.0 == port.1) {
        (true, true) => (Kind::Port, protocol.0 << 16 | port.0),
        (true, false) => (Kind::Protocol, protocol.0),
        (false, _) => (Kind::Any, 0),
    }
}

/// The longest prefix that holds a span: its length, and its number.
fn prefix(span: Span, family: Family) -> (u32, u128) {
    let lengths = LENGTHS[family as usize].iter();
    let number = |length: u32| (shift(span.0, length, family), shift(span.1, length, family));
    let mut fitting = lengths.filter(|length| {
        let (first, last) = number(**length);
        first == last
    });
    let length = fitting.next().copied().unwrap_or(0);
    (length, number(length).0)
}

fn shift(address: u128, length: u32, family: Family) -> u128 {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    address.checked_shr(bits - length).unwrap_or(0)
}

fn key(tuple: Tuple, family: Family, point: &Point) -> Key {
    let [source, destination, protocol, _, port] = point.at;
    Key {
        tuple,
        source: shift(source, tuple.source, family),
        destination: shift(destination, tuple.destination, family),
        service: match tuple.kind {
            Kind::Port => protocol << 16 | port,
            Kind::Protocol => protocol,
            Kind::Any => 0,
        },
    }
}
