//! From samples to what may be claimed: the median of ratios within pairs, with an interval.

use serde::Serialize;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 4_000;
/// The share of resamples that the interval leaves out at each end: 95 % lie within.
const TAIL: f64 = 0.025;

/// A median and the interval that it lies in with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    /// `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let middle = median(values)?;
        let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let resample: Vec<f64> =
                    values.iter().map(|_| values[draw.below(values.len())]).collect();
                median(&resample)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[(share * (medians.len() - 1) as f64).round() as usize];
        Some(Self { median: middle, low: at(TAIL), high: at(1.0 - TAIL) })
    }

    pub(crate) fn lies_within(&self, low: f64, high: f64) -> bool {
        low <= self.low && self.high <= high
    }
}

/// `None` without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) =
        (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*lower, *upper))
}

/// xorshift64: the same interval from the same samples, always.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[3.0, 1.0, 10.0]), Some(3.0));
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows() {
        let spread = |count: u32| {
            let values: Vec<f64> = (0..count).map(|i| 1.0 + f64::from(i % 10) / 100.0).collect();
            let interval = Interval::of(&values).unwrap();
            assert!(interval.low <= interval.median && interval.median <= interval.high);
            interval.high - interval.low
        };
        assert!(spread(200) < spread(10));
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        let interval = Interval::of(&[0.7; 12]).unwrap();
        assert_eq!(interval, Interval { median: 0.7, low: 0.7, high: 0.7 });
        assert!(interval.lies_within(0.7, 0.7));
        assert!(!interval.lies_within(0.71, 0.8));
    }
}
