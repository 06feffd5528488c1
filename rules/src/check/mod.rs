//! From the document as written to the validated [`Policy`]: names, references, ranges, limits. All
//! problems are collected.

mod lists;
mod nat;
mod objects;
mod rules;
mod settings;
mod tests;
mod zones;

use std::collections::{BTreeMap, HashMap};

use crate::diagnostic::Place;
use crate::diagnostic::{Problems, Source, Span};
use crate::document::{Document, MetaText};
use crate::limits::{NAME_LENGTH, TEXT_LENGTH};
use crate::object::ObjectId;
use crate::policy::{Meta, ZonePolicy};
use crate::read::{At, OneOrMany};
use crate::resolve::Resolved;
use crate::term::{TermError, is_name, name_like};
use crate::{Lint, Policy};

pub(crate) const API_VERSION: &str = "gabion/v1";

/// `None` where there are errors among the problems.
pub(crate) fn check(
    document: Document,
    source: &Source<'_>,
    problems: &mut Problems,
) -> Option<Policy> {
    let mut checker = Checker::new(source, problems);
    checker.check_api_version(document.api_version.as_ref());
    checker.check_zones(document.zones);
    let (addresses, services) = checker.check_objects(document.objects);
    let allow_lints = checker.check_lints(document.settings.allow_lints.as_ref());
    let (default, settings) = checker.check_settings(document.settings);
    let nat = checker.check_nat(document.nat);
    let rules = checker.check_rules(document.rules);
    let tests = checker.check_tests(document.tests, &rules, &nat);
    if checker.problems.any_errors() {
        return None;
    }
    let Checker { zones, resolved, .. } = checker;
    Some(Policy {
        zones,
        addresses,
        services,
        resolved,
        default,
        settings,
        allow_lints,
        nat,
        rules,
        tests,
    })
}

struct Checker<'c, 't> {
    source: &'c Source<'t>,
    problems: &'c mut Problems,
    zones: Vec<ZonePolicy>,
    address_names: BTreeMap<String, ObjectId>,
    service_names: BTreeMap<String, ObjectId>,
    /// Of no objects where these have errors.
    resolved: Resolved,
}

impl<'c, 't> Checker<'c, 't> {
    fn new(source: &'c Source<'t>, problems: &'c mut Problems) -> Self {
        Self {
            source,
            problems,
            zones: Vec::new(),
            address_names: BTreeMap::new(),
            service_names: BTreeMap::new(),
            resolved: Resolved::default(),
        }
    }

    fn check_api_version(&mut self, version: Option<&At<String>>) {
        if let Some(At { value, span }) = version
            && value != API_VERSION
        {
            let message = format!("`{value}` is not a version of the language that is known here");
            self.problems.error_with(*span, message, format!("write `{API_VERSION}`"));
        }
    }

    fn place(&self, span: Span) -> Place {
        Place { span, line: self.source.line(span) }
    }

    fn report(&mut self, span: Span, error: TermError) {
        self.problems.error_with(span, error.message, error.help);
    }

    /// Checks the form of a name and that it is none of the `reserved` words.
    fn check_name(&mut self, name: &At<String>, reserved: &[&str]) {
        let word = &name.value;
        if !is_name(word) {
            let near = name_like(word);
            let style = "names are made of a-z, 0-9 and `-`";
            let help =
                if near.is_empty() { style.to_owned() } else { format!("{style}: `{near}`") };
            self.problems.error_with(name.span, format!("`{word}` is not a name"), help);
        } else if word.len() > NAME_LENGTH {
            self.problems.over(name.span, "characters in a name", word.len(), NAME_LENGTH);
        } else if reserved.contains(&word.as_str()) {
            let message = format!("`{word}` is a word of the language and cannot be a name");
            self.problems.error_with(name.span, message, "choose another name");
        }
    }

    /// Reports a name that stands in `seen` already, which holds where.
    fn check_unique(&mut self, seen: &mut HashMap<String, Span>, name: &At<String>, what: &str) {
        match seen.get(&name.value) {
            Some(&first) => {
                let message = format!("the name `{}` is taken", name.value);
                let help = format!("the {what} of line {} has it", self.source.line(first));
                self.problems.error_with(name.span, message, help);
            }
            None => {
                seen.insert(name.value.clone(), name.span);
            }
        }
    }

    fn check_count(&mut self, span: Option<Span>, what: &str, count: usize, limit: usize) {
        if count > limit {
            self.problems.over(span.unwrap_or_default(), what, count, limit);
        }
    }

    fn check_meta(&mut self, meta: Option<MetaText>) -> Meta {
        let Some(meta) = meta else { return Meta::default() };
        let expires = meta.expires.and_then(|text| {
            let format = time::macros::format_description!("[year]-[month]-[day]");
            let date = time::Date::parse(&text.value, &format);
            if date.is_err() {
                let message = format!("`{}` is not a date", text.value);
                self.problems.error_with(text.span, message, "write a day as in 2027-03-31");
            }
            date.ok()
        });
        Meta {
            owner: meta.owner.and_then(|text| self.check_text(text)),
            ticket: meta.ticket.and_then(|text| self.check_text(text)),
            expires,
            description: meta.description.and_then(|text| self.check_text(text)),
            allow_lints: self.check_lints(meta.allow_lints.as_ref()),
        }
    }

    fn check_lints(&mut self, list: Option<&OneOrMany>) -> Vec<Lint> {
        let Some(list) = list else { return Vec::new() };
        let mut lints = Vec::new();
        for item in &list.items {
            let found = Lint::ALL.iter().find(|lint| lint.label() == item.value);
            match found {
                Some(lint) => lints.push(*lint),
                None => {
                    let known = Lint::ALL.iter().map(|lint| lint.label());
                    self.unknown(item.span, "lint", &item.value, known);
                }
            }
        }
        lints
    }

    /// One line of text for people.
    fn check_text(&mut self, text: At<String>) -> Option<String> {
        let length = text.value.chars().count();
        if text.value.chars().any(char::is_control) {
            self.problems.error(text.span, "this text must be one line without control characters");
        } else if text.value.trim() != text.value || text.value.is_empty() {
            self.problems.error(text.span, "this text is empty, or begins or ends with a space");
        } else if length > TEXT_LENGTH {
            self.problems.over(text.span, "characters of text", length, TEXT_LENGTH);
        } else {
            return Some(text.value);
        }
        None
    }

    fn unknown<'k>(
        &mut self,
        span: Span,
        what: &str,
        word: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let near = self.problems.suggestion(word, known.clone());
        let few: Vec<&str> = known.take(9).collect();
        let help = match (near.is_empty(), few.len()) {
            (false, _) => near,
            (true, 0) => format!("the policy has no {what}"),
            (true, 1..=8) => format!("known: {}", few.join(", ")),
            (true, _) => String::new(),
        };
        self.problems.error_with(span, format!("there is no {what} `{word}`"), help);
    }
}
