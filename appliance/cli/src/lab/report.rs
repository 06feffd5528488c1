//! What a scenario has found: figures, and checks that they are held against.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::present::{Paint, Tone, say};

/// Figures in the order in which they were found, and checks.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    figures: Vec<(&'static str, Value)>,
    checks: Vec<Held>,
}

/// A check with what was seen.
#[derive(Debug)]
struct Held {
    name: &'static str,
    expected: &'static str,
    passed: bool,
    /// Nothing but a bound on time is held.
    is_timed: bool,
    seen: String,
}

impl Findings {
    pub(crate) fn count(&mut self, name: &'static str, value: u64) {
        self.figures.push((name, value.into()));
    }

    /// In milliseconds, to a tenth; `None` where nothing was measured.
    pub(crate) fn time(&mut self, name: &'static str, value: Option<Duration>) {
        let value = value.map(|value| (value.as_secs_f64() * 10_000.0).round() / 10.0);
        self.figures.push((name, value.into()));
    }

    pub(crate) fn share(&mut self, name: &'static str, value: Option<f64>) {
        self.figures.push((name, value.into()));
    }

    pub(crate) fn note(&mut self, name: &'static str, text: String) {
        self.figures.push((name, text.into()));
    }

    pub(crate) fn check(
        &mut self,
        name: &'static str,
        expected: &'static str,
        passed: bool,
        seen: String,
    ) {
        self.checks.push(Held { name, expected, passed, is_timed: false, seen });
    }

    /// A check that a busy machine can fail: the scenario fails with it, but tests do not.
    pub(crate) fn check_time(
        &mut self,
        name: &'static str,
        expected: &'static str,
        passed: bool,
        seen: String,
    ) {
        self.checks.push(Held { name, expected, passed, is_timed: true, seen });
    }

    pub(crate) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// The figures at the top, so that programs find them by their names.
    pub(crate) fn json(&self, scenario: &str, about: Map<String, Value>) -> Value {
        let check = |check: &Held| {
            let detail = format!("{}: {}", check.expected, check.seen);
            let late = check.is_timed && !check.passed;
            json!({ "name": check.name, "passed": check.passed, "late": late, "detail": detail })
        };
        let checks: Vec<_> = self.checks.iter().map(check).collect();
        let mut report = Map::new();
        report.insert("scenario".to_owned(), scenario.into());
        report.insert("passed".to_owned(), self.passed().into());
        report.extend(self.figures.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        report.extend(about);
        report.insert("checks".to_owned(), checks.into());
        report.into()
    }

    /// For people: a line of figures and a line for each check.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let mut text = String::from("\n");
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|(name, value)| {
                let value = if value.is_null() { "-".to_owned() } else { value.to_string() };
                format!("{} {}", paint.apply(Tone::Faint, &name.replace('_', " ")), value)
            })
            .collect();
        for line in figures.chunks(5) {
            text += &format!("  {}\n", line.join("   "));
        }
        text += "\n";
        for check in &self.checks {
            let (tone, mark) = if check.passed { (Tone::Good, "✓") } else { (Tone::Bad, "✗") };
            let mark = paint.apply(tone, mark);
            text += &format!("  {mark} {:45} {}\n", check.expected, check.seen);
        }
        text
    }
}

/// Where a run is told of: standard output, or standard error where JSON has the former.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) to_stderr: bool,
    pub(crate) paint: Paint,
}

impl Page {
    /// For a run whose JSON goes there.
    pub(crate) fn beside(json: Option<&Path>) -> Self {
        let to_stderr = json == Some(Path::new("-"));
        let paint = if to_stderr { Paint::stderr() } else { Paint::stdout() };
        Self { to_stderr, paint }
    }

    pub(crate) fn line(self, text: &str) {
        if self.to_stderr {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// What opens a run.
    pub(crate) fn title(self, text: &str) {
        self.line(&format!("\n{}", self.paint.apply(Tone::Strong, text)));
    }

    /// What closes it.
    ///
    /// # Errors
    /// If a check has failed, as it has been shown.
    pub(crate) fn close(self, findings: &Findings, end: &str) -> Result<()> {
        self.line(&findings.text(self.paint));
        self.line(&format!("  {end}\n"));
        if findings.passed() { Ok(()) } else { Err(Failure::shown().into()) }
    }
}

/// Writes JSON to a file, or to standard output for `-`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write(path: &Path, report: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    if path == Path::new("-") {
        return Ok(say(text)?);
    }
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Of durations in any order, the smallest that `per_cent` of them do not exceed.
pub(crate) fn percentile(durations: &[Duration], per_cent: f64) -> Option<Duration> {
    let mut sorted = durations.to_vec();
    sorted.sort();
    let rank = (sorted.len() as f64 * per_cent / 100.0).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::percentile;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let seen: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        for (per_cent, expected) in [(50.0, 50), (99.0, 99), (100.0, 100), (0.5, 1)] {
            assert_eq!(percentile(&seen, per_cent), Some(Duration::from_millis(expected)));
        }
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(percentile(&seen[..1], 99.0), Some(Duration::from_millis(100)));
    }
}
