//! The arrows between crates, as Cargo has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::sources::root;
use super::{Finding, none};

/// Which of our crates a crate may use; tests and benches may use any.
const ARROWS: [(&str, &[&str]); 11] = [
    ("gabion-rules", &[]),
    ("gabion-engine", &["gabion-rules"]),
    ("gabion-datapath", &[]),
    ("gabion-api", &[]),
    ("gabiond", &["gabion-rules", "gabion-engine", "gabion-datapath", "gabion-api"]),
    (
        "gabion",
        &[
            "gabion-rules",
            "gabion-api",
            "gabion-datapath",
            "gabion-enrol",
            "gabion-image",
            "gabion-fake-imds",
        ],
    ),
    ("gabion-guard", &[]),
    ("gabion-enrol", &[]),
    ("gabion-provision", &["gabion-enrol"]),
    ("gabion-image", &[]),
    ("gabion-fake-imds", &[]),
];
const FREE: [&str; 3] = ["gabion-tests", "gabion-benches", "gabion-fuzz"];

/// The crates that reach for nothing, and what would let them.
const PURE: [&str; 2] = ["gabion-rules", "gabion-engine"];
const IMPURE: [&str; 12] = [
    "async-std",
    "crossbeam",
    "futures",
    "hyper",
    "libc",
    "mio",
    "nix",
    "rand",
    "rayon",
    "rustix",
    "smol",
    "tokio",
];

/// Each package of the workspace with its manifest's path and what it needs besides for tests.
fn packages() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().unwrap();
            let needs = needs.iter().filter(|need| need["kind"] != "dev");
            let needs = needs.map(|need| text(need, "name")).collect();
            (text(package, "name"), (text(package, "manifest_path"), needs))
        })
        .collect()
}

#[test]
fn arrows_point_where_they_may() {
    let packages = packages();
    let mut findings = Vec::new();
    for (name, (_, needs)) in &packages {
        if FREE.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            findings.push(Finding::of(name, "is a crate that the tidy test does not know"));
            continue;
        };
        for need in needs.iter().filter(|need| packages.contains_key(*need)) {
            if !allowed.contains(&need.as_str()) {
                findings.push(Finding::of(name, format!("may not use {need}")));
            }
        }
    }
    none(findings);
}

#[test]
fn pure_crates_can_not_reach_out() {
    let packages = packages();
    let mut findings = Vec::new();
    for name in PURE {
        for need in &packages[name].1 {
            if IMPURE.iter().any(|impure| need == impure || need.starts_with(&format!("{impure}-")))
            {
                findings.push(Finding::of(name, format!("is pure and may not use {need}")));
            }
        }
    }
    none(findings);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    /// Its `unsafe` is denied and let in by name, which a forbidding workspace can not express.
    const OWN_LINTS: &str = "gabion-datapath";
    let mut findings = Vec::new();
    for (name, (manifest, _)) in packages() {
        let text = fs::read_to_string(manifest).unwrap();
        if name != OWN_LINTS && !text.contains("[lints]\nworkspace = true") {
            findings.push(Finding::of(&name, "lacks [lints] workspace = true"));
        }
    }
    none(findings);
}
