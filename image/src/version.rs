//! Which version is built: name and time, both of the commit.

use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result};

use crate::program;

/// Tells versions of one commit apart: lower-case letters and digits, 16 at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

/// A label becomes part of file names, of the kernel line and of what the boot loader compares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no label: 1 to {LONGEST_LABEL} lower-case letters and digits")]
pub struct ParseLabelError(String);

const LONGEST_LABEL: usize = 16;

impl FromStr for Label {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, ParseLabelError> {
        let fits = (1..=LONGEST_LABEL).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseLabelError(text.to_owned())) }
    }
}

/// What is built, and of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `0.1.0-20261122202400`: the product's, and the commit's time, so that later ones sort higher. A changed
    /// checkout has `.changed` after it, and a label comes last: it is higher than the same without.
    pub name: String,
    pub commit: String,
    /// The commit's time, and that of all files inside: seconds since 1970.
    pub epoch_s: u64,
}

impl Version {
    /// # Errors
    /// `checkout` is no git checkout.
    pub fn of(checkout: &Path, label: Option<&Label>) -> Result<Self> {
        let git = |arguments: &[&str]| {
            program::read(Command::new("git").arg("-C").arg(checkout).args(arguments))
        };
        let told = git(&["log", "-1", "--format=%H %ct"])?;
        let (commit, epoch_s) = told.trim().split_once(' ').context("git log tells no commit")?;
        let is_changed = !git(&["status", "--porcelain"])?.trim().is_empty();
        Ok(Self::new(commit, epoch_s.parse()?, is_changed, label))
    }

    fn new(commit: &str, epoch_s: u64, is_changed: bool, label: Option<&Label>) -> Self {
        let changed = if is_changed { ".changed" } else { "" };
        let product = env!("CARGO_PKG_VERSION");
        let label = label.map(|Label(text)| format!(".{text}")).unwrap_or_default();
        let name = format!("{product}-{}{changed}{label}", digits(epoch_s));
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
        let version = Version::new("fe96670", 1_795_379_040, false, None);
        assert!(version.name.ends_with("-20261122202400"), "{}", version.name);
        assert_eq!(version.time(), "2026-11-22T20:24:00Z");
        let changed = Version::new("fe96670", 1_795_379_040, true, None);
        assert!(changed.name.ends_with("-20261122202400.changed"), "{}", changed.name);
    }

    #[test]
    fn a_label_tells_versions_of_one_commit_apart() {
        let label = "next".parse().unwrap();
        let labelled = Version::new("fe96670", 1_795_379_040, true, Some(&label));
        assert!(labelled.name.ends_with(".changed.next"), "{}", labelled.name);
        for bad in ["", "a b", "+3", "../x", "Next", "seventeenletters1"] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
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
