//! `gabion push`: a policy is checked here, compared with the one in force, and committed there.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use gabion_api::v1::{
    CommitRequest, CommitResponse, GetRequest, GetResponse, ListRevisionsRequest, Revision,
    ValidateRequest,
};
use gabion_rules::load_and_test;
use serde::Serialize;
use similar::TextDiff;
use tonic::{Code, Status};

use crate::check::{counted, read, today};
use crate::connect::{Connection, Node, refusal};
use crate::diagnose;
use crate::failure::Failure;
use crate::present::{DiagnosticJson, Paint, RevisionJson, Tone, print_json, say, time_text};

/// Commits a policy on a node
///
/// The revision in force is read first and named in the commit, so that a policy which somebody
/// else commits meanwhile is never overwritten unseen.
/// JSON: {"revision":{"number","in_force","digest","committed_at","author","comment","rules"},
/// "warnings":[..],"flows_at_commit"}; with --dry-run the warnings alone: [..]
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// The policy; `-` is standard input
    file: PathBuf,

    /// The revision that you have seen; 0 for a node without a policy [default: the one in force]
    #[arg(long, value_name = "REVISION")]
    expect: Option<u64>,

    /// What the change is for, in one line; shown by `gabion show revisions`
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "")]
    comment: String,

    /// Shows what changes against the policy in force
    #[arg(long)]
    diff: bool,

    /// Changes nothing: checks the policy here and on the node (and shows what would change)
    #[arg(long)]
    dry_run: bool,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct PushedJson {
    revision: RevisionJson,
    warnings: Vec<DiagnosticJson>,
    flows_at_commit: u64,
}

impl Push {
    /// # Errors
    /// If the policy is not valid, the node refuses it, or another revision is in force.
    pub(crate) fn run(&self) -> Result<()> {
        let (file, text) = read(&self.file)?;
        self.check_here(&file, &text)?;
        let mut node = self.connection.open()?;
        let current = in_force(&mut node)?;
        if self.diff || self.dry_run {
            show_difference(current.as_ref(), &text);
        }
        if self.dry_run {
            return self.validate_there(&mut node, &file, text);
        }
        let seen = current.and_then(|current| current.revision).map_or(0, |one| one.number);
        let expected_revision = self.expect.unwrap_or(seen);
        let comment = self.comment.clone();
        let request = CommitRequest { policy: text.clone(), expected_revision, comment };
        match node.ask(async move |api| api.commit(request).await) {
            Ok(response) => self.report(&file, &text, response),
            Err(status) => Err(refused(&mut node, expected_revision, &status).into()),
        }
    }

    /// Most mistakes need no node to be found.
    fn check_here(&self, file: &str, text: &str) -> Result<()> {
        let Err(refused) = load_and_test(file, text, Some(today())) else { return Ok(()) };
        let problems: Vec<_> =
            refused.diagnostics.0.into_iter().map(DiagnosticJson::from).collect();
        if self.json {
            print_json(&problems)?;
        }
        eprint!("{}", diagnose::render(file, text, &problems));
        let count = problems.iter().filter(|problem| problem.severity == "error").count();
        Err(Failure::new(format!("{file} has {}; nothing was sent", counted(count, "error")))
            .next(format!("correct it and look again: gabion check {file}"))
            .into())
    }

    fn validate_there(&self, node: &mut Node, file: &str, text: String) -> Result<()> {
        let request = ValidateRequest { policy: text.clone() };
        let response = node.call(async move |api| api.validate(request).await)?;
        let problems = diagnose::from_node(response.diagnostics);
        eprint!("{}", diagnose::render(file, &text, &problems));
        if self.json {
            print_json(&problems)?;
        }
        if !response.valid {
            let what = format!("{} would refuse {file}", node.target());
            return Err(Failure::new(what).into());
        }
        if !self.json {
            say(format_args!("{} would accept {file}: nothing was changed.", node.target()))?;
        }
        Ok(())
    }

    fn report(&self, file: &str, text: &str, response: CommitResponse) -> Result<()> {
        let warnings = diagnose::from_node(response.warnings);
        let revision = response.revision.context("the node does not name the new revision")?;
        if self.json {
            let flows_at_commit = response.flows_at_commit;
            print_json(&PushedJson { revision: revision.into(), warnings, flows_at_commit })?;
            return Ok(());
        }
        eprint!("{}", diagnose::render(file, text, &warnings));
        say(committed(&revision, response.flows_at_commit))?;
        Ok(())
    }
}

/// What is said about a commit that went well.
pub(crate) fn committed(revision: &Revision, flows: u64) -> String {
    let rules = counted(usize::try_from(revision.rules).unwrap_or(0), "rule");
    let looked_at = match flows {
        0 => String::new(),
        1 => ", 1 live flow is looked at again".to_owned(),
        _ => format!(", {flows} live flows are looked at again"),
    };
    let done = format!("Revision {} is in force", revision.number);
    format!("{}: {rules}{looked_at}.", Paint::stdout().apply(Tone::Good, &done))
}

/// The policy in force; `None` on a node without one.
///
/// # Errors
/// If the node does not answer.
pub(crate) fn in_force(node: &mut Node) -> Result<Option<GetResponse>, Failure> {
    match node.ask(async |api| api.get(GetRequest { revision: None }).await) {
        Ok(response) => Ok(Some(response)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(refusal(node.target(), &status)),
    }
}

/// Why a commit or a rollback was refused; of a stale revision, who has changed what since.
pub(crate) fn refused(node: &mut Node, expected: u64, status: &Status) -> Failure {
    let failure = refusal(node.target(), status);
    if status.code() != Code::FailedPrecondition {
        return failure;
    }
    let request = ListRevisionsRequest { limit: 0 };
    let Ok(list) = node.call(async move |api| api.list_revisions(request).await) else {
        return failure;
    };
    let is_stale = list.revisions.iter().any(|one| one.in_force && one.number != expected);
    if !is_stale {
        return failure;
    }
    let mut failure = failure;
    for since in list.revisions.iter().filter(|one| one.number > expected).take(5) {
        failure = failure.next(format!("since then: {}", described(since)));
    }
    failure
        .next("look at it: gabion show policy; gabion push FILE --dry-run shows the difference")
        .next("then push again, on the revision in force")
}

/// `revision 4 by alice on 2026-11-21T10:00:00Z: open port 80`.
fn described(revision: &Revision) -> String {
    let at = time_text(revision.committed_at.as_ref()).unwrap_or_else(|| "?".to_owned());
    let comment = match revision.comment.as_str() {
        "" => String::new(),
        comment => format!(": {comment}"),
    };
    format!("revision {} by {} on {at}{comment}", revision.number, revision.author)
}

fn show_difference(current: Option<&GetResponse>, text: &str) {
    let paint = Paint::stderr();
    let old = current.map_or("", |current| &current.policy);
    if old == text {
        eprintln!("The text is the one in force.");
        return;
    }
    let number = current.and_then(|current| current.revision.as_ref()).map_or(0, |one| one.number);
    let diff = TextDiff::from_lines(old, text);
    let unified = diff.unified_diff().header(&format!("revision {number}"), "new").to_string();
    for line in unified.lines() {
        let tone = match line.as_bytes().first() {
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(b'@') => Tone::Faint,
            Some(_) | None => Tone::Plain,
        };
        eprintln!("{}", paint.apply(tone, line));
    }
}
