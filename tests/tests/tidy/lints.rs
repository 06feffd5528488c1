//! docs/lints.md, which is written from the list in the rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use gabion_rules::{Lint, LintGroup};

use super::sources::root;

const PATH: &str = "docs/lints.md";
const BLESS: &str = "GABION_BLESS";

const HEAD: &str = "# Lints\n
What is right and yet hardly meant. `gabion check` shows these as warnings, and a node shows them when it
validates or commits a policy; they never refuse one.

- `gabion check --deny warnings` fails on any of them, `--deny NAME` on one of them.
- `allow-lints: [NAME]` under a rule's or NAT rule's `meta` silences a lint there; under `settings` it silences it
  everywhere.
- `gabion check --pedantic` also shows those that are marked so: what they find may well be meant.

Rules are compared exactly: a rule is called shadowed if and only if no packet can make it decide, be it because of one
rule above it or of several together. A rule with `expires` shadows nothing, because it will be gone. What would take
too long is given up, with a warning that says so.

| lint | what it finds |
|---|---|
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for lint in Lint::ALL {
        let help = lint.help().replace('|', "\\|");
        let group = match lint.group() {
            LintGroup::Usual => "",
            LintGroup::Pedantic => " Pedantic.",
        };
        let _ = writeln!(page, "| `{}` | {help}{group} |", lint.label());
    }
    page.push_str(
        "\nThis page is written from the list in `rules/src/lint/names.rs`:\n\
         `GABION_BLESS=1 cargo test -p gabion-tests tidy`.\n",
    );
    page
}

#[test]
fn the_page_of_lints_is_current() {
    let path = root().join(PATH);
    if std::env::var_os(BLESS).is_some() {
        fs::write(&path, page()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let hint = format!("{PATH} is not current: run `{BLESS}=1 cargo test -p gabion-tests tidy`");
    assert!(written == page(), "{hint}");
}

#[test]
fn lints_have_names_and_sentences() {
    let mut seen = BTreeSet::new();
    for lint in Lint::ALL {
        let label = lint.label();
        assert!(label.bytes().all(|b| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert!(seen.insert(label), "{label} stands twice");
        assert!(lint.help().ends_with(['.', ')']), "{label}: {}", lint.help());
    }
}
