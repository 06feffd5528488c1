//! What CONTRIBUTING.md asks of the code, as far as a machine can tell.
//!
//! It reads text, not syntax trees: enough for rustfmt's output, and it says where it looked.

#![allow(clippy::unwrap_used)]

mod conformance;
mod crates;
mod fail_closed;
mod lints;
mod reasons;
mod scan;
mod sources;

use std::fmt::Write as _;

use scan::{functions, words};
use sources::{Part, Source};

/// What is wrong, where.
#[derive(Debug)]
struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn at(source: &Source, line: usize, what: impl Into<String>) -> Self {
        Self { place: format!("{}:{line}", source.path), what: what.into() }
    }

    fn of(place: &str, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), what: what.into() }
    }
}

/// Fails with every finding, so that one run is enough to know what is left to do.
fn none(findings: Vec<Finding>) {
    let mut text = String::new();
    for finding in &findings {
        let _ = writeln!(text, "  {}: {}", finding.place, finding.what);
    }
    assert!(findings.is_empty(), "{} findings\n{text}", findings.len());
}

const FILE_LINES_MAX: usize = 600;
/// The table of contents of the engine: past this a branch has leaked in that belongs to a stage.
const ENGINE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn files_are_short_or_say_why_not() {
    let mut findings = Vec::new();
    for source in sources::all() {
        let lines = source.product_lines();
        let limit = if source.path == "appliance/engine/src/engine.rs" {
            ENGINE_LINES_MAX
        } else if source.text.contains("// Long because ") {
            continue;
        } else {
            FILE_LINES_MAX
        };
        if lines > limit {
            let what = format!("{lines} lines without tests are more than {limit}");
            findings.push(Finding::at(source, 1, what));
        }
    }
    none(findings);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Vec::new();
    for source in sources::all() {
        for function in functions(&source.product) {
            if function.lines > FUNCTION_LINES_MAX {
                let what = format!(
                    "fn {} has {} lines, more than {FUNCTION_LINES_MAX}",
                    function.name, function.lines
                );
                findings.push(Finding::at(source, function.line, what));
            }
        }
    }
    none(findings);
}

#[test]
fn nothing_is_left_open() {
    let code = ["todo!", "unimplemented!", "#[ignore", "dbg!"];
    let text = ["FIXME", "XXX"];
    let mut findings = Vec::new();
    for source in sources::all().iter().filter(|source| !source.is_tidy()) {
        for (line, word) in words(&source.code, &code).chain(words(&source.text, &text)) {
            findings.push(Finding::at(source, line, format!("{word} is left in")));
        }
    }
    none(findings);
}

#[test]
fn names_say_what_is_inside() {
    const EMPTY: [&str; 8] =
        ["common", "helper", "helpers", "manager", "misc", "types", "util", "utils"];
    let mut findings = Vec::new();
    for source in sources::all() {
        for part in source.path.trim_end_matches(".rs").split('/') {
            if EMPTY.contains(&part) {
                findings.push(Finding::at(source, 1, format!("\"{part}\" says nothing")));
            }
        }
    }
    none(findings);
}

/// `rules` and `engine` are told the time and are handed bytes; they reach for nothing themselves.
#[test]
fn the_pure_crates_touch_nothing_outside() {
    const BANNED: [&str; 18] = [
        "Instant",
        "SystemTime",
        "OffsetDateTime::now_utc",
        "OffsetDateTime::now_local",
        "std::env",
        "std::fs",
        "std::io",
        "std::process",
        "std::thread",
        "thread::",
        "std::net::TcpListener",
        "std::net::TcpStream",
        "std::net::UdpSocket",
        "TcpStream",
        "UdpSocket",
        "print!",
        "println!",
        "eprintln!",
    ];
    let mut findings = Vec::new();
    for source in
        sources::all().iter().filter(|s| s.is_of("rules/src") || s.is_of("appliance/engine/src"))
    {
        for (line, word) in words(&source.product, &BANNED) {
            findings.push(Finding::at(
                source,
                line,
                format!("{word} has no place in a pure crate"),
            ));
        }
    }
    none(findings);
}

#[test]
fn unsafe_code_is_where_it_may_be_and_says_why() {
    /// How far above the word its reasons may begin.
    const REASON_LINES: usize = 8;
    let mut findings = Vec::new();
    for source in sources::all() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (line, _) in words(&source.code, &["unsafe"]) {
            if !source.is_of("appliance/datapath/src") && !source.is_of("appliance/guard/src") {
                findings.push(Finding::at(source, line, "unsafe is for datapath and guard"));
                continue;
            }
            let above = &lines[line.saturating_sub(REASON_LINES + 1)..line];
            let above: Vec<_> = above.iter().flat_map(|l| l.split([' ', '/'])).collect();
            let above =
                above.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            for reason in ["SAFETY:", "No safe way:"] {
                if !above.contains(reason) {
                    let what = format!("unsafe without \"{reason}\" in a comment above");
                    findings.push(Finding::at(source, line, what));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn tests_stand_beside_the_code_or_in_a_file_of_their_own() {
    /// About this many lines of tests are as many as a reader scrolls past.
    const INLINE_LINES_MAX: usize = 250;
    let mut findings = Vec::new();
    for source in sources::all().iter().filter(|source| source.part == Part::Product) {
        if source.test_lines > INLINE_LINES_MAX {
            let what =
                format!("{} lines of tests belong into a file of their own", source.test_lines);
            findings.push(Finding::at(source, 1, what));
        }
    }
    none(findings);
}
