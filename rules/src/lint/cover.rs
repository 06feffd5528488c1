//! Whether some rules leave nothing of a rule: decided exactly, or not at all within a budget.
//!
//! A packet of the rule is drawn. If none of the others matches it, something is left. If one does,
//! the box of that rule around the packet is cut out of the box from which the packet was drawn, and
//! the search goes on in the pieces until none is left.

use std::collections::BTreeSet;

use super::index::Index;
use super::space::{Cell, Family, Region, Regions};

/// Steps of all comparisons together; a step takes some ten nanoseconds.
const STEPS: usize = 40_000_000;
/// Steps for one rule.
const STEPS_PER_RULE: usize = 200_000;

/// What may still be spent, and the random numbers: the same ones for the same policy.
#[derive(Debug)]
pub(super) struct Work {
    all: usize,
    rule: usize,
    random: u64,
    /// Rules that were given up.
    pub unknown: usize,
}

impl Work {
    pub(super) fn new() -> Self {
        Self { all: STEPS, rule: STEPS_PER_RULE, random: 0, unknown: 0 }
    }

    /// Begins with another rule.
    pub(super) fn next_rule(&mut self) {
        self.rule = STEPS_PER_RULE;
    }

    /// `None` when nothing is left to spend.
    pub(super) fn spend(&mut self, steps: usize) -> Option<()> {
        self.all = self.all.checked_sub(steps)?;
        self.rule = self.rule.checked_sub(steps)?;
        Some(())
    }

    /// SplitMix64, from a fixed seed.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What other rules leave of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cover {
    /// Something.
    Open,
    /// Nothing: these match every packet of it together; in their order.
    By(BTreeSet<usize>),
    /// Not known within the budget.
    Unknown,
}

/// Rules to compare with.
#[derive(Debug)]
pub(super) struct Ground {
    pub rules: Vec<Regions>,
    index: Index,
}

impl Ground {
    pub(super) fn new(rules: Vec<Regions>) -> Self {
        Self { index: Index::new(&rules), rules }
    }

    /// What those rules for which `counts` holds leave of the packets of `wanted`, which matches
    /// something.
    pub(super) fn cover(
        &self,
        wanted: &Regions,
        counts: impl Fn(usize) -> bool + Copy,
        work: &mut Work,
    ) -> Cover {
        let mut together = BTreeSet::new();
        let mut unknown = false;
        let mut tried_alone = false;
        for family in Family::ALL {
            let Some(region) = &wanted[family as usize] else { continue };
            let Some(above) = self.matching_one(region, family, counts, work) else {
                return Cover::Unknown;
            };
            if above.is_empty() {
                return Cover::Open;
            }
            // Whoever takes all takes this packet too.
            if !tried_alone
                && let Some(one) = above.iter().find(|rule| self.includes(**rule, wanted))
            {
                return Cover::By([*one].into());
            }
            tried_alone = true;
            match self.cover_family(region, family, counts, work) {
                Cover::Open => return Cover::Open,
                Cover::By(rules) => together.extend(rules),
                Cover::Unknown => unknown = true,
            }
        }
        if unknown { Cover::Unknown } else { Cover::By(together) }
    }

    /// The rules that match one packet of a region.
    fn matching_one(
        &self,
        region: &Region,
        family: Family,
        counts: impl Fn(usize) -> bool,
        work: &mut Work,
    ) -> Option<Vec<usize>> {
        let cell = region.cells().next()?;
        let point = cell.point(|| work.random());
        self.index.matching(&self.rules, (family, &point), counts, work)
    }

    /// The rules behind `after` that match all packets of `wanted` by themselves; not all of them if
    /// the budget is spent.
    pub(super) fn including(
        &self,
        wanted: &Regions,
        counts: impl Fn(usize) -> bool,
        work: &mut Work,
    ) -> Vec<usize> {
        let some = Family::ALL
            .into_iter()
            .find_map(|family| wanted[family as usize].as_ref().map(|region| (family, region)));
        let Some((family, region)) = some else { return Vec::new() };
        let found = self.matching_one(region, family, counts, work).unwrap_or_default();
        found.into_iter().filter(|rule| self.includes(*rule, wanted)).collect()
    }

    fn includes(&self, rule: usize, wanted: &Regions) -> bool {
        Family::ALL.into_iter().all(|family| {
            match (&self.rules[rule][family as usize], &wanted[family as usize]) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(all), Some(wanted)) => all.includes(wanted),
            }
        })
    }

    fn cover_family(
        &self,
        region: &Region,
        family: Family,
        counts: impl Fn(usize) -> bool + Copy,
        work: &mut Work,
    ) -> Cover {
        let mut together = BTreeSet::new();
        let mut cells = region.cells();
        let mut left: Vec<Cell> = Vec::new();
        while let Some(piece) = left.pop().or_else(|| cells.next()) {
            if work.spend(1).is_none() {
                return Cover::Unknown;
            }
            let point = piece.point(|| work.random());
            let Some(matching) = self.index.matching(&self.rules, (family, &point), counts, work)
            else {
                return Cover::Unknown;
            };
            let holes = matching.into_iter().filter_map(|rule| {
                let around = self.rules[rule][family as usize].as_ref()?.around(&point)?;
                Some((rule, around.intersection(&piece)?))
            });
            // The first of the largest.
            let Some((rule, hole)) =
                holes.reduce(|best, next| if next.1.size() > best.1.size() { next } else { best })
            else {
                return Cover::Open;
            };
            together.insert(rule);
            piece.cut(&hole, &mut left);
        }
        Cover::By(together)
    }
}
