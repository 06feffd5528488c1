//! Runs a scenario: builds the lab, tries each check, and holds what the node reports against it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use gabion_api::v1::{CountersResponse, Flow, FlowFilter, Translation};
use serde::{Serialize, Serializer};

use super::Run;
use super::namespace::Lifetime;
use super::progress::Progress;
use super::report::Page;
use super::scenario::{Because, Check, Figure, Late, Outcome, Scenario};
use super::stage::{Setup, Stage};
use crate::failure::Failure;
use crate::present::say;

#[derive(Debug, Serialize)]
struct Report<'a> {
    scenario: &'static str,
    passed: bool,
    checks: Vec<&'a ReportedCheck>,
}

#[derive(Debug, Serialize)]
struct ReportedCheck {
    name: &'static str,
    passed: bool,
    /// Nothing but a bound on time was missed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    figures: Vec<Figure>,
}

fn as_map<S: Serializer>(figures: &[Figure], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|figure| (figure.column, &figure.value)))
}

/// Builds the lab, runs the checks, removes the lab and reports.
///
/// # Errors
/// If the lab cannot be built, or a check failed.
pub(crate) fn run(scenario: &Scenario, setup: &Setup, options: &Run) -> Result<()> {
    let begin = Instant::now();
    let mut checks = (scenario.checks)();
    if let Some(only) = &options.only {
        checks.retain(|check| check.name.contains(only.as_str()));
        if checks.is_empty() {
            return Err(Failure::new(format!("no check's name contains `{only}`")).into());
        }
    }
    let mut progress = Progress::new(checks.len(), Page::beside(options.json.as_deref()));
    progress.opening(scenario);
    let played = play(scenario, setup, options, &checks, &mut progress);
    let failure = played.as_ref().err().map(ReportedCheck::of_the_lab);
    let checks: Vec<_> = played.as_deref().unwrap_or_default().iter().chain(&failure).collect();
    let passed = checks.iter().all(|check| check.passed);
    if let Some(path) = &options.json {
        write(path, &Report { scenario: scenario.name, passed, checks })?;
    }
    let played = played?;
    progress.figures(played.iter().map(|check| (check.name, check.figures.as_slice())));
    let good = played.iter().filter(|check| check.passed).count();
    progress.closing(good, begin.elapsed());
    if passed { Ok(()) } else { Err(Failure::shown().into()) }
}

/// Builds the lab, runs the checks and removes the lab, or leaves it up if that is wanted.
fn play(
    scenario: &Scenario,
    setup: &Setup,
    options: &Run,
    checks: &[Check],
    progress: &mut Progress,
) -> Result<Vec<ReportedCheck>> {
    let begin = Instant::now();
    let mut stage = progress.during("building the lab", || Stage::build(scenario, setup))?;
    progress.built(&setup.name, begin.elapsed());
    if options.only.is_some() {
        stage.start_node()?;
        stage.push(scenario.policy)?;
    }
    let mut reported = Vec::new();
    let mut node_is_lost = false;
    for check in checks {
        progress.start(check);
        let had_node = stage.is_node_running();
        let outcome = if node_is_lost { Outcome::not_tried() } else { judge(check, &mut stage) };
        // Nothing can be learnt without a node that should be there: the rest would only take time.
        let has_node = stage.is_node_running();
        node_is_lost |= !outcome.passed && !had_node && !has_node || stage.obituary().is_some();
        progress.end(check, &outcome);
        let detail = detail(check, &outcome);
        let figures = std::mem::take(&mut stage.figures);
        let Outcome { passed, late, .. } = outcome;
        reported.push(ReportedCheck { name: check.name, passed, late, detail, figures });
    }
    match setup.lifetime {
        Lifetime::Detached => {
            stage.keep()?;
            progress.kept(&setup.name);
        }
        Lifetime::Bound => progress.during("removing the lab", || {
            drop(stage);
            Ok(())
        })?,
    }
    Ok(reported)
}

impl ReportedCheck {
    /// A lab that could not be built is a check that failed: readers of the JSON get an answer.
    fn of_the_lab(error: &anyhow::Error) -> Self {
        let detail = one_line(&format!("{error:#}"));
        Self { name: "lab", passed: false, late: false, detail, figures: Vec::new() }
    }
}

