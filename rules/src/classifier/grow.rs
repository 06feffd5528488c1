//! The building of a tree.
//!
//! Boxes are divided by the field that leaves the fewest together: each interval between two ends of
//! ranges becomes a branch, and a box stands in every branch that it holds. Boxes that hold many
//! branches go into one of their own, beside the others, and are divided again there. How often boxes
//! are repeated is bounded at each division and in all; what cannot be divided within these bounds
//! becomes blocks, so that neither time nor memory grows faster than the rules times their
//! logarithm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::blocks::{BLOCK, Block};
use super::entry::{Entry, FIELDS};
use super::tree::{Branch, Find, LONG_LEAF, Place, Split, Tree};

/// What is asked of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The first rule that matches: what lies behind it in every packet is left out.
    First,
    /// All of them.
    All,
}

/// So many boxes are not divided further.
const LEAF: usize = 8;
/// A division may repeat boxes so often, on average ...
const REPEATS: usize = 3;
/// ... and a box of its own so often, unless all fit.
const NARROW: usize = 4;
/// All divisions together may repeat boxes so often, on average.
const COPIES: usize = 16;
/// Divisions inside each other: bounds the stack of build and search.
const DEPTH: usize = 24;

/// Where no more values than so many share an interval, on average, each value has its own branch.
const SPREAD: usize = 4;
/// Smaller divisions are found as fast by their intervals.
const DIRECT_INTERVALS: usize = 256;

/// Builds the tree of `entries`, which are ordered by rule, for addresses of `classes` classes.
pub(super) fn grow(entries: Vec<Entry>, classes: u32, answers: Answers) -> Tree {
    let budget = entries.len() * COPIES + BLOCK;
    let mut grower = Grower { tree: Tree::default(), answers, budget };
    let addresses = (0, classes - 1);
    let region = Region([addresses, addresses, (0, u32::MAX), (0, u16::MAX.into())]);
    grower.tree.root = grower.grow(entries, &region, 0);
    grower.tree
}

struct Grower {
    tree: Tree,
    answers: Answers,
    /// Boxes that leaves and branches may still take.
    budget: usize,
}

/// The packets that can come to a branch, by field.
#[derive(Debug, Clone, Copy)]
struct Region([(u32, u32); FIELDS]);

/// How boxes lie in one field.
struct Division {
    field: usize,
    /// Where intervals begin; the first at the region's beginning.
    starts: Vec<u32>,
    /// For each box the intervals that it holds, from and up to; `None` where it is wide.
    spans: Vec<Option<(u32, u32)>>,
    narrow: usize,
    /// Boxes that a box is left with, on average, itself included.
    company: usize,
}

impl Grower {
    fn grow(&mut self, mut entries: Vec<Entry>, region: &Region, depth: usize) -> Branch {
        if self.answers == Answers::First {
            let whole = entries.iter().position(|e| !e.is_loose() && region.is_within(e));
            entries.truncate(whole.map_or(entries.len(), |at| at + 1));
        }
        let Some(first) = entries.first().map(Entry::rule) else { return Branch::default() };
        if entries.len() <= LEAF {
            return self.leaf(first, &entries);
        }
        let open: Vec<usize> = (0..FIELDS).filter(|f| region.is_open(*f, &entries)).collect();
        if let [field] = *open
            && self.answers == Answers::First
            && !entries.iter().any(Entry::is_loose)
        {
            return self.line(&entries, region, field);
        }
        let divisions = open.into_iter().map(|field| Division::new(&entries, region, field));
        let best = divisions.min_by_key(|d| (entries.len() - d.narrow) + d.company);
        match best {
            Some(division) if depth < DEPTH && self.can_pay(&division, entries.len()) => {
                self.split(first, entries, region, &division, depth)
            }
            Some(_) | None => self.rest(first, &entries),
        }
    }

