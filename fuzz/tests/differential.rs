//! Conversations through the engine and through Linux: `GABION_DIFF_SEED` and `GABION_DIFF_COUNT`
//! choose others and more.
#![allow(clippy::unwrap_used)]

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn every_difference_from_linux_is_explained() {
    let (seed, count) = (number("GABION_DIFF_SEED", 1), number("GABION_DIFF_COUNT", 200));
    let Some(report) = gabion_fuzz::differential::run(seed, count) else { return };
    println!("from seed {seed}: {report}");
    assert!(report.packets > report.conversations * 3, "few packets were sent: {report}");
    assert!(report.unexplained.is_empty(), "{report}");
}

/// The page is written from the classes: `GABION_BLESS=1 cargo test -p gabion-fuzz --test differential`.
#[test]
fn the_page_of_differences_is_current() {
    let page = gabion_fuzz::differential::classes::page();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/differences.md");
    if std::env::var_os("GABION_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "docs/differences.md");
}
