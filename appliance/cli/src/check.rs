//! `gabion check`: what a node would say to a policy, without a node.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use gabion_rules::{Lint, LintGroup, Loaded, Refused, load_and_lint};
use serde::Serialize;

use crate::diagnose;
use crate::failure::Failure;
use crate::present::{DiagnosticJson, Paint, TestJson, Tone, print_json, say, write_out};

/// Checks policies and runs their tests, without a node
///
/// Exit status 0 if all are valid and nothing is denied, 1 otherwise.
/// JSON: [{"file","valid","rules","nat_rules","digest","diagnostics":[{"severity","lint","message",
/// "help","line","column","length"}],"tests":[{"name","passed","expected","actual","line"}]}]
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Policies; `-` is standard input
    #[arg(required_unless_present = "schema")]
    files: Vec<PathBuf>,

    /// Prints each valid policy in its canonical form, and nothing else
    #[arg(long, conflicts_with_all = ["json", "schema"])]
    print: bool,

    /// Prints the JSON Schema of the policy language, for editors
    #[arg(long, conflicts_with_all = ["json", "files"])]
    schema: bool,

    /// Fails on warnings: `warnings` for all of them, or the name of a lint
    #[arg(long, value_name = "LINT", value_parser = denied_words())]
    deny: Vec<String>,

    /// Warns of what may well be meant, too
    #[arg(long)]
    pedantic: bool,

    /// Shows the tests that passed as well
    #[arg(long, short)]
    verbose: bool,

    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// The word for every lint.
const ALL_WARNINGS: &str = "warnings";

fn denied_words() -> clap::builder::PossibleValuesParser {
    std::iter::once(ALL_WARNINGS).chain(Lint::ALL.iter().map(|lint| lint.label())).into()
}

#[derive(Debug, Serialize)]
struct CheckedJson {
    file: String,
    valid: bool,
    rules: usize,
    nat_rules: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    diagnostics: Vec<DiagnosticJson>,
    tests: Vec<TestJson>,
}

impl Check {
    /// # Errors
    /// If a file cannot be read or a policy is not valid.
    pub(crate) fn run(&self) -> Result<()> {
        if self.schema {
            say(gabion_rules::json_schema())?;
            return Ok(());
        }
        let mut checked = Vec::new();
        for path in &self.files {
            let (file, text) = read(path)?;
            let outcome = load_and_lint(&file, &text, Some(today()), self.lints());
            if let (true, Ok(loaded)) = (self.print, &outcome) {
                write_out(loaded.policy.print())?;
            }
            let result = judge(file, outcome);
            if !self.json {
                self.show(&result, &text)?;
            }
            checked.push(result);
        }
        let all_valid = checked.iter().all(|one| one.valid);
        let denied = checked.iter().find(|one| self.denies(one));
        if self.json {
            print_json(&checked)?;
        }
        match denied {
            _ if !all_valid => Err(Failure::shown().into()),
            None => Ok(()),
            Some(one) => Err(Failure::new(format!("{} has warnings that are denied", one.file))
                .next("mend them, or name them in `allow-lints`: docs/lints.md")
                .into()),
        }
    }

    fn lints(&self) -> LintGroup {
        if self.pedantic { LintGroup::Pedantic } else { LintGroup::Usual }
    }

    fn denies(&self, checked: &CheckedJson) -> bool {
        let denied = |lint: &str| self.deny.iter().any(|word| word == ALL_WARNINGS || word == lint);
        checked.diagnostics.iter().any(|one| one.severity == "warning" && denied(&one.lint))
    }

    fn show(&self, checked: &CheckedJson, text: &str) -> std::io::Result<()> {
        eprint!("{}", diagnose::render(&checked.file, text, &checked.diagnostics));
        if self.print {
            return Ok(());
        }
        let failing = checked.tests.iter().any(|test| !test.passed);
        if !checked.tests.is_empty() && (self.verbose || failing) {
            say(format_args!("{}\n", diagnose::tests_table(&checked.tests).text()))?;
        }
        say(checked.summary())
    }
}

