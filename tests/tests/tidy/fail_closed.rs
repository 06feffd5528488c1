//! docs/fail-closed.md names tests and checks of the lab: they must be there.

use std::fs;

use super::sources::{self, root};
use super::{Finding, none};

const PATH: &str = "docs/fail-closed.md";

#[test]
fn what_shows_that_the_node_fails_closed_is_there() {
    let page = fs::read_to_string(root().join(PATH)).unwrap();
    let sources = sources::all();
    let exists = |name: &str| {
        let (test, check) = (format!("fn {name}("), format!("(\"{name}\", "));
        sources.iter().any(|source| source.text.contains(&test) || source.text.contains(&check))
    };
    let shown_by = page.lines().filter_map(|line| line.trim_end_matches('|').rsplit_once('|'));
    let mut findings = Vec::new();
    let mut named = 0;
    for (_, last) in shown_by {
        for name in last.split('`').skip(1).step_by(2) {
            named += 1;
            if !exists(name) {
                findings.push(Finding::of(PATH, format!("there is no test or check {name}")));
            }
        }
    }
    assert!(named > 20, "only {named} names are found in {PATH}");
    none(findings);
}
