//! Runs the cluster's simulator for as long as one likes: `simulate SECONDS`, or one seed: `simulate --seed N`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gabion_tests::cluster::{commit, seed_of, simulate};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    match (words.first().map(String::as_str), number(0), number(1)) {
        (Some("--seed"), _, Some(seed)) => show(seed),
        (_, Some(seconds), from) => hunt(Duration::from_secs(seconds), from),
        _ => {
            eprintln!("usage: simulate SECONDS [FIRST-SEED] | simulate --seed SEED");
            ExitCode::from(2)
        }
    }
}

fn show(seed: u64) -> ExitCode {
    match simulate(seed) {
        Ok(report) => {
            println!("seed {seed}: {report:?}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("seed {seed} of {}: {what}", commit());
            ExitCode::FAILURE
        }
    }
}

fn hunt(time: Duration, from: Option<u64>) -> ExitCode {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = from.unwrap_or(clock.as_nanos() as u64 % 1_000_000_000);
    let started = Instant::now();
    let (mut count, mut failed) = (0_u64, Vec::new());
    while started.elapsed() < time {
        let seed = seed_of(first + count);
        match std::panic::catch_unwind(|| simulate(seed)) {
            Ok(Ok(_)) => {}
            Ok(Err(what)) => {
                println!("seed {seed}: {}", what.lines().next().unwrap_or_default());
                failed.push(seed);
            }
            Err(_) => failed.push(seed),
        }
        count += 1;
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!(
        "{count} schedules from seed {first} of {}, {:.0} a minute; failed: {failed:?}",
        commit(),
        count as f64 / minutes
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