    /// Whether a division is worth its copies.
    fn can_pay(&mut self, division: &Division, entries: usize) -> bool {
        let copies = division.copies();
        let is_worth = division.narrow.saturating_sub(division.company) * 8 >= entries;
        let is_paid = is_worth && copies <= self.budget;
        if is_paid {
            self.budget -= copies;
        }
        is_paid
    }

    fn leaf(&mut self, first: u32, entries: &[Entry]) -> Branch {
        let at = self.tree.entries.len();
        self.tree.entries.extend_from_slice(entries);
        Branch::new(first, Place::Leaf(at, entries.len()))
    }

    /// Boxes that cannot be divided.
    fn rest(&mut self, first: u32, entries: &[Entry]) -> Branch {
        if entries.len() <= LONG_LEAF {
            return self.leaf(first, entries);
        }
        let at = self.tree.blocks.len();
        let mut chunks = entries.chunks(BLOCK).peekable();
        while let Some(chunk) = chunks.next() {
            let block = Block::new(chunk, chunks.peek().is_none(), &mut self.tree.lines);
            self.tree.blocks.push(block);
        }
        Branch::new(first, Place::Blocks(at))
    }

    fn split(
        &mut self,
        first: u32,
        entries: Vec<Entry>,
        region: &Region,
        division: &Division,
        depth: usize,
    ) -> Branch {
        let wide: Vec<Entry> = entries
            .iter()
            .zip(&division.spans)
            .filter(|(_, s)| s.is_none())
            .map(|(e, _)| *e)
            .collect();
        let mut parts = vec![Vec::new(); division.starts.len()];
        for (entry, span) in entries.iter().zip(&division.spans) {
            let Some((from, to)) = *span else { continue };
            for part in &mut parts[from as usize..to as usize] {
                part.push(*entry);
            }
        }
        drop(entries);
        let mut branches = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let region = region.interval(division.field, &division.starts, index);
            branches.push(self.grow(part, &region, depth + 1));
        }
        let wide = self.grow(wide, region, depth + 1);
        self.push_split(first, region, division.field, &division.starts, &branches, wide)
    }

    /// Boxes that differ in one field only: each interval has one first.
    fn line(&mut self, entries: &[Entry], region: &Region, field: usize) -> Branch {
        let starts = region.starts(entries.iter(), field);
        let mut branches = Vec::with_capacity(starts.len());
        let entries_at = self.tree.entries.len();
        self.tree.entries.extend_from_slice(entries);
        let mut by_start: Vec<usize> = (0..entries.len()).collect();
        by_start.sort_by_key(|index| entries[*index].range(field).0);
        let mut coming = by_start.into_iter().peekable();
        // Indices of boxes that have begun; the least is the first rule.
        let mut begun = BinaryHeap::new();
        for &start in &starts {
            while let Some(index) = coming.next_if(|index| entries[*index].range(field).0 <= start)
            {
                begun.push(Reverse(index));
            }
            while begun.peek().is_some_and(|index| entries[index.0].range(field).1 < start) {
                begun.pop();
            }
            let branch = begun.peek().map(|&Reverse(index)| {
                Branch::new(entries[index].rule(), Place::Leaf(entries_at + index, 1))
            });
            branches.push(branch.unwrap_or_default());
        }
        let first = entries[0].rule();
        self.push_split(first, region, field, &starts, &branches, Branch::default())
    }

    fn push_split(
        &mut self,
        first: u32,
        region: &Region,
        field: usize,
        starts: &[u32],
        branches: &[Branch],
        wide: Branch,
    ) -> Branch {
        let at = small(self.tree.branches.len());
        let (from, to) = region.0[field];
        let values = (to - from) as usize;
        let find = if starts.len() >= DIRECT_INTERVALS && values <= starts.len() * SPREAD {
            let ends = starts[1..].iter().copied().chain([to + 1]);
            for ((start, end), branch) in starts.iter().zip(ends).zip(branches) {
                self.tree.branches.extend((*start..end).map(|_| *branch));
            }
            Find::Direct(from)
        } else {
            self.tree.branches.extend_from_slice(branches);
            Find::Ranks(self.tree.lines.add(starts))
        };
        self.tree.splits.push(Split { field: small(field), find, branches: at, wide });
        Branch::new(first, Place::Split(self.tree.splits.len() - 1))
    }
}

