//! Which of many rules a packet meets first.
//!
//! Addresses are replaced by the number of their class (`classes`), rules by boxes of classes,
//! services and ports (`entry`), and the boxes of a zone pair are searched in a tree (`tree`) whose
//! branches end in a few boxes or, where boxes cannot be told apart, in bit vectors (`blocks`).
//! Everything is sorted arrays that are searched by comparison: nothing is hashed, so no packets can
//! be chosen that collide. What a search costs is bounded by the rule set alone.

mod blocks;
mod classes;
mod entry;
mod grow;
mod ranks;
mod tree;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::AddressSet;
use crate::policy::Zones;
use crate::service::ServiceSet;
use crate::{Query, Transport};

use classes::Classes;
use entry::{Boxes, Point};
pub(crate) use grow::Answers;
use grow::grow;
use tree::Tree;

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

/// A rule as the classifier takes it. A rule's number is its index among all rules; of two rules the
/// one with the smaller number is met first.
#[derive(Debug)]
pub(crate) struct Classified {
    pub rule: u32,
    pub from: Zones,
    pub to: Zones,
    pub conditions: Conditions,
}

/// Rules of one purpose, ready to be searched.
#[derive(Debug)]
pub(crate) struct Classifier {
    zones: usize,
    rules: Vec<u32>,
    conditions: Vec<Conditions>,
    classes: Classes,
    tables: Vec<Table>,
    /// For each ordered zone pair the tables that hold its rules, [`NO_TABLE`] behind them.
    slots: Vec<[u32; KINDS]>,
}

/// Rules of the same zones: indices into the classifier's rules, rising.
#[derive(Debug)]
enum Table {
    /// Few enough to try one after the other.
    Plain(Box<[u32]>),
    Tree(Tree),
}

/// Lists in which a zone pair's rules may stand: of the pair, of its source zone whatever the
/// destination, of its destination zone, and of all zones.
const KINDS: usize = 4;
const NO_TABLE: u32 = u32::MAX;
/// Up to so many rules are tried one after the other. Measured: a tree costs as much as this many.
const PLAIN_RULES: usize = 12;
/// The four lists of each pair become one where no more than so many rules result per rule.
const MERGED_PER_RULE: usize = 4;
/// The same for small rule sets: entries of all lists together.
const MERGED_FLOOR: usize = 4_096;

impl Classifier {
    /// `rules` come with rising numbers. With `Answers::All`, the search can go on behind a match.
    pub(crate) fn new(zones: usize, rules: Vec<Classified>, answers: Answers) -> Self {
        let lists = Lists::new(zones, &rules);
        let classes = Classes::new(rules.iter().map(|rule| &rule.conditions));
        let mut boxes = Boxes::new(&classes, rules.len());
        let (mut tables, mut places) = (Vec::new(), HashMap::new());
        let mut slots = Vec::with_capacity(zones * zones);
        let is_merged = lists.merged_len() <= rules.len() * MERGED_PER_RULE + MERGED_FLOOR;
        for pair in 0..zones * zones {
            let kinds = lists.of_pair(pair);
            let parts: Vec<_> =
                if is_merged { vec![kinds] } else { kinds.map(|k| [k; KINDS]).into() };
            let mut slot = [NO_TABLE; KINDS];
            let mut used = 0;
            for part in parts {
                if part.iter().all(|kind| lists.get(*kind).is_empty()) {
                    continue;
                }
                slot[used] = *places.entry(part).or_insert_with(|| {
                    let list = lists.merged(part);
                    tables.push(table(&list, &rules, &mut boxes, classes.count(), answers));
                    u32::try_from(tables.len() - 1).expect("there are few zone pairs")
                });
                used += 1;
            }
            slots.push(slot);
        }
        let numbers = rules.iter().map(|rule| rule.rule).collect();
        let conditions = rules.into_iter().map(|rule| rule.conditions).collect();
        Self { zones, rules: numbers, conditions, classes, tables, slots }
    }

    /// The first rule that `query` meets.
    pub(crate) fn first(&self, query: &Query) -> Option<u32> {
        self.first_index(query).map(|at| self.rules[at as usize])
    }

    /// Which of the classifier's own rules `query` meets first.
    pub(crate) fn first_index(&self, query: &Query) -> Option<u32> {
        self.first_from(query, 0)
    }

