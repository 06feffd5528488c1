//! The lines of which long policies are made, read without a YAML parser.
//!
//! `- { name: a, source: [10.0.0.0/8, '2600::/16'], action: allow }` stands a hundred thousand times
//! in a large policy. Lines of this form that follow each other are taken out of the text, all but
//! the first, and their values are put behind the first's. Whatever differs in the least is left to
//! the parser, and so is the whole text where it finds a problem: what is said about wrong policies
//! comes from it alone.

use std::borrow::Cow;
use std::ops::Range;

use serde_saphyr::granit_parser::ScalarStyle;

use super::{Entry, Kind, Node, parse, scalar};
use crate::diagnostic::{Problems, Source, Span};

/// A text without those lines.
#[derive(Debug)]
pub(crate) struct Skeleton {
    pub text: String,
    runs: Vec<Run>,
}

/// Lines taken out.
#[derive(Debug)]
struct Run {
    /// Where the mapping of the line above begins.
    anchor: usize,
    /// Where the lines stood in the whole text.
    lines: Range<usize>,
    /// How many bytes have been taken out before and here.
    removed: usize,
}

impl Skeleton {
    /// `None` where nothing could be taken out.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let mut skeleton = Self { text: String::new(), runs: Vec::new() };
        let (mut kept, mut removed) = (0, 0);
        let mut above: Option<(usize, usize)> = None;
        let mut run: Option<Run> = None;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let here =
                read_line(line, at).map(|(indent, _)| (indent, at + indent + ITEM.len() - 1));
            match (above, here) {
                (Some((outer, anchor)), Some((indent, _))) if outer == indent => {
                    let run = run.get_or_insert(Run { anchor, lines: at..at, removed: 0 });
                    run.lines.end = at + line.len();
                }
                _ => {
                    skeleton.close(text, run.take(), &mut kept, &mut removed);
                    above = here;
                }
            }
            at += line.len();
        }
        skeleton.close(text, run, &mut kept, &mut removed);
        skeleton.text += &text[kept..];
        (!skeleton.runs.is_empty()).then_some(skeleton)
    }

    fn close(&mut self, text: &str, run: Option<Run>, kept: &mut usize, removed: &mut usize) {
        let Some(run) = run else { return };
        self.text += &text[*kept..run.lines.start];
        *kept = run.lines.end;
        *removed += run.lines.len();
        self.runs.push(Run { removed: *removed, ..run });
    }

    pub(super) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Where a place of the skeleton is in the whole text.
    pub(super) fn whole(&self, offset: usize) -> usize {
        let before = self.runs.partition_point(|run| run.lines.end - run.removed <= offset);
        before
            .checked_sub(1)
            .and_then(|at| self.runs.get(at))
            .map_or(offset, |run| offset + run.removed)
    }

    /// The items that follow the one whose mapping begins at `anchor` in the whole text, and how
    /// many values they are; `text` is the whole text.
    pub(super) fn items<'t>(&self, text: &'t str, anchor: usize) -> Option<(Vec<Node<'t>>, usize)> {
        let at = self.runs.binary_search_by_key(&anchor, |run| run.anchor).ok()?;
        let lines = self.runs[at].lines.clone();
        let (mut items, mut values, mut at) = (Vec::new(), 0, lines.start);
        for line in text[lines].split_inclusive('\n') {
            let (_, item) = read_line(line, at)?;
            items.push(item.node);
            values += item.values;
            at += line.len();
        }
        Some((items, values))
    }
}

const ITEM: &str = "- {";

struct Item<'t> {
    node: Node<'t>,
    /// As the parser counts them: scalars, beginnings and ends.
    values: usize,
}

/// An item, and how far it is indented; `None` unless the line is one, and plain. `at` is where the
/// line begins.
fn read_line(line: &str, at: usize) -> Option<(usize, Item<'_>)> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let indent = line.len() - line.trim_start_matches(' ').len();
    let body = line[indent..].strip_prefix("- { ")?.strip_suffix(" }")?;
    let start = at + indent + ITEM.len() + 1;
    let mut words = Words { rest: body, at: start };
    let (mut entries, mut values): (Vec<Entry<'_>>, usize) = (Vec::new(), 2);
    loop {
        let key = words.word(is_key)?;
        words.skip(": ")?;
        let value = words.value(&mut values)?;
        if entries.iter().any(|entry| entry.key == key.0) {
            return None;
        }
        values += 1;
        entries.push(Entry { key: Cow::Borrowed(key.0), key_span: key.1, value });
        if words.rest.is_empty() {
            break;
        }
        words.skip(", ")?;
    }
    let span = Span::new(start - 2, 1);
    Some((indent, Item { node: Node { span, kind: Kind::Mapping(entries) }, values }))
}

fn is_key(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte == b'-'
}

/// None of these means anything to YAML inside a word, but a colon at its end.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'-' | b'_' | b':' | b'>')
}

/// What is left of a line, and where it stands.
struct Words<'t> {
    rest: &'t str,
    at: usize,
}

impl<'t> Words<'t> {
    fn skip(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        self.at += word.len();
        Some(())
    }

    /// Letters and what may stand between them; begins with a letter or digit.
    fn word(&mut self, is_part: impl Fn(u8) -> bool) -> Option<(&'t str, Span)> {
        let bytes = self.rest.as_bytes();
        let length = bytes.iter().position(|byte| !is_part(*byte)).unwrap_or(bytes.len());
        let (word, rest) = self.rest.split_at(length);
        let is_sound =
            word.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && !word.ends_with(':');
        let span = Span::new(self.at, length);
        (self.rest, self.at) = (rest, self.at + length);
        is_sound.then_some((word, span))
    }

