//! docs/drop-reasons.md, which is written from the list in the engine.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use gabion_engine::DropReason;

use super::sources::{self, root};

const PATH: &str = "docs/drop-reasons.md";
const BLESS: &str = "GABION_BLESS";

fn page() -> String {
    let mut page = String::from(
        "# Drop reasons\n\n\
         Every frame that the appliance does not pass has one of these reasons. The name is the same in\n\
         metrics, the event log, `gabion explain` and captures, and it never changes its meaning.\n\
         They stand in the order in which a packet meets them.\n\n\
         | reason | what happened |\n|---|---|\n",
    );
    for reason in DropReason::ALL {
        let help = reason.help().replace('|', "\\|");
        let _ = writeln!(page, "| `{}` | {help} |", reason.label());
    }
    page.push_str(
        "\nThis page is written from the list in `appliance/engine/src/verdict.rs`:\n\
         `GABION_BLESS=1 cargo test -p gabion-tests tidy`.\n",
    );
    page
}

#[test]
fn the_page_of_drop_reasons_is_current() {
    let path = root().join(PATH);
    if std::env::var_os(BLESS).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, page()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let hint = format!("{PATH} is not current: run `{BLESS}=1 cargo test -p gabion-tests tidy`");
    assert!(written == page(), "{hint}");
}

#[test]
fn labels_are_names_that_metrics_can_carry() {
    let mut seen = BTreeSet::new();
    for reason in DropReason::ALL {
        let label = reason.label();
        let kebab = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        assert!(label.split('-').all(kebab), "{label}");
        assert!(seen.insert(label), "{label} stands twice");
        assert!(reason.help().ends_with('.'), "{label}: {}", reason.help());
    }
}

/// A reason that no packet can reach is none, and one that no scenario reaches may be counted wrong.
#[test]
fn every_reason_is_reached_by_a_scenario() {
    let scenarios: Vec<_> =
        sources::all().iter().filter(|s| s.path.contains("tests/scenarios/")).collect();
    let is_named = |reason: &DropReason| {
        let label = reason.label();
        let words = [
            format!(":{label}\""),
            format!(":{label}="),
            format!("\"{label}\""),
            format!("DropReason::{reason:?}"),
        ];
        scenarios.iter().any(|s| words.iter().any(|word| s.text.contains(word)))
    };
    let missing: Vec<_> = DropReason::ALL.iter().filter(|reason| !is_named(reason)).collect();
    assert!(missing.is_empty(), "no scenario sends a packet for {missing:?}");
}
