//! docs/conformance.md, which is written from the requirements in tests/conformance and from the tests
//! that name them in a line `/// Covers: 4787-1, 5382-1`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use serde::Deserialize;

use super::sources::{self, root};
use super::{Finding, none};

const FOLDER: &str = "tests/conformance";
const PATH: &str = "docs/conformance.md";
const BLESS: &str = "GABION_BLESS";
const MARK: &str = "/// Covers: ";

/// The requirements of one document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chapter {
    title: String,
    requirement: Vec<Requirement>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Requirement {
    id: String,
    level: Level,
    says: String,
    /// Why we do otherwise; tests may pin what we do.
    deviation: Option<String>,
    /// Why it is not for a firewall like this one.
    not_applicable: Option<String>,
}

/// RFC 2119.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Level {
    #[serde(rename = "MUST")]
    Must,
    #[serde(rename = "MUST NOT")]
    MustNot,
    #[serde(rename = "RECOMMENDED")]
    Recommended,
    #[serde(rename = "SHOULD")]
    Should,
    #[serde(rename = "SHOULD NOT")]
    ShouldNot,
    #[serde(rename = "MAY")]
    May,
}

/// A test that says which requirements it shows.
#[derive(Debug)]
struct Mark {
    path: String,
    line: usize,
    test: String,
    ids: Vec<String>,
}

fn chapters() -> Vec<Chapter> {
    let mut paths: Vec<_> =
        fs::read_dir(root().join(FOLDER)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

fn marks() -> Vec<Mark> {
    let mut marks = Vec::new();
    for source in sources::all().iter().filter(|source| !source.is_tidy()) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(ids) = line.trim_start().strip_prefix(MARK) else { continue };
            let test = lines[at..].iter().find_map(|line| function_name(line));
            marks.push(Mark {
                path: source.path.clone(),
                line: at + 1,
                test: test.unwrap_or_default().to_owned(),
                ids: ids.trim_end_matches('.').split(',').map(|id| id.trim().to_owned()).collect(),
            });
        }
    }
    marks
}

fn function_name(line: &str) -> Option<&str> {
    let (_, after) = line.split_once("fn ")?;
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (end > 0).then(|| &after[..end])
}

/// What is said of a requirement; the order is that of the columns of totals.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// A test shows it: another test of this file sees that there is one.
    Pass,
    Deviation,
    NotApplicable,
}

impl Requirement {
    fn verdict(&self) -> Verdict {
        match (&self.deviation, &self.not_applicable) {
            (Some(_), _) => Verdict::Deviation,
            (None, Some(_)) => Verdict::NotApplicable,
            (None, None) => Verdict::Pass,
        }
    }
}

impl Verdict {
    const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Deviation => "deviation",
            Self::NotApplicable => "not applicable",
        }
    }
}

impl Level {
    const fn label(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::MustNot => "MUST NOT",
            Self::Recommended => "RECOMMENDED",
            Self::Should => "SHOULD",
            Self::ShouldNot => "SHOULD NOT",
            Self::May => "MAY",
        }
    }
}

fn page(chapters: &[Chapter], marks: &[Mark]) -> String {
    let mut by_id: BTreeMap<&str, Vec<&Mark>> = BTreeMap::new();
    for mark in marks {
        for id in &mark.ids {
            by_id.entry(id).or_default().push(mark);
        }
    }
    let tests_of = |id: &str| by_id.get(id).map(Vec::as_slice).unwrap_or_default();
    let mut page = String::from(PREFACE);
    totals(&mut page, chapters);
    for chapter in chapters {
        let _ = write!(page, "\n## {}\n\n", chapter.title);
        page.push_str("| id | level | requirement | verdict | shown by, or reason |\n");
        page.push_str("|---|---|---|---|---|\n");
        for requirement in &chapter.requirement {
            row(&mut page, requirement, tests_of(&requirement.id));
        }
    }
    page.push_str(EPILOGUE);
    page
}

const PREFACE: &str = "# Conformance\n\n\
    What the documents of this field ask of a stateful firewall and NAT, and the tests that show it. A\n\
    *pass* is a requirement that at least one test names; all of them run on every change. A *deviation*\n\
    is a decision, with its reason; the tests beside it pin what we do instead. Wordings are ours and\n\
    short: the documents themselves are what counts.\n\n";