    fn scalar(&mut self, values: &mut usize) -> Option<Node<'t>> {
        *values += 1;
        if !self.rest.starts_with('\'') {
            let (word, span) = self.word(is_plain)?;
            return Some(Node { span, kind: scalar(Cow::Borrowed(word), ScalarStyle::Plain) });
        }
        let start = self.at;
        self.skip("'")?;
        let length = self.rest.bytes().position(|byte| !is_plain(byte))?;
        let (word, rest) = self.rest.split_at(length);
        (self.rest, self.at) = (rest, self.at + length);
        self.skip("'")?;
        let span = Span::new(start, self.at - start);
        Some(Node { span, kind: scalar(Cow::Borrowed(word), ScalarStyle::SingleQuoted) })
    }

    fn value(&mut self, values: &mut usize) -> Option<Node<'t>> {
        let span = Span::new(self.at, 1);
        if self.skip("[").is_none() {
            return self.scalar(values);
        }
        *values += 2;
        let mut nodes = vec![self.scalar(values)?];
        while self.skip(", ").is_some() {
            nodes.push(self.scalar(values)?);
        }
        self.skip("]")?;
        Some(Node { span, kind: Kind::Sequence(nodes) })
    }
}

/// What a text is and what is wrong with it, by the quick way and by the parser alone. They are
/// equal, whatever the text: the property that tests and fuzzing look at.
#[doc(hidden)]
pub fn both_readings(text: &str, node_limit: usize) -> [String; 2] {
    let reading = |skeleton: Option<&Skeleton>| {
        let mut problems = Problems::default();
        let root = format!("{:?}", parse(text, skeleton, node_limit, &mut problems));
        format!("{root} {:?}", problems.into_diagnostics(&Source::new("text", text)))
    };
    [reading(Skeleton::new(text).as_ref()), reading(None)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn pieces() -> impl Strategy<Value = &'static str> {
        select(
            &[
                "  - { name: a, source: 10.0.0.0/8, action: allow }\n",
                "  - { name: b-1, source: [10.0.0.0/8, '2600::/16'], service: tcp/1-2->80 }\n",
                "  - { name: '2600::', to: any }\n",
                "  - { a: null, b: true }\n",
                "  - { a: b, a: c }\n",
                "  - { a: b: c }\n",
                "  - { a: b:, c: d }\n",
                "  - { a: 'it''s', c: d }\n",
                "  - { a: -, c: d }\n",
                "  - { a: [], c: d }\n",
                "  - { a: [b, c }\n",
                "  - { meta: { a: b }, c: d }\n",
                "- { name: c, to: any }\n",
                "    - { name: d, to: any }\n",
                "  - { name: e, to: any } \n",
                "  - { name: f, to: any } # why\n",
                "  - { name: g, to: any }\r\n",
                "  # note\n",
                "\n",
                "  - |\n",
                "  - 'a\n",
                "  b'\n",
                "rules:\n",
                "tests:\n",
                "a: b\n",
                "  x: y\n",
                "- [\n",
                "]\n",
                "---\n",
                "  - { name: h, to: any }",
                "é",
            ][..],
        )
    }

    /// Characters that mean something to YAML somewhere, and some that do not.
    const CHARACTERS: &str = " -{}[],:'\"#|>&*!%@`?~=<\\/\n\r\t\u{85}\u{a0}\u{feff}\u{2028}\0é0aN.";

    /// Where, in thousandths of the text; how many characters it replaces; by what.
    fn mutation() -> impl Strategy<Value = (usize, usize, Option<char>)> {
        let character = select(CHARACTERS.chars().collect::<Vec<_>>());
        (0..1_000_usize, 0..3_usize, prop::option::weighted(0.8, character))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn no_character_makes_a_line_mean_what_it_does_not(
            item in select(&[
                "  - { name: a, source: [10.0.0.0/8, '2600::/16'], action: allow }\n",
                "- { a: b, c: 'd' }\n",
                "  - { name: '2600::', to: any, service: tcp/1-2->80 }\n",
            ][..]),
            mutations in prop::collection::vec(mutation(), 1..4),
        ) {
            let mut text: Vec<char> = format!("rules:\n{}tests: x\n", item.repeat(3)).chars().collect();
            for (place, replaced, by) in mutations {
                let at = place * text.len() / 1_000;
                let end = text.len().min(at + replaced);
                text.splice(at..end, by);
            }
            let [quick, whole] = both_readings(&text.iter().collect::<String>(), 10_000);
            prop_assert_eq!(quick, whole);
        }

        #[test]
        fn lines_mean_what_the_parser_says(
            pieces in prop::collection::vec(prop_oneof![pieces(), Just("  - { name: a, to: [b, c] }\n")], 0..12),
            limit in prop_oneof![Just(10_000_usize), 1..60_usize],
        ) {
            let text = format!("rules:\n{}", pieces.concat());
            let [quick, whole] = both_readings(&text, limit);
            prop_assert_eq!(quick, whole);
        }
    }

    #[test]
    fn long_lists_do_not_come_to_the_parser() {
        let text = format!("rules:\n{}tests: 1\n", "  - { name: a, to: [b, 'c'] }\n".repeat(50));
        let skeleton = Skeleton::new(&text).unwrap();
        assert_eq!(skeleton.text, "rules:\n  - { name: a, to: [b, 'c'] }\ntests: 1\n");
        let [quick, whole] = both_readings(&text, 10_000);
        assert_eq!(quick, whole);
    }
}