impl CheckedJson {
    fn summary(&self) -> String {
        let paint = Paint::stdout();
        let errors = self.diagnostics.iter().filter(|one| one.severity == "error").count();
        let warnings = self.diagnostics.len() - errors;
        let passed = self.tests.iter().filter(|test| test.passed).count();
        let tests = match self.tests.len() {
            0 => "no tests".to_owned(),
            all => format!("{passed} of {} passed", counted(all, "test")),
        };
        if !self.valid {
            let verdict = paint.apply(Tone::Bad, "not valid");
            return format!("{}: {verdict}: {}, {tests}", self.file, counted(errors, "error"));
        }
        let warned = match warnings {
            0 => String::new(),
            _ => format!(", {}", counted(warnings, "warning")),
        };
        format!(
            "{}: {}: {}, {}, {tests}{warned}",
            self.file,
            paint.apply(Tone::Good, "valid"),
            counted(self.rules, "rule"),
            counted(self.nat_rules, "NAT rule"),
        )
    }
}

/// A policy's name for messages, and its text.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn read(path: &Path) -> Result<(String, String), Failure> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
        return decode("<stdin>".to_owned(), bytes);
    }
    let file = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read {file}: {error}")))?;
    decode(file, bytes)
}

fn decode(file: String, bytes: Vec<u8>) -> Result<(String, String), Failure> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok((file, text)),
        Err(error) => Err(not_utf8(&file, error.as_bytes(), error.utf8_error().valid_up_to())),
    }
}

fn not_utf8(file: &str, bytes: &[u8], at: usize) -> Failure {
    let line = bytes.iter().take(at).filter(|&&byte| byte == b'\n').count() + 1;
    Failure::new(format!("{file}:{line}: the text is not UTF-8 from byte {at} on"))
        .next(format!("save the file as UTF-8; iconv -f LATIN1 -t UTF-8 {file} may do it"))
}

/// The day by which rules expire, in UTC as on the nodes.
pub(crate) fn today() -> time::Date {
    time::OffsetDateTime::now_utc().date()
}

/// `1 rule`, `2 rules`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn judge(file: String, outcome: Result<Loaded, Box<Refused>>) -> CheckedJson {
    match outcome {
        Ok(loaded) => CheckedJson {
            file,
            valid: true,
            rules: written_rules(&loaded),
            nat_rules: loaded.rule_set.nat_rules().len(),
            digest: loaded.rule_set.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
            diagnostics: loaded.warnings.into_iter().map(Into::into).collect(),
            tests: loaded.tests.into_iter().map(Into::into).collect(),
        },
        Err(refused) => CheckedJson {
            file,
            valid: false,
            rules: 0,
            nat_rules: 0,
            digest: String::new(),
            diagnostics: refused.diagnostics.0.into_iter().map(Into::into).collect(),
            tests: refused.tests.into_iter().map(Into::into).collect(),
        },
    }
}

/// The rule set has a default for each pair of zones behind the rules that were written.
fn written_rules(loaded: &Loaded) -> usize {
    let zones = loaded.rule_set.zones().len();
    loaded.rule_set.rules().len().saturating_sub(zones * zones)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        check: Check,
    }

    const POLICY: &str = "
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  inside: { interfaces: [int], networks: [10.0.0.0/8] }
rules:
  - { name: web, from: internet, to: inside, service: tcp/443, action: allow }
  - { name: late, from: internet, to: inside, service: tcp/443, action: drop }
";

    fn check(arguments: &[&str]) -> Check {
        let words = ["check", "policy.yaml"].iter().chain(arguments);
        Arguments::try_parse_from(words).unwrap().check
    }

    fn is_denied(arguments: &[&str]) -> bool {
        let check = check(arguments);
        let outcome = load_and_lint("policy.yaml", POLICY, None, check.lints());
        check.denies(&judge("policy.yaml".to_owned(), outcome))
    }

    #[test]
    fn warnings_are_denied_where_asked_for() {
        assert!(!is_denied(&[]));
        assert!(is_denied(&["--deny", "warnings"]));
        assert!(is_denied(&["--deny", "shadowed-rule"]));
        assert!(is_denied(&["--deny", "any-any", "--deny", "shadowed-rule"]));
        assert!(!is_denied(&["--deny", "any-any"]));
    }

    #[test]
    fn only_lints_can_be_denied() {
        let words = ["check", "policy.yaml", "--deny", "shadowed-rules"];
        let error = Arguments::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains("shadowed-rule"), "{error}");
    }

    #[test]
    fn json_names_the_lint() {
        let outcome = load_and_lint("policy.yaml", POLICY, None, LintGroup::Usual);
        let json = serde_json::to_value(judge("policy.yaml".to_owned(), outcome)).unwrap();
        assert_eq!(json["diagnostics"][0]["lint"], "shadowed-rule");
        assert_eq!(json["diagnostics"][0]["line"], 8);
    }
}