const EPILOGUE: &str = "\nThis page is written from tests/conformance and the tests:\n\
    `GABION_BLESS=1 cargo test -p gabion-tests tidy`.\n";

fn totals(page: &mut String, chapters: &[Chapter]) {
    page.push_str("| document | pass | deviation | not applicable |\n|---|---|---|---|\n");
    let mut sum = [0; 3];
    for chapter in chapters {
        let mut counts = [0; 3];
        for requirement in &chapter.requirement {
            counts[requirement.verdict() as usize] += 1;
        }
        let [pass, deviation, not_applicable] = counts;
        let _ = writeln!(page, "| {} | {pass} | {deviation} | {not_applicable} |", chapter.title);
        sum = std::array::from_fn(|at| sum[at] + counts[at]);
    }
    let [pass, deviation, not_applicable] = sum;
    let _ = writeln!(page, "| **all** | **{pass}** | **{deviation}** | **{not_applicable}** |");
}

fn row(page: &mut String, requirement: &Requirement, tests: &[&Mark]) {
    let mut shown: Vec<String> = tests.iter().map(|mark| format!("`{}`", mark.test)).collect();
    shown.sort();
    shown.dedup();
    let reason = requirement.deviation.iter().chain(&requirement.not_applicable);
    let says: Vec<&str> =
        reason.map(String::as_str).chain(shown.iter().map(String::as_str)).collect();
    let _ = writeln!(
        page,
        "| {} | {} | {} | {} | {} |",
        requirement.id,
        requirement.level.label(),
        requirement.says.replace('|', "\\|"),
        requirement.verdict().label(),
        says.join(" ").replace('|', "\\|"),
    );
}

#[test]
fn tests_name_requirements_that_exist() {
    let chapters = chapters();
    let known: BTreeSet<&str> =
        chapters.iter().flat_map(|chapter| &chapter.requirement).map(|r| r.id.as_str()).collect();
    let mut findings = Vec::new();
    for mark in marks() {
        for id in mark.ids.iter().filter(|id| !known.contains(id.as_str())) {
            let what = format!("{id:?} is no requirement in {FOLDER}");
            findings.push(Finding::of(&format!("{}:{}", mark.path, mark.line), what));
        }
        if mark.test.is_empty() {
            let place = format!("{}:{}", mark.path, mark.line);
            findings.push(Finding::of(&place, "no test stands below the mark"));
        }
    }
    none(findings);
}

#[test]
fn requirements_stand_once_and_do_not_contradict_themselves() {
    let marks = marks();
    let covered: BTreeSet<&str> =
        marks.iter().flat_map(|mark| &mark.ids).map(String::as_str).collect();
    let (mut seen, mut findings) = (BTreeSet::new(), Vec::new());
    for requirement in chapters().iter().flat_map(|chapter| &chapter.requirement) {
        let id = &requirement.id;
        if !seen.insert(id.clone()) {
            findings.push(Finding::of(id, "stands twice"));
        }
        if requirement.deviation.is_some() && requirement.not_applicable.is_some() {
            findings.push(Finding::of(id, "has a deviation and does not apply"));
        }
        if requirement.not_applicable.is_some() && covered.contains(id.as_str()) {
            findings.push(Finding::of(id, "does not apply and yet a test shows it"));
        }
    }
    none(findings);
}

#[test]
fn every_requirement_has_a_test_or_a_reason() {
    let marks = marks();
    let mut findings = Vec::new();
    for requirement in chapters().iter().flat_map(|chapter| &chapter.requirement) {
        let is_shown = marks.iter().any(|mark| mark.ids.contains(&requirement.id));
        let has_reason = requirement.deviation.is_some() || requirement.not_applicable.is_some();
        if !is_shown && !has_reason {
            findings.push(Finding::of(&requirement.id, "no test names it, and no reason is given"));
        }
    }
    none(findings);
}

#[test]
fn the_page_of_conformance_is_current() {
    let (path, page) = (root().join(PATH), page(&chapters(), &marks()));
    if std::env::var_os(BLESS).is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let hint = format!("{PATH} is not current: run `{BLESS}=1 cargo test -p gabion-tests tidy`");
    assert!(written == page, "{hint}");
}
