//! Boxes that no field tells apart: for each field the bits of the boxes that hold an interval.

use super::entry::{Entry, FIELDS, Point};
use super::ranks::{Lines, Ranks};

/// Up to [`BLOCK`] boxes in the order of their rules.
#[derive(Debug)]
pub(super) struct Block {
    entries: Box<[Entry]>,
    fields: [Option<Field>; FIELDS],
    /// Whether the run of blocks of one branch ends here.
    pub is_last: bool,
}

#[derive(Debug)]
struct Field {
    /// Where the intervals begin.
    ranks: Ranks,
    /// For each interval the boxes that hold it.
    boxes: Box<[Bits]>,
}

type Bits = [u64; BLOCK / 64];

/// So many boxes keep a block's tables of one field at 16 KiB.
pub(super) const BLOCK: usize = 256;

impl Block {
    /// `entries` are at least one and at most [`BLOCK`], by rule.
    pub(super) fn new(entries: &[Entry], is_last: bool, lines: &mut Lines<u32, 16>) -> Self {
        let fields = std::array::from_fn(|field| Field::new(entries, field, lines));
        Self { entries: entries.into(), fields, is_last }
    }

    pub(super) fn first(
        &self,
        lines: &Lines<u32, 16>,
        point: &Point,
        from: u32,
        best: u32,
        holds: &impl Fn(u32) -> bool,
    ) -> u32 {
        if self.entries[0].rule() >= best || self.last_rule() < from {
            return best;
        }
        let mut bits = [u64::MAX; BLOCK / 64];
        for (field, value) in self.fields.iter().zip(point.0) {
            let Some(field) = field else { continue };
            let boxes = &field.boxes[lines.rank(&field.ranks, value)];
            bits.iter_mut().zip(boxes).for_each(|(bits, boxes)| *bits &= boxes);
        }
        for (word, mut bits) in bits.into_iter().enumerate() {
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(entry) = self.entries.get(at).filter(|entry| entry.rule() < best) else {
                    return best;
                };
                // A field that does not tell boxes apart has not been asked yet.
                if entry.rule() >= from
                    && entry.contains(point)
                    && (!entry.is_loose() || holds(entry.rule()))
                {
                    return entry.rule();
                }
            }
        }
        best
    }

    fn last_rule(&self) -> u32 {
        self.entries[self.entries.len() - 1].rule()
    }

    pub(super) fn bytes(&self) -> usize {
        let fields =
            self.fields.iter().flatten().map(|field| field.boxes.len() * size_of::<Bits>());
        size_of::<Self>() + self.entries.len() * size_of::<Entry>() + fields.sum::<usize>()
    }
}

impl Field {
    /// `None` where all boxes have the same range.
    fn new(entries: &[Entry], field: usize, lines: &mut Lines<u32, 16>) -> Option<Self> {
        let ranges = entries.iter().map(|entry| entry.range(field));
        let mut starts: Vec<u32> = vec![0];
        for (first, last) in ranges.clone() {
            starts.extend([Some(first), last.checked_add(1)].into_iter().flatten());
        }
        starts.sort_unstable();
        starts.dedup();
        let same = entries.first().map(|entry| entry.range(field));
        if ranges.clone().all(|range| Some(range) == same) {
            return None;
        }
        let mut boxes = vec![[0; BLOCK / 64]; starts.len()];
        for (at, (first, last)) in ranges.enumerate() {
            let from = starts.partition_point(|start| *start < first);
            let to = starts.partition_point(|start| *start <= last);
            for bits in &mut boxes[from..to] {
                bits[at / 64] |= 1 << (at % 64);
            }
        }
        Some(Self { ranks: lines.add(&starts), boxes: boxes.into() })
    }
}
