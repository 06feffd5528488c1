//! P13: finding a free port when hardly one is left.

use std::ops::RangeInclusive;
use std::time::Instant;

use gabion_engine::measure::Ports;

use crate::Line;
use crate::lookup::Dice;

const RANGE: RangeInclusive<u16> = 1_024..=65_535;
/// Ports that are free: one of a thousand.
const FREE: usize = 64;
const ROUNDS: usize = 400_000;

/// Stops the program if a port is refused while there is one.
pub(crate) fn measure() -> Vec<Line> {
    let mut ports = Ports::new([3; 32]);
    let mut taken: Vec<u16> = RANGE.skip(FREE).filter_map(|_| ports.allocate(&RANGE)).collect();
    let mut dice = Dice::new(4);
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let place = dice.below(taken.len() as u32) as usize;
        ports.release(taken[place]);
        let begin = Instant::now();
        let port = ports.allocate(&RANGE);
        times.push(begin.elapsed().as_nanos() as f64);
        taken[place] = port.expect("one of a thousand ports is free");
    }
    let clock: Vec<f64> = (0..ROUNDS).map(|_| Instant::now().elapsed().as_nanos() as f64).collect();
    vec![
        Line::of("time/allocate-port/tcp4/99.9%-used".to_owned(), "ns", times),
        Line::of("time/clock/none/in-the-line-above".to_owned(), "ns", clock),
    ]
}
