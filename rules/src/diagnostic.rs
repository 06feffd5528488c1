//! What is wrong with a policy, where it is, and what to do about it.

use std::fmt;
use std::sync::Arc;

use crate::Lint;
use crate::limits::DIAGNOSTICS;

/// How bad a [`Diagnostic`] is: an error refuses the policy, a warning does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Error,
    Warning,
}

/// One problem of a policy. Its `Display` is `file:line:column: text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Which lint speaks; `None` for an error.
    pub lint: Option<Lint>,
    /// What is wrong, with the value and, where there is one, the limit.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The name under which the text was loaded.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Bytes that are meant, from (line, column); 0 where a place and no text is meant.
    pub length: u32,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Why a policy was refused: all of its problems in the order of the text, at least one an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// The problem to show where there is room for one: the first error.
    pub fn first(&self) -> Option<&Diagnostic> {
        self.0.iter().find(|d| d.severity == Severity::Error).or(self.0.first())
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

/// One problem a line.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A stretch of the policy text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Span {
    pub start: u32,
    pub length: u32,
}

/// Where something stands. All places are equal: where a thing is written is not what it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub span: Span,
    /// From 1.
    pub line: u32,
}

impl PartialEq for Place {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Span {
    /// Texts are at most [`POLICY_BYTES`](crate::limits::POLICY_BYTES) long, which fits.
    pub(crate) fn new(start: usize, length: usize) -> Self {
        let fit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: fit(start), length: fit(length) }
    }
}

/// The text of a policy, and where its lines begin.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    file: Arc<str>,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        let ends =
            text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(ends).collect();
        Self { file: file.into(), text, line_starts }
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, span: Span) -> u32 {
        let line = self.line_starts.partition_point(|&start| start <= span.start as usize);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// The place `offset` bytes into a scalar, behind its quote if it has one.
    pub(crate) fn within(&self, scalar: Span, offset: usize) -> Span {
        let (start, length) = (scalar.start as usize, scalar.length as usize);
        let rest = self.text.get(start..).unwrap_or("");
        let quote = usize::from(rest.starts_with(['"', '\'']));
        Span::new(start + (quote + offset).min(length), 0)
    }

    fn column(&self, span: Span) -> u32 {
        let line = self.line_starts.partition_point(|&start| start <= span.start as usize);
        let start = self.line_starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..span.start as usize).unwrap_or("");
        u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX)
    }
}

/// The problems found so far; turned into [`Diagnostic`]s when all are known.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: Vec<Problem>,
    /// How many more there were than are kept.
    dropped: usize,
    any_errors: bool,
    compared: usize,
}

/// Problems that are kept: more than are shown, because they are found section by section and shown
/// in the order of the text.
const KEPT: usize = 10 * DIAGNOSTICS;
/// Names that unknown words of one policy are compared with, all together.
const COMPARISONS: usize = 100_000;
/// Longer words make no better message, nor a better suggestion.
const MESSAGE_LENGTH: usize = 400;
const SUGGESTION_LENGTH: usize = 128;

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    span: Span,
    /// `None` for an error.
    lint: Option<Lint>,
    message: String,
    help: String,
}

impl Problems {
    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.add(None, span, message.into(), String::new());
    }

    /// An error of which is known what to do about it; `help` may be empty.
    pub(crate) fn error_with(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(None, span, message.into(), help.into());
    }

    pub(crate) fn warn(
        &mut self,
        lint: Lint,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(Some(lint), span, message.into(), help.into());
    }

    /// `value` things where only `limit` may be.
    pub(crate) fn over(&mut self, span: Span, what: &str, value: usize, limit: usize) {
        self.error(span, format!("{value} {what}, the limit is {limit}"));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(crate) fn any_errors(&self) -> bool {
        self.any_errors
    }

    /// As [`suggestion`], for lists of names that may be long; nothing when many words were wrong.
    pub(crate) fn suggestion<'k>(
        &mut self,
        word: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> String {
        self.compared = self.compared.saturating_add(known.clone().count());
        if self.compared > COMPARISONS { String::new() } else { suggestion(word, known) }
    }

    /// In the order of the text, at most [`DIAGNOSTICS`](crate::limits::DIAGNOSTICS) and one line
    /// that counts the rest.
    pub(crate) fn into_diagnostics(self, source: &Source<'_>) -> Vec<Diagnostic> {
        let Self { mut kept, dropped, .. } = self;
        kept.sort_by_key(|problem| problem.span.start);
        kept.dedup();
        let rest = kept.len().saturating_sub(DIAGNOSTICS) + dropped;
        kept.truncate(DIAGNOSTICS);
        let mut list: Vec<_> = kept.into_iter().map(|p| p.into_diagnostic(source)).collect();
        if rest > 0
            && let Some(last) = list.last()
        {
            let (message, help) = (format!("{rest} more problems are not shown"), String::new());
            list.push(Diagnostic { message, help, length: 0, ..last.clone() });
        }
        list
    }

    fn add(&mut self, lint: Option<Lint>, span: Span, message: String, help: String) {
        self.any_errors |= lint.is_none();
        // That something was left out is never left out.
        if self.kept.len() >= KEPT && lint != Some(Lint::LintsIncomplete) {
            self.dropped += 1;
            return;
        }
        let (message, help) = (clip(&message), clip(&help));
        self.kept.push(Problem { span, lint, message, help });
    }
}

/// What a message quotes must neither fill a screen nor drive a terminal: characters that cannot be
/// seen are written out.
fn clip(text: &str) -> String {
    let mut shown = String::new();
    for (at, character) in text.chars().enumerate() {
        if at == MESSAGE_LENGTH {
            shown.push('…');
            break;
        }
        if is_invisible(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Controls, and what reorders or joins the text around it (Unicode, general category Cf).
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

impl Problem {
    fn into_diagnostic(self, source: &Source<'_>) -> Diagnostic {
        Diagnostic {
            severity: if self.lint.is_some() { Severity::Warning } else { Severity::Error },
            lint: self.lint,
            message: self.message,
            help: self.help,
            file: source.file.clone(),
            line: source.line(self.span),
            column: source.column(self.span),
            length: self.span.length,
        }
    }
}

/// "did you mean" for a word that is none of `known`; empty where none is close.
pub(crate) fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let length = word.chars().count();
    if length > SUGGESTION_LENGTH {
        return String::new();
    }
    let near = |other: &'k str| {
        let distance = edit_distance(word, other);
        (distance <= (length / 3).max(1)).then_some((distance, other))
    };
    let best = known.into_iter().filter_map(near).min();
    best.map(|(_, other)| format!("did you mean `{other}`?")).unwrap_or_default()
}

/// Insertions, deletions, substitutions and swaps of neighbours that make `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                cost = cost.min(before_last[j - 1] + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
