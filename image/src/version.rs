//! Which version is built: name and time, both of the commit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::program;

/// What is built, and of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `0.1.0-20261122202400`: the product's, and the commit's time, so that later ones sort higher. A changed
    /// checkout has `.changed` after it.
    pub name: String,
    pub commit: String,
    /// The commit's time, and that of all files inside: seconds since 1970.
    pub epoch_s: u64,
}

impl Version {
    /// # Errors
    /// `checkout` is no git checkout.
    pub fn of(checkout: &Path) -> Result<Self> {
        let git = |arguments: &[&str]| {
            program::read(Command::new("git").arg("-C").arg(checkout).args(arguments))
        };
        let told = git(&["log", "-1", "--format=%H %ct"])?;
        let (commit, epoch_s) = told.trim().split_once(' ').context("git log tells no commit")?;
        let is_changed = !git(&["status", "--porcelain"])?.trim().is_empty();
        Ok(Self::new(commit, epoch_s.parse()?, is_changed))
    }

    fn new(commit: &str, epoch_s: u64, is_changed: bool) -> Self {
        let changed = if is_changed { ".changed" } else { "" };
        let product = env!("CARGO_PKG_VERSION");
        let name = format!("{product}-{}{changed}", digits(epoch_s));
        Self { name, commit: commit.to_owned(), epoch_s }
    }

    /// The time as RFC 3339 has it.
    pub fn time(&self) -> String {
        let (year, month, day) = date(self.epoch_s / DAY_S);
        let (hour, minute, second) = time_of_day(self.epoch_s);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

const DAY_S: u64 = 86_400;

fn digits(epoch_s: u64) -> String {
    let (year, month, day) = date(epoch_s / DAY_S);
    let (hour, minute, second) = time_of_day(epoch_s);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

fn time_of_day(epoch_s: u64) -> (u64, u64, u64) {
    let second = epoch_s % DAY_S;
    (second / 3_600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day since 1970, in the proleptic Gregorian calendar: years begin in March, so
/// that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_its_commits_time() {
        let version = Version::new("fe96670", 1_795_379_040, false);
        assert!(version.name.ends_with("-20261122202400"), "{}", version.name);
        assert_eq!(version.time(), "2026-11-22T20:24:00Z");
        assert!(Version::new("fe96670", 1_795_379_040, true).name.ends_with(".changed"));
    }

    #[test]
    fn days_are_dates() {
        for (day, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(day), expected, "{day}");
        }
    }
}
