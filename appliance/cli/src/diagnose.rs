//! A policy's problems in their text: what is wrong, where, and what to do about it.

use std::fmt;

use gabion_api::v1;
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity,
    SourceCode,
};

use crate::present::{DiagnosticJson, Grid, Paint, TestJson, Tone, stderr_width};

/// A problem together with the policy's text.
#[derive(Debug)]
struct Problem<'a> {
    source: &'a NamedSource<String>,
    file: &'a str,
    at: &'a DiagnosticJson,
    offset: usize,
    /// Whether the lines around are shown: there are any, and none is longer than [`EXCERPT_LINE`].
    has_excerpt: bool,
}

/// Bytes of a line beyond which it explains nothing.
const EXCERPT_LINE: usize = 2_000;

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiagnosticJson { line, column, message, .. } = self.at;
        match line {
            0 => write!(f, "{}: {message}", self.file),
            _ => write!(f, "{}:{line}:{column}: {message}", self.file),
        }
    }
}

impl std::error::Error for Problem<'_> {}

impl Diagnostic for Problem<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(if self.at.severity == "warning" { Severity::Warning } else { Severity::Error })
    }

    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let lint: Box<dyn fmt::Display> = Box::new(&self.at.lint);
        (!self.at.lint.is_empty()).then_some(lint)
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let help: Box<dyn fmt::Display> = Box::new(&self.at.help);
        (!self.at.help.is_empty()).then_some(help)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.has_excerpt.then_some(self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let length = usize::try_from(self.at.length).unwrap_or(0);
        let label = LabeledSpan::underline((self.offset, length));
        self.has_excerpt
            .then(|| Box::new(std::iter::once(label)) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
}

/// The problems as they are shown on standard error.
pub(crate) fn render(file: &str, text: &str, problems: &[DiagnosticJson]) -> String {
    let text = &visible(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let source = NamedSource::new(file, text.clone());
    // A pipe has no width: whoever reads it wants whole lines.
    let width = stderr_width().map_or(usize::from(u16::MAX), usize::from);
    let coloured = Paint::stderr().coloured;
    let theme =
        if coloured { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(width);
    let mut shown = String::new();
    for at in problems {
        // The excerpt is the line, the one before and the one behind.
        let line = usize::try_from(at.line).unwrap_or(usize::MAX);
        let around = lines.iter().skip(line.saturating_sub(2)).take(3);
        let has_excerpt = line > 0 && around.clone().all(|line| line.len() <= EXCERPT_LINE);
        let problem = Problem { source: &source, file, at, offset: offset(text, at), has_excerpt };
        // Writing to a string cannot fail.
        let _ = handler.render_report(&mut shown, &problem);
        shown.push('\n');
    }
    shown
}

/// The text with another character of as many bytes for each that would drive the terminal or
/// reorder the line.
fn visible(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' | '\r' => character,
        '\u{61c}' | '\u{80}'..='\u{9f}' => '\u{bf}',
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        character if character.is_control() => '?',
        character => character,
    };
    text.chars().map(shown).collect()
}

/// The embedded tests as a table.
pub(crate) fn tests_table(tests: &[TestJson]) -> Grid {
    let columns = ["".into(), "test".into(), "expected".into(), "actual".into(), "line".into()];
    let mut grid = Grid::new(columns);
    for test in tests {
        let (tone, mark) = if test.passed { (Tone::Good, "✓") } else { (Tone::Bad, "✗") };
        grid.toned_row([
            (tone, mark.to_owned()),
            (Tone::Plain, test.name.clone()),
            (Tone::Plain, test.expected.clone()),
            (if test.passed { Tone::Plain } else { Tone::Bad }, test.actual.clone()),
            (Tone::Faint, test.line.to_string()),
        ]);
    }
    grid
}

impl From<gabion_rules::Diagnostic> for DiagnosticJson {
    fn from(diagnostic: gabion_rules::Diagnostic) -> Self {
        Self {
            severity: match diagnostic.severity {
                gabion_rules::Severity::Error => "error",
                gabion_rules::Severity::Warning => "warning",
            },
            lint: diagnostic.lint.map_or("", gabion_rules::Lint::label).to_owned(),
            message: diagnostic.message,
            help: diagnostic.help,
            line: diagnostic.line,
            column: diagnostic.column,
            length: diagnostic.length,
        }
    }
}

impl From<gabion_rules::TestOutcome> for TestJson {
    fn from(test: gabion_rules::TestOutcome) -> Self {
        Self {
            name: test.name,
            passed: test.passed,
            expected: test.expected,
            actual: test.actual,
            line: test.line,
        }
    }
}

/// The problems that a node reports.
pub(crate) fn from_node(diagnostics: Vec<v1::Diagnostic>) -> Vec<DiagnosticJson> {
    diagnostics.into_iter().map(Into::into).collect()
}

/// The byte at which a problem begins: its column counts characters.
fn offset(text: &str, at: &DiagnosticJson) -> usize {
    let line = usize::try_from(at.line).unwrap_or(0).saturating_sub(1);
    let column = usize::try_from(at.column).unwrap_or(0).saturating_sub(1);
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = &text[before..];
    before + rest.char_indices().nth(column).map_or(rest.len(), |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name of a million characters and one with an escape sequence went to the terminal as they
    /// were.
    #[test]
    fn hostile_text_neither_fills_nor_drives_the_terminal() {
        let long = format!("rules:\n  - {}\n", "x".repeat(1_000_000));
        let shown = render("p.yaml", &long, &[problem(2, 5)]);
        assert!(shown.len() < 1_000 && shown.contains("p.yaml:2:5"), "{} bytes", shown.len());
        let driving = "name: \u{1b}[31m \u{202e}abc \u{85}\n";
        let shown = render("p.yaml", driving, &[problem(1, 7)]);
        assert!(shown.contains("name: ?[31m"), "{shown}");
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{85}']), "{shown:?}");
        assert_eq!(visible(driving).len(), driving.len());
    }

    fn problem(line: u32, column: u32) -> DiagnosticJson {
        DiagnosticJson {
            lint: String::new(),
            severity: "error",
            message: "`aktion` is no key of a rule".to_owned(),
            help: "write `action`".to_owned(),
            line,
            column,
            length: 6,
        }
    }

    #[test]
    fn a_column_counts_characters_and_a_span_bytes() {
        let text = "# ü\nä: aktion\n";
        assert_eq!(&text[offset(text, &problem(2, 4))..][..6], "aktion");
        assert_eq!(offset(text, &problem(9, 9)), text.len());
    }

    #[test]
    fn a_problem_shows_its_place_its_line_and_its_help() {
        let shown = render("p.yaml", "a: 1\nb: aktion\n", &[problem(2, 4)]);
        for expected in ["p.yaml:2:4: `aktion` is no key", "b: aktion", "write `action`"] {
            assert!(shown.contains(expected), "{shown}");
        }
    }
}
