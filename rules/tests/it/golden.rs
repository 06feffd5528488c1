//! Golden files: `NAME.in.yaml` becomes `NAME.ok.yaml`, its canonical text, or `NAME.err`, the exact
//! diagnostics. `UPDATE_GOLDEN=1` writes what is missing or differs; read the difference.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use gabion_rules::{Diagnostic, LintGroup, Severity, load, load_and_lint};

/// Rules of the golden files expire before or after this day.
const TODAY: time::Date = time::macros::date!(2026 - 11 - 21);

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<_> =
        files.filter(|file| file.to_str().unwrap().ends_with(".in.yaml")).collect();
    inputs.sort();
    inputs
}

fn print(diagnostics: &[Diagnostic]) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        let kind = match (diagnostic.severity, diagnostic.lint) {
            (Severity::Error, _) => String::new(),
            (Severity::Warning, lint) => format!(" ({})", lint.unwrap().label()),
        };
        writeln!(text, "{diagnostic}{kind}").unwrap();
        if !diagnostic.help.is_empty() {
            writeln!(text, "    {}", diagnostic.help).unwrap();
        }
    }
    text
}

/// Compares with the file, or writes it.
fn check(file: &Path, actual: &str, differences: &mut Vec<String>) {
    let expected = fs::read_to_string(file).unwrap_or_default();
    if expected == actual {
        return;
    }
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file, actual).unwrap();
    } else {
        let name = file.file_name().unwrap().display();
        differences.push(format!("--- {name} holds:\n{expected}--- but it is:\n{actual}"));
    }
}

#[test]
fn every_input_ends_as_its_golden_file_says() {
    let mut differences = Vec::new();
    let (mut good, mut bad) = (0, 0);
    for input in inputs() {
        let text = fs::read_to_string(&input).unwrap();
        let name = input.file_name().unwrap().to_str().unwrap();
        let beside = |ending| input.with_file_name(name.replace(".in.yaml", ending));
        match load_and_lint(name, &text, Some(TODAY), LintGroup::Pedantic) {
            Ok(loaded) => {
                good += 1;
                let canonical = loaded.policy.print();
                check(&beside(".ok.yaml"), &canonical, &mut differences);
                check(&beside(".warn"), &print(&loaded.warnings), &mut differences);
                let again = load(name, &canonical, Some(TODAY)).unwrap();
                assert_eq!(again.policy, loaded.policy, "{name}");
                assert_eq!(again.policy.print(), canonical, "{name}");
                assert!(!beside(".err").exists(), "{name} is right, but has an .err file");
            }
            Err(refused) => {
                let diagnostics = refused.diagnostics;
                bad += 1;
                check(&beside(".err"), &print(&diagnostics.0), &mut differences);
                assert!(!beside(".ok.yaml").exists(), "{name} is wrong, but has an .ok.yaml file");
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(good >= 5 && bad >= 25, "golden files are missing: {good} good, {bad} bad");
}

#[test]
fn the_schema_in_docs_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.schema.json");
    let mut differences = Vec::new();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    check(&file, &gabion_rules::json_schema(), &mut differences);
    assert!(differences.is_empty(), "run the tests with UPDATE_GOLDEN=1: {differences:?}");
}
