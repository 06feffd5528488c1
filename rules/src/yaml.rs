//! YAML as the policy language allows it: one document, no anchors, aliases, tags or duplicate keys,
//! and every scalar a text that its reader interprets. What is left cannot grow when it is read.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_saphyr::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle};

use crate::diagnostic::{Problems, Span};
use crate::limits::YAML_NESTING;

mod lines;

pub(crate) use lines::Skeleton;
pub use lines::both_readings;

/// A value with its place.
#[derive(Debug)]
pub(crate) struct Node<'t> {
    pub span: Span,
    pub kind: Kind<'t>,
}

#[derive(Debug)]
pub(crate) enum Kind<'t> {
    Scalar(Cow<'t, str>),
    /// Nothing stands where a value could be.
    Null,
    Sequence(Vec<Node<'t>>),
    Mapping(Vec<Entry<'t>>),
    /// Something that is refused and has been reported; its readers keep quiet.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub key_span: Span,
    pub value: Node<'t>,
}

impl Node<'_> {
    /// Takes out the mapping entry whose key begins at `offset`, however deep it stands.
    pub(crate) fn remove_entry(&mut self, offset: u32) -> Option<String> {
        match &mut self.kind {
            Kind::Mapping(entries) => {
                if let Some(at) = entries.iter().position(|entry| entry.key_span.start == offset) {
                    return Some(entries.remove(at).key.into_owned());
                }
                entries.iter_mut().find_map(|entry| entry.value.remove_entry(offset))
            }
            Kind::Sequence(nodes) => nodes.iter_mut().find_map(|node| node.remove_entry(offset)),
            Kind::Scalar(_) | Kind::Null | Kind::Broken => None,
        }
    }
}

/// The document's root. `None` where the text is not YAML at all; what is YAML but not part of the
/// language is reported and left out. More than `node_limit` values are not read. `skeleton` is the
/// text's, if it has one.
pub(crate) fn parse<'t>(
    text: &'t str,
    skeleton: Option<&'t Skeleton>,
    node_limit: usize,
    problems: &mut Problems,
) -> Option<Node<'t>> {
    if let Some(skeleton) = skeleton {
        let mut doubts = Problems::default();
        let mut builder = Builder::new(&mut doubts, node_limit);
        builder.skeleton = Some((skeleton, text));
        let root = builder.build(&skeleton.text);
        let is_whole = builder.runs == skeleton.run_count();
        if is_whole && doubts.is_empty() && root.is_some() {
            return root;
        }
    }
    parse_whole(text, node_limit, problems)
}

fn parse_whole<'t>(text: &'t str, node_limit: usize, problems: &mut Problems) -> Option<Node<'t>> {
    Builder::new(problems, node_limit).build(text)
}

struct Builder<'t, 'p> {
    problems: &'p mut Problems,
    open: Vec<Open<'t>>,
    root: Option<Node<'t>>,
    documents: usize,
    nodes: usize,
    node_limit: usize,
    /// With the whole text, where lines were taken out.
    skeleton: Option<(&'t Skeleton, &'t str)>,
    /// How many runs of lines have been put back.
    runs: usize,
}

const FEW_KEYS: usize = 16;

/// A list or mapping whose end has not been seen.
enum Open<'t> {
    Sequence(Span, Vec<Node<'t>>),
    /// With the key that waits for its value.
    Mapping(Span, Vec<Entry<'t>>, Option<(Cow<'t, str>, Span)>),
}

impl<'t, 'p> Builder<'t, 'p> {
    fn new(problems: &'p mut Problems, node_limit: usize) -> Self {
        let (open, root) = (Vec::new(), None);
        Self { problems, open, root, documents: 0, nodes: 0, node_limit, skeleton: None, runs: 0 }
    }

