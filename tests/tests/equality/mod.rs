//! Both datapaths do the same: one engine alone, and one with the real programs before it, get the same packets, and
//! every outcome is compared. `differences` has what may differ.
//!
//! As root with GABION_NETNS=1. `make equality SECONDS=600` runs fresh seeds, `make equality SEED=7` one again.
#![allow(clippy::unwrap_used)]

mod challenges;
mod differences;
mod kernel;
mod pair;
mod run;
mod traffic;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use differences::Difference;
use gabion_datapath::ebpf::Exit;
use kernel::Kernel;
use pair::Counts;
use run::{interfaces, run};

/// So many sequences run with the other tests.
const SEEDS: u64 = 160;

#[test]
fn both_datapaths_do_the_same() {
    let Some(mut kernel) = Kernel::new(&interfaces()) else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("GABION_EQUALITY_SEED") {
        let shown = run(&mut kernel, seed, true).map(|counts| format!("{counts:?}"));
        println!("{}", shown.unwrap_or_else(|what| panic!("seed {seed}: {what}")));
    } else if let Some(seconds) = number("GABION_EQUALITY_SECONDS") {
        hunt(&mut kernel, Duration::from_secs(seconds));
    } else {
        let mut total = Total::default();
        for seed in 0..SEEDS {
            try_seed(&mut kernel, seed, &mut total).unwrap();
        }
        println!("{total}");
        println!("{:?}", kernel.exits());
        total.assert_floors();
        let ends = kernel.ends();
        println!("{ends:?}");
        assert!(ends.handshakes > 5 * SEEDS && 2 * ends.fins > SEEDS, "{ends:?}");
        assert!(ends.answers > 2 * SEEDS, "{ends:?}");
        assert!(ends.half_closed > 5 * SEEDS, "{ends:?}");
        let all = kernel.exits().len();
        // All but `Refused`, which is for want of memory, `Unconfirmed`, which is for want of a process, `Challenged`, which
        // is for floods, and the four for want of other nodes.
        assert_eq!(all, Exit::ALL.len() - 7, "{:?}", kernel.exits());
    }
}

fn hunt(kernel: &mut Kernel, time: Duration) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (first, started) = (clock.as_millis() as u64, Instant::now());
    let (mut total, mut failed) = (Total::default(), Vec::new());
    while started.elapsed() < time {
        let seed = first + total.sequences + failed.len() as u64;
        if let Err(what) = try_seed(kernel, seed, &mut total) {
            println!("{what}");
            failed.push(seed);
        }
    }
    println!("{total}");
    println!("{:?}", kernel.exits());
    assert!(failed.is_empty(), "failed: {failed:?}");
}

fn try_seed(kernel: &mut Kernel, seed: u64, total: &mut Total) -> Result<(), String> {
    let counts = run(kernel, seed, false).map_err(|what| format!("seed {seed}: {what}"))?;
    total.sequences += 1;
    total.counts.frames += counts.frames;
    total.counts.forwarded += counts.forwarded;
    total.counts.moved += counts.moved;
    for (difference, count) in counts.excuses {
        *total.counts.excuses.entry(difference).or_default() += count;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Total {
    sequences: u64,
    counts: Counts,
}

impl Total {
    /// A test that the programs have no part in would hold whatever they do; and what is excused but never met is not
    /// to be excused.
    fn assert_floors(&self) {
        let Counts { frames, forwarded, moved, ref excuses } = self.counts;
        assert!(frames > 400 * self.sequences, "{self}");
        assert!(2 * forwarded > frames, "{self}");
        assert!(5 * moved > 2 * forwarded, "{self}");
        for difference in Difference::COMMON {
            assert!(excuses.contains_key(&difference), "{difference:?}: {self}");
        }
        let others = excuses.get(&Difference::Order).copied().unwrap_or_default();
        assert!(20 * others <= self.sequences, "{self}");
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { frames, forwarded, moved, ref excuses } = self.counts;
        let sequences = self.sequences;
        write!(f, "{sequences} sequences, {frames} frames, {forwarded} forwarded, ")?;
        write!(f, "{moved} of them by the programs; excused: {excuses:?}")
    }
}
