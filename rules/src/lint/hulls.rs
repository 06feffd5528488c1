//! What rules reach at most, in few bytes: most pairs of rules have nothing in common, and that is seen
//! here without looking at the rules.

use super::space::{Family, Region, Regions, Span};

/// The bounds of every rule, by family.
#[derive(Debug)]
pub(super) struct Hulls([Vec<Hull>; 2]);

/// From the first number to the last, of each of: source, destination (both as ranks among all ends of
/// spans), protocol, destination port or code.
#[derive(Debug, Clone, Copy)]
struct Hull {
    first: [u32; FIELDS],
    last: [u32; FIELDS],
}

const FIELDS: usize = 4;

/// Meets nothing, itself included.
const NOTHING: Hull = Hull { first: [u32::MAX; FIELDS], last: [0; FIELDS] };

impl Hulls {
    pub(super) fn new(rules: &[Regions]) -> Self {
        Self(Family::ALL.map(|family| {
            let regions = || rules.iter().map(|regions| regions[family as usize].as_ref());
            let mut ends: Vec<u128> = regions()
                .flatten()
                .flat_map(|region| [bounds(&region.sources), bounds(&region.destinations)])
                .flat_map(|(first, last)| [first, last])
                .collect();
            ends.sort_unstable();
            ends.dedup();
            regions()
                .map(|region| region.map_or(NOTHING, |region| Hull::new(region, &ends)))
                .collect()
        }))
    }

    /// The rules of a range that may have a packet in common with a rule, in their order.
    pub(super) fn near(
        &self,
        rule: usize,
        others: std::ops::Range<usize>,
    ) -> impl Iterator<Item = usize> + '_ {
        let [v4, v6] = &self.0;
        let (rule4, rule6) = (v4[rule], v6[rule]);
        others.filter(move |other| rule4.meets(&v4[*other]) || rule6.meets(&v6[*other]))
    }
}

impl Hull {
    fn new(region: &Region, ends: &[u128]) -> Self {
        let rank = |end: u128| ends.partition_point(|other| *other < end) as u32;
        let ranks = |(first, last): Span| (rank(first), rank(last));
        let numbers = |field: usize| {
            let spans = region.services.iter().map(|service| service[field]);
            let hull = spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0));
            (hull.0 as u32, hull.1 as u32)
        };
        let fields = [
            ranks(bounds(&region.sources)),
            ranks(bounds(&region.destinations)),
            numbers(0),
            numbers(2),
        ];
        Self { first: fields.map(|field| field.0), last: fields.map(|field| field.1) }
    }

    #[inline]
    fn meets(&self, other: &Self) -> bool {
        // Without branches: what decides differs from pair to pair.
        (0..FIELDS).fold(true, |meets, field| {
            meets
                & (self.first[field] <= other.last[field])
                & (other.first[field] <= self.last[field])
        })
    }
}

/// Sorted spans, at least one, from end to end.
fn bounds(spans: &[Span]) -> Span {
    let (first, last) = (spans.first(), spans.last());
    (first.map_or(0, |span| span.0), last.map_or(0, |span| span.1))
}
