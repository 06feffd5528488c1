//! The tree of boxes, and the search in it.

use std::hint::black_box;

use super::blocks::Block;
use super::entry::{Entry, Point};
use super::ranks::{Lines, Ranks};

/// Boxes of one table, ready to be searched.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub root: Branch,
    pub splits: Vec<Split>,
    /// The branches of all splits, by interval.
    pub branches: Vec<Branch>,
    /// The boxes of all leaves, each leaf's by rule.
    pub entries: Vec<Entry>,
    pub blocks: Vec<Block>,
    pub lines: Lines<u32, 16>,
}

/// A division of boxes by their intervals in one field.
#[derive(Debug)]
#[repr(align(32))]
pub(super) struct Split {
    pub field: u8,
    pub find: Find,
    /// The first of the split's own.
    pub branches: u32,
    /// The boxes that hold too many intervals to stand in each of them.
    pub wide: Branch,
}

/// How the branch of a value is found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Find {
    /// One for each value from this one on: where nearly every value begins an interval.
    Direct(u32),
    /// One for each interval; these begin them.
    Ranks(Ranks),
}

/// A part of the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Branch {
    /// The first rule in it; `u32::MAX` where there is none.
    first: u32,
    /// What it is, and where; see [`Place`].
    place: u32,
}

/// What a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// From here on so many entries.
    Leaf(usize, usize),
    Split(usize),
    /// From here on, up to the last of its run.
    Blocks(usize),
}

/// A branch holds a leaf's length in so many bits, beside its place.
const LENGTH_BITS: u32 = 5;
/// The most boxes of a leaf.
pub(super) const LONG_LEAF: usize = (1 << LENGTH_BITS) - 1;
/// The highest two bits tell what a branch is.
const PLACE_BITS: u32 = 30;
const LEAF_BITS: u32 = PLACE_BITS - LENGTH_BITS;

impl Default for Branch {
    fn default() -> Self {
        Self { first: u32::MAX, place: 0 }
    }
}

impl Branch {
    pub(super) fn new(first: u32, place: Place) -> Self {
        let small = |n: usize, bits: u32| {
            let n = u32::try_from(n).ok().filter(|n| n >> bits == 0);
            n.expect("the budget keeps trees far below")
        };
        let place = match place {
            Place::Leaf(at, len) => small(len, LENGTH_BITS) << LEAF_BITS | small(at, LEAF_BITS),
            Place::Split(at) => 1 << PLACE_BITS | small(at, PLACE_BITS),
            Place::Blocks(at) => 2 << PLACE_BITS | small(at, PLACE_BITS),
        };
        Self { first, place }
    }

    #[inline]
    pub(super) fn place(self) -> Place {
        let low = |bits: u32| (self.place & ((1 << bits) - 1)) as usize;
        match self.place >> PLACE_BITS {
            0 => Place::Leaf(low(LEAF_BITS), (self.place >> LEAF_BITS) as usize),
            1 => Place::Split(low(PLACE_BITS)),
            _ => Place::Blocks(low(PLACE_BITS)),
        }
    }
}

impl Tree {
    /// The first rule from `from` on and below `best` that a packet meets, else `best`. Boxes may
    /// hold more than their rule: `holds` has the last word on those that say so.
    #[inline]
    pub(super) fn first(
        &self,
        point: &Point,
        from: u32,
        best: u32,
        holds: &impl Fn(u32) -> bool,
    ) -> u32 {
        self.search(self.root, point, from, best, holds)
    }

    fn search(
        &self,
        mut branch: Branch,
        point: &Point,
        from: u32,
        mut best: u32,
        holds: &impl Fn(u32) -> bool,
    ) -> u32 {
        while branch.first < best {
            match branch.place() {
                Place::Leaf(at, len) => return self.leaf(at, len, point, from, best, holds),
                Place::Blocks(at) => return self.run(at, point, from, best, holds),
                Place::Split(at) => {
                    let split = &self.splits[at];
                    let inner = self.branch(split, point);
                    if matches!(split.find, Find::Direct(_)) {
                        self.look_ahead(inner, split.wide, point);
                    }
                    best = match inner.place() {
                        _ if inner.first >= best => best,
                        Place::Leaf(at, len) => self.leaf(at, len, point, from, best, holds),
                        // As deep as trees may grow; see `grow`.
                        Place::Split(_) | Place::Blocks(_) => {
                            self.search(inner, point, from, best, holds)
                        }
                    };
                    branch = split.wide;
                }
            }
        }
        best
    }

    /// Large splits are seldom in the cache, nor are their leaves: reads what two that stand beside
    /// each other lead to before either is searched, so that the memory is waited for once.
    #[inline]
    fn look_ahead(&self, inner: Branch, wide: Branch, point: &Point) {
        let Place::Split(at) = wide.place() else { return };
        let split = &self.splits[at];
        if !matches!(split.find, Find::Direct(_)) {
            return;
        }
        let rules = [inner, self.branch(split, point)].map(|branch| match branch.place() {
            Place::Leaf(at, _) => self.entries.get(at).map_or(0, Entry::rule),
            Place::Split(_) | Place::Blocks(_) => 0,
        });
        black_box(rules);
    }

    #[inline]
    fn leaf(
        &self,
        at: usize,
        len: usize,
        point: &Point,
        from: u32,
        best: u32,
        holds: &impl Fn(u32) -> bool,
    ) -> u32 {
        let entries = self.entries[at..at + len].iter();
        let found = entries.take_while(|entry| entry.rule() < best).find(|entry| {
            entry.contains(point)
                && entry.rule() >= from
                && (!entry.is_loose() || holds(entry.rule()))
        });
        found.map_or(best, Entry::rule)
    }

    /// The blocks from `at` on.
    fn run(
        &self,
        at: usize,
        point: &Point,
        from: u32,
        best: u32,
        holds: &impl Fn(u32) -> bool,
    ) -> u32 {
        for block in &self.blocks[at..] {
            let found = block.first(&self.lines, point, from, best, holds);
            if found < best || block.is_last {
                return found;
            }
        }
        best
    }

    /// The branch of a packet.
    #[inline]
    fn branch(&self, split: &Split, point: &Point) -> Branch {
        let value = point.0[usize::from(split.field)];
        let index = match &split.find {
            Find::Direct(first) => (value - first) as usize,
            Find::Ranks(ranks) => self.lines.rank(ranks, value),
        };
        self.branches[split.branches as usize + index]
    }

    pub(super) fn bytes(&self) -> usize {
        self.splits.len() * size_of::<Split>()
            + self.branches.len() * size_of::<Branch>()
            + self.entries.len() * size_of::<Entry>()
            + self.blocks.iter().map(Block::bytes).sum::<usize>()
            + self.lines.bytes()
    }
}