/// The budget keeps trees far below what their numbers hold.
fn small<N: TryFrom<usize, Error: std::fmt::Debug>>(n: usize) -> N {
    N::try_from(n).expect("the budget keeps trees far below")
}

impl Division {
    fn new(entries: &[Entry], region: &Region, field: usize) -> Self {
        let starts = region.starts(entries.iter(), field);
        let width = |entry: &Entry| {
            let (from, to) = span(entry, region, field, &starts);
            (to - from) as usize
        };
        let widths: Vec<usize> = entries.iter().map(width).collect();
        let all_fit = widths.iter().sum::<usize>() <= REPEATS * entries.len();
        let is_narrow = |width: usize| all_fit || width <= NARROW;
        let narrow = || entries.iter().zip(&widths).filter(|(_, width)| is_narrow(**width));
        // Without the ends of the wide ones.
        let starts = region.starts(narrow().map(|(entry, _)| entry), field);
        let spans: Vec<_> = entries
            .iter()
            .zip(&widths)
            .map(|(entry, width)| is_narrow(*width).then(|| span(entry, region, field, &starts)))
            .collect();
        let mut changes = vec![0_i64; starts.len() + 1];
        for (from, to) in spans.iter().flatten() {
            changes[*from as usize] += 1;
            changes[*to as usize] -= 1;
        }
        let (mut inside, mut sum, mut squares) = (0, 0, 0);
        for change in changes {
            inside += change;
            sum += inside;
            squares += inside * inside;
        }
        let company = usize::try_from(squares / sum.max(1)).unwrap_or(usize::MAX);
        Self { field, starts, narrow: narrow().count(), company, spans }
    }

    fn copies(&self) -> usize {
        self.spans.iter().flatten().map(|(from, to)| (to - from) as usize).sum()
    }
}

/// The intervals that a box holds, from and up to.
fn span(entry: &Entry, region: &Region, field: usize, starts: &[u32]) -> (u32, u32) {
    let (first, last) = region.clip(entry, field);
    let from = starts.partition_point(|start| *start < first);
    let to = starts.partition_point(|start| *start <= last);
    (from as u32, to as u32)
}

impl Region {
    /// Whether the box holds the whole of the region.
    fn is_within(&self, entry: &Entry) -> bool {
        (0..FIELDS).all(|field| self.clip(entry, field) == self.0[field])
    }

    /// Whether some boxes do not hold the whole of the region in this field.
    fn is_open(&self, field: usize, entries: &[Entry]) -> bool {
        entries.iter().any(|entry| self.clip(entry, field) != self.0[field])
    }

    fn clip(&self, entry: &Entry, field: usize) -> (u32, u32) {
        let ((first, last), (from, to)) = (entry.range(field), self.0[field]);
        (first.max(from), last.min(to))
    }

    /// Where intervals begin, rising, the region's beginning first.
    fn starts<'e>(&self, entries: impl Iterator<Item = &'e Entry>, field: usize) -> Vec<u32> {
        let (from, to) = self.0[field];
        let mut starts = vec![from];
        for entry in entries {
            let (first, last) = self.clip(entry, field);
            starts.push(first);
            starts.extend((last < to).then(|| last + 1));
        }
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    fn interval(&self, field: usize, starts: &[u32], index: usize) -> Self {
        let mut region = *self;
        let last = starts.get(index + 1).map_or(self.0[field].1, |next| next - 1);
        region.0[field] = (starts[index], last);
        region
    }
}