    /// All rules below `end` that `query` meets, rising; of a classifier that was built for all
    /// answers.
    pub(crate) fn matching<'c>(
        &'c self,
        query: &'c Query,
        end: u32,
    ) -> impl Iterator<Item = u32> + 'c {
        let mut from = 0;
        let indices = std::iter::from_fn(move || {
            let found = self.first_from(query, from)?;
            from = found + 1;
            Some(found)
        });
        indices.map(|at| self.rules[at as usize]).take_while(move |rule| *rule < end)
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the search structures take, without what rules share with the policy.
    pub(crate) fn bytes(&self) -> usize {
        let tables = self.tables.iter().map(|table| match table {
            Table::Plain(rules) => size_of_val(&**rules),
            Table::Tree(tree) => tree.bytes(),
        });
        tables.sum::<usize>() + self.classes.bytes() + size_of_val(&*self.conditions)
    }

    /// The first of the classifier's rules from index `from` on. Allocates nothing.
    fn first_from(&self, query: &Query, from: u32) -> Option<u32> {
        let pair = usize::from(query.from.0) * self.zones + usize::from(query.to.0);
        let mut best = u32::MAX;
        let mut point = None;
        for table in self.slots[pair].iter().take_while(|table| **table != NO_TABLE) {
            let holds = |rule: u32| self.conditions[rule as usize].hold(query);
            match &self.tables[*table as usize] {
                Table::Plain(rules) => {
                    let mut rules = rules.iter().filter(|rule| **rule >= from);
                    let found = rules.find(|rule| **rule >= best || holds(**rule));
                    best = best.min(found.copied().unwrap_or(u32::MAX));
                }
                Table::Tree(tree) => {
                    let point = point.get_or_insert_with(|| Point::new(&self.classes, query));
                    best = tree.first(point, from, best, &holds);
                }
            }
        }
        (best != u32::MAX).then_some(best)
    }
}

fn table(
    list: &[u32],
    rules: &[Classified],
    boxes: &mut Boxes<'_>,
    classes: u32,
    answers: Answers,
) -> Table {
    if list.len() <= PLAIN_RULES {
        return Table::Plain(list.into());
    }
    let mut entries = Vec::with_capacity(list.len());
    for &rule in list {
        boxes.add(rule, &rules[rule as usize].conditions, &mut entries);
    }
    Table::Tree(grow(entries, classes, answers))
}

/// Rules by the zones that they name, each in one kind of list only: lists of pairs first, then of
/// source zones, of destination zones, and the list of all zones.
struct Lists {
    zones: usize,
    lists: Vec<Vec<u32>>,
}

impl Lists {
    fn new(zones: usize, rules: &[Classified]) -> Self {
        let mut lists = vec![Vec::new(); zones * zones + 2 * zones + 1];
        for (index, rule) in (0..).zip(rules) {
            let zone = |zone: &crate::ZoneId| usize::from(zone.0);
            match (&rule.from, &rule.to) {
                (Zones::Any, Zones::Any) => lists[zones * (zones + 2)].push(index),
                (Zones::Any, Zones::Listed(to)) => {
                    to.iter().for_each(|to| lists[zones * (zones + 1) + zone(to)].push(index));
                }
                (Zones::Listed(from), Zones::Any) => {
                    from.iter().for_each(|from| lists[zones * zones + zone(from)].push(index));
                }
                (Zones::Listed(from), Zones::Listed(to)) => {
                    for (from, to) in
                        from.iter().flat_map(|from| to.iter().map(move |to| (from, to)))
                    {
                        lists[zone(from) * zones + zone(to)].push(index);
                    }
                }
            }
        }
        Self { zones, lists }
    }

    /// The lists of a pair; an empty one is named by the list of all zones, so that pairs without
    /// rules of their own are alike.
    fn of_pair(&self, pair: usize) -> [usize; KINDS] {
        let zones = self.zones;
        let all = zones * (zones + 2);
        let kinds = [pair, zones * zones + pair / zones, zones * (zones + 1) + pair % zones, all];
        kinds.map(|kind| if self.lists[kind].is_empty() { all } else { kind })
    }

    fn get(&self, kind: usize) -> &[u32] {
        &self.lists[kind]
    }

    fn merged(&self, kinds: [usize; KINDS]) -> Vec<u32> {
        let mut merged: Vec<u32> = kinds.iter().flat_map(|kind| self.get(*kind)).copied().collect();
        merged.sort_unstable();
        merged.dedup();
        merged
    }

    /// How many entries the merged lists of all pairs that differ would have.
    fn merged_len(&self) -> usize {
        let mut different: Vec<_> = (0..self.zones * self.zones).map(|p| self.of_pair(p)).collect();
        different.sort_unstable();
        different.dedup();
        different.iter().flatten().map(|kind| self.get(*kind).len()).sum()
    }
}

impl Conditions {
    pub(crate) fn hold(&self, query: &Query) -> bool {
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