fn write(path: &Path, report: &Report<'_>) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    if path == Path::new("-") {
        return Ok(say(text)?);
    }
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Runs a check and holds what the node reports against what the check expects.
fn judge(check: &Check, stage: &mut Stage) -> Outcome {
    let failed =
        |seen: String, why: String| Outcome { passed: false, late: false, seen, why: vec![why] };
    let before = Tally::take(stage);
    let seen = match (check.act)(stage) {
        Ok(seen) => seen,
        Err(error) => {
            let changes = Tally::take(stage).since(&before);
            let obituary = stage.obituary().map(|text| format!("; {text}")).unwrap_or_default();
            let late = error.is::<Late>() && obituary.is_empty();
            return Outcome { late, ..failed(format!("{error:#}{obituary}"), changes) };
        }
    };
    match wait_for(&check.because, stage, &before) {
        Ok(why) => Outcome { passed: true, late: false, seen, why },
        Err(error) => {
            let changes = Tally::take(stage).since(&before);
            failed(format!("{seen}, but {error:#}"), changes)
        }
    }
}

fn detail(check: &Check, outcome: &Outcome) -> String {
    let Check { tried, tool, expect, .. } = check;
    let seen = one_line(&outcome.seen);
    let why = match outcome.why.as_slice() {
        [] => String::new(),
        why => format!(" [{}]", why.join(", ")),
    };
    format!("{tried} ({tool}): {}: {seen}{why}", expect.label())
}

/// Waits until the node's counters show what `because` names; workers publish them now and then.
fn wait_for(because: &Because, stage: &mut Stage, before: &Tally) -> Result<Vec<String>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let begin = Instant::now();
    loop {
        match explain(because, stage, before) {
            Ok(why) => return Ok(why),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

fn explain(because: &Because, stage: &mut Stage, before: &Tally) -> Result<Vec<String>> {
    let mut named = Vec::new();
    if because.rule.is_some() || because.reason.is_some() {
        let now = Tally::take(stage);
        if let Some(rule) = because.rule {
            if !now.rose("rule", rule, before) {
                bail!("no hit of rule {rule}");
            }
            named.push(format!("rule {rule}"));
        }
        if let Some(reason) = because.reason {
            if !now.rose("drop", reason, before) {
                bail!("nothing was counted as {reason}");
            }
            named.push(format!("reason {reason}"));
        }
    }
    let mut why = vec![named.join(", ")];
    if !because.nat.is_empty() {
        why.push(translation(because, stage)?);
    }
    why.retain(|line| !line.is_empty());
    Ok(why)
}

/// The newest flow of the rule that the NAT rules have translated, as `from -> to`.
fn translation(because: &Because, stage: &mut Stage) -> Result<String> {
    let rule = because.rule.unwrap_or_default().to_owned();
    let flows = stage.flows(FlowFilter { rule, ..FlowFilter::default() })?;
    let translated =
        |flow: &&Flow| because.nat.iter().all(|nat| flow.nat_rules.iter().any(|n| n == nat));
    let wanted = because.nat.join(" + ");
    let Some(flow) = flows.iter().filter(translated).max_by_key(|flow| flow.id) else {
        bail!("no flow was translated by {wanted}");
    };
    let original =
        Translation { source: flow.source.clone(), destination: flow.destination.clone() };
    let Some(new) = &flow.translated else {
        bail!("the flow of {wanted} shows no translation");
    };
    Ok(format!("{wanted}: {} became {}", path_of(&original), path_of(new)))
}

fn path_of(translation: &Translation) -> String {
    let [source, destination] = [&translation.source, &translation.destination]
        .map(|endpoint| endpoint.as_ref().map_or_else(|| "?".to_owned(), crate::present::endpoint));
    format!("{source} > {destination}")
}

/// Rule hits and drop reasons at one moment.
#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<(&'static str, String), u64>,
}

impl Tally {
    /// Empty while no node is running.
    fn take(stage: &mut Stage) -> Self {
        if !stage.is_node_running() {
            return Self::default();
        }
        stage.counters().map(Self::from).unwrap_or_default()
    }

    fn rose(&self, kind: &'static str, name: &str, before: &Self) -> bool {
        let key = (kind, name.to_owned());
        self.counts.get(&key).copied().unwrap_or(0) > before.counts.get(&key).copied().unwrap_or(0)
    }

    /// What has risen: helps when a check fails.
    fn since(&self, before: &Self) -> String {
        let risen: Vec<_> = self
            .counts
            .iter()
            .filter_map(|(key, now)| {
                let rise = now.saturating_sub(before.counts.get(key).copied().unwrap_or(0));
                (rise > 0).then(|| format!("{} {} +{rise}", key.0, key.1))
            })
            .collect();
        if risen.is_empty() { "no counter rose".to_owned() } else { risen.join(", ") }
    }
}

impl From<CountersResponse> for Tally {
    fn from(counters: CountersResponse) -> Self {
        let rules = counters.rules.into_iter().map(|rule| (("rule", rule.name), rule.hits));
        let drops = counters.drops.into_iter().map(|drop| (("drop", drop.name), drop.value));
        Self { counts: rules.chain(drops).collect() }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}