    fn build(&mut self, text: &'t str) -> Option<Node<'t>> {
        let options = granit_parser::options! {
            disallow_directives: true,
            emit_unresolved_aliases: true,
            emit_comments: false,
            flow_nesting_limit: YAML_NESTING,
            block_nesting_limit: YAML_NESTING,
        };
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = match next {
                Ok(next) => next,
                Err(error) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    self.problems.error(Span::new(at.min(text.len()), 0), describe(error.kind()));
                    return None;
                }
            };
            let range = span.byte_range().unwrap_or_default();
            let start =
                self.skeleton.map_or(range.start, |(skeleton, _)| skeleton.whole(range.start));
            self.handle(event, Span::new(start, range.len()))?;
        }
        if self.root.is_none() {
            self.problems.error_with(
                Span::default(),
                "the policy is empty",
                "begin with `apiVersion: gabion/v1` and `zones:`",
            );
        }
        self.root.take()
    }

    /// `None` stops: the rest of the text is not looked at.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum is open")]
    fn handle(&mut self, event: Event<'t>, span: Span) -> Option<()> {
        match event {
            Event::DocumentStart(..) => self.start_document(span)?,
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse(span, "aliases (`*name`)");
                self.add(Node { span, kind: Kind::Broken });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_properties(span, anchor, tag.is_some());
                self.add(Node { span, kind: scalar(text, style) });
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_properties(span, anchor, tag.is_some());
                self.open.push(Open::Sequence(span, Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_properties(span, anchor, tag.is_some());
                self.open.push(Open::Mapping(span, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            // Stream and document marks carry nothing; the enum is open to more of the kind.
            _ => {}
        }
        self.nodes += 1;
        if self.nodes > self.node_limit {
            let limit = self.node_limit;
            let message = format!("the policy has more than {limit} values, the limit");
            self.problems.error(span, message);
            return None;
        }
        Some(())
    }

    fn start_document(&mut self, span: Span) -> Option<()> {
        self.documents += 1;
        if self.documents > 1 {
            let help = "keep one policy in one file";
            self.problems.error_with(span, "a second YAML document begins here", help);
            return None;
        }
        Some(())
    }

    fn check_properties(&mut self, span: Span, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.refuse(span, "anchors (`&name`)");
        }
        if tagged {
            self.refuse(span, "tags (`!name`)");
        }
    }

    fn refuse(&mut self, span: Span, what: &str) {
        let message = format!("{what} are not part of the policy language");
        self.problems.error_with(span, message, "write the value out, or name it under `objects`");
    }

    fn close(&mut self) {
        let node = match self.open.pop() {
            Some(Open::Sequence(span, nodes)) => Node { span, kind: Kind::Sequence(nodes) },
            Some(Open::Mapping(span, entries, _)) => {
                let entries = self.without_duplicates(entries);
                Node { span, kind: Kind::Mapping(entries) }
            }
            None => return,
        };
        let start = node.span.start as usize;
        let is_mapping = matches!(node.kind, Kind::Mapping(_));
        self.add(node);
        if is_mapping
            && let Some((skeleton, text)) = self.skeleton
            && let Some(Open::Sequence(_, nodes)) = self.open.last_mut()
            && let Some((items, values)) = skeleton.items(text, start)
        {
            nodes.extend(items);
            self.nodes += values;
            self.runs += 1;
        }
    }

    fn add(&mut self, node: Node<'t>) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence(_, nodes)) => nodes.push(node),
            Some(Open::Mapping(_, entries, pending)) => match pending.take() {
                Some((key, key_span)) => entries.push(Entry { key, key_span, value: node }),
                None => match node.kind {
                    Kind::Scalar(text) if !text.is_empty() => *pending = Some((text, node.span)),
                    Kind::Scalar(_)
                    | Kind::Null
                    | Kind::Sequence(_)
                    | Kind::Mapping(_)
                    | Kind::Broken => {
                        self.problems.error(node.span, "a key must be a word");
                        *pending = Some((Cow::Borrowed(""), node.span));
                    }
                },
            },
        }
    }

    fn without_duplicates(&mut self, entries: Vec<Entry<'t>>) -> Vec<Entry<'t>> {
        // Nearly all mappings are a few keys that differ: comparing them is cheaper than hashing.
        let differs = |(at, entry): (usize, &Entry<'t>)| {
            !entry.key.is_empty() && entries[..at].iter().all(|above| above.key != entry.key)
        };
        if entries.len() <= FEW_KEYS && entries.iter().enumerate().all(differs) {
            return entries;
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.key.is_empty() {
                continue;
            }
            if seen.insert(entry.key.clone()) {
                kept.push(entry);
            } else {
                let message = format!("the key `{}` stands here twice", entry.key);
                self.problems.error_with(entry.key_span, message, "keep one of the two");
            }
        }
        kept
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Kind<'_> {
    let is_null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
    if style == ScalarStyle::Plain && is_null { Kind::Null } else { Kind::Scalar(text) }
}

fn describe(kind: &ErrorKind) -> String {
    if *kind == ErrorKind::RecursionLimitExceeded {
        return format!("lists and mappings nest deeper than {YAML_NESTING}, the limit");
    }
    format!("not valid YAML: {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_limit_of_values() {
        let mut problems = Problems::default();
        assert!(parse("[a, b, c]", None, 10, &mut problems).is_some());
        assert!(!problems.any_errors());
        assert!(parse("[a, b, c, d, e, f, g, h, i]", None, 10, &mut problems).is_none());
        assert!(problems.any_errors());
    }
}
