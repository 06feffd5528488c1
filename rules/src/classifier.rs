//! Which conditions a packet meets, first to last. A scalable classifier can take this one's place
//! behind the same two functions.

use std::net::IpAddr;
use std::sync::Arc;

use crate::address::AddressSet;
use crate::policy::Zones;
use crate::service::ServiceSet;
use crate::{Query, Transport, ZoneId};

/// What one rule asks of a packet beside its zones.
#[derive(Debug)]
pub(crate) struct Conditions {
    pub source: AddressMatch,
    pub destination: AddressMatch,
    pub service: ServiceMatch,
}

#[derive(Debug)]
pub(crate) enum AddressMatch {
    Any,
    /// One range or address, the most common case, kept where it is read.
    Ipv4Range(u32, u32),
    Set(Arc<AddressSet>),
}

#[derive(Debug)]
pub(crate) enum ServiceMatch {
    Any,
    Set(Arc<ServiceSet>),
}

/// Rules by zone pair, in their order.
#[derive(Debug)]
pub(crate) struct Classifier {
    conditions: Vec<Conditions>,
    zones: usize,
    /// Four kinds of lists of indices into `conditions`, each rising; a rule stands in one kind only,
    /// so that a rule for any zone does not stand in every pair's list.
    by_pair: Vec<Vec<u32>>,
    by_from: Vec<Vec<u32>>,
    by_to: Vec<Vec<u32>>,
    everywhere: Vec<u32>,
}

impl Classifier {
    /// `rules` are the zones and conditions of each rule; the index of a rule is its name here.
    pub(crate) fn new(zones: usize, rules: Vec<(Zones, Zones, Conditions)>) -> Self {
        let mut classifier = Self {
            conditions: Vec::new(),
            zones,
            by_pair: vec![Vec::new(); zones * zones],
            by_from: vec![Vec::new(); zones],
            by_to: vec![Vec::new(); zones],
            everywhere: Vec::new(),
        };
        for (index, (from, to, conditions)) in (0..).zip(rules) {
            classifier.conditions.push(conditions);
            match (from, to) {
                (Zones::Any, Zones::Any) => classifier.everywhere.push(index),
                (Zones::Any, Zones::Listed(to)) => {
                    to.iter().for_each(|to| classifier.by_to[usize::from(to.0)].push(index));
                }
                (Zones::Listed(from), Zones::Any) => {
                    from.iter()
                        .for_each(|from| classifier.by_from[usize::from(from.0)].push(index));
                }
                (Zones::Listed(from), Zones::Listed(to)) => {
                    for pair in from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))) {
                        let pair = classifier.pair(pair.0, pair.1);
                        classifier.by_pair[pair].push(index);
                    }
                }
            }
        }
        classifier
    }

    /// The indices of all rules that `query` meets, rising. Allocates nothing.
    pub(crate) fn matching<'c>(&'c self, query: &'c Query) -> impl Iterator<Item = u32> + 'c {
        let candidates = Candidates([
            &self.by_pair[self.pair(query.from, query.to)],
            &self.by_from[usize::from(query.from.0)],
            &self.by_to[usize::from(query.to.0)],
            &self.everywhere,
        ]);
        candidates.filter(|&index| self.conditions[index as usize].hold(query))
    }

    fn pair(&self, from: ZoneId, to: ZoneId) -> usize {
        usize::from(from.0) * self.zones + usize::from(to.0)
    }
}

/// Four rising lists as one.
struct Candidates<'c>([&'c [u32]; 4]);

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let heads = self.0.iter_mut().filter(|list| !list.is_empty());
        let list = heads.min_by_key(|list| list.first().copied())?;
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(*first)
    }
}

impl Conditions {
    fn hold(&self, query: &Query) -> bool {
        // Most addresses stand here; services stand elsewhere and are asked last.
        self.destination.contains(query.destination)
            && self.source.contains(query.source)
            && self.service.contains(&query.transport)
    }
}

impl AddressMatch {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4Range(first, last) => match address {
                IpAddr::V4(address) => (*first..=*last).contains(&address.to_bits()),
                IpAddr::V6(_) => false,
            },
            Self::Set(set) => set.contains(address),
        }
    }
}

impl ServiceMatch {
    fn contains(&self, transport: &Transport) -> bool {
        match self {
            Self::Any => true,
            Self::Set(set) => set.contains(transport),
        }
    }
}
