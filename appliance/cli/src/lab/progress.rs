//! What a run shows while it goes on: the picture, one entry a check, a summary.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::Page;
use super::scenario::{Check, Figure, Outcome, Scenario};
use crate::present::Tone;

/// Widths of the report's columns; with the mark and the indent, 75; what was seen follows.
pub(crate) const TRIED: usize = 48;
const TOOL: usize = 11;
pub(crate) const EXPECT: usize = 12;

#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    done: usize,
    section: &'static str,
    page: Page,
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new(total: usize, page: Page) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("  {spinner} {msg}").expect("the template is valid");
        bar.set_style(style);
        Self { total, done: 0, section: "", page, bar }
    }

    pub(crate) fn opening(&self, scenario: &Scenario) {
        self.page.title(scenario.title);
        self.line(&format!("{}\n", scenario.drawing));
    }

    /// Shows a spinner while `work` is done.
    ///
    /// # Errors
    /// What `work` returns.
    pub(crate) fn during<T>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.spin(what.to_owned());
        let result = work();
        self.bar.disable_steady_tick();
        self.bar.set_message("");
        if result.is_err() {
            self.bar.finish_and_clear();
        }
        result
    }

    pub(crate) fn built(&self, lab: &str, took: Duration) {
        let text = format!("The lab `{lab}` was built in {} ms.", took.as_millis());
        self.line(&self.page.paint.apply(Tone::Faint, &text));
        let header =
            format!("\n    {:TRIED$}{:TOOL$}{:EXPECT$}{}", "TRIED", "WITH", "EXPECTED", "SEEN");
        self.line(&self.page.paint.apply(Tone::Faint, &header));
    }

    pub(crate) fn start(&mut self, check: &Check) {
        if check.section != self.section {
            self.section = check.section;
            self.line(&format!("\n{}", self.page.paint.apply(Tone::Strong, check.section)));
        }
        self.spin(format!("{} of {}: {} ({})", self.done + 1, self.total, check.tried, check.tool));
    }

    pub(crate) fn end(&mut self, check: &Check, outcome: &Outcome) {
        self.done += 1;
        let (tone, mark) = if outcome.passed { (Tone::Good, "✓") } else { (Tone::Bad, "✗") };
        let head = format!(
            "  {} {:TRIED$}{:TOOL$}{:EXPECT$}",
            self.page.paint.apply(tone, mark),
            check.tried,
            check.tool,
            check.expect.label(),
        );
        let why = outcome.why.iter().map(String::as_str);
        if outcome.passed {
            self.line(&format!("{head}{}", outcome.seen));
            self.indented(Tone::Faint, why);
        } else {
            self.line(&format!("{head}{}", self.page.paint.apply(Tone::Bad, "not as expected")));
            self.indented(Tone::Bad, outcome.seen.lines().chain(why));
        }
    }

    pub(crate) fn kept(&self, lab: &str) {
        self.line(&format!("\nThe lab is still up. Remove it: gabion lab down {lab}"));
    }

    pub(crate) fn closing(&self, good: usize, took: Duration) {
        self.bar.finish_and_clear();
        let text = format!("{good} of {} checks as expected", self.total);
        let tone = if good == self.total { Tone::Good } else { Tone::Bad };
        self.line(&format!(
            "\n{}, {:.1} s.\n",
            self.page.paint.apply(tone, &text),
            took.as_secs_f64()
        ));
    }

    /// The table of what was measured, if anything was.
    pub(crate) fn figures<'a>(
        &self,
        rows: impl Iterator<Item = (&'static str, &'a [Figure])> + Clone,
    ) {
        let measured = rows.filter(|(_, figures)| !figures.is_empty());
        let Some((_, first)) = measured.clone().next() else { return };
        let mut table: Vec<Vec<&str>> =
            vec![std::iter::once("").chain(first.iter().map(|figure| figure.column)).collect()];
        for (name, figures) in measured {
            let cells = figures.iter().map(|figure| figure.text.as_str());
            table.push(std::iter::once(name).chain(cells).collect());
        }
        let last = table[0].len() - 1;
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..last).map(|column| width(column).unwrap_or(0)).collect();
        self.line("");
        for (number, row) in table.iter().enumerate() {
            let mut text = format!("  {:<1$}", row[0], widths[0]);
            for (cell, width) in row[1..last].iter().zip(&widths[1..]) {
                text += &format!("  {cell:>width$}");
            }
            text += &format!("  {}", row[last]);
            let tone = if number == 0 { Tone::Faint } else { Tone::Plain };
            self.line(&self.page.paint.apply(tone, text.trim_end()));
        }
    }

    fn indented<'a>(&self, tone: Tone, lines: impl Iterator<Item = &'a str>) {
        for line in lines {
            self.line(&format!("      {}", self.page.paint.apply(tone, line.trim())));
        }
    }

    fn spin(&self, message: String) {
        self.bar.set_message(message);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| self.page.line(text));
    }
}
