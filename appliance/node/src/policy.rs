//! The policy in force, and the only way to another one.
//!
//! A commit goes: read, check, compile and test the text; look whether its author has seen the revision
//! in force, and whether the node has the interfaces that it names; write it to the disk and switch
//! the pointer there; hand the rule set to the packet thread and wait until it has taken it; answer.
//!
//! The disk comes before the packets because it can refuse and they can not: when the disk is full
//! nothing has changed anywhere, and once the pointer is switched nothing can go wrong any more but the
//! end of the process, after which the new policy is loaded. The other order would have to take a policy
//! back out of force. Whoever dies in between therefore leaves the old policy or the new one, on the
//! disk and, after the next start, in memory; a client that got no answer has to look which.
//!
//! Commits take turns. One that has begun goes on when its client hangs up.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use gabion_engine::Generation;
use gabion_rules::{
    Diagnostic, Diagnostics, LintGroup, Loaded, Refused, Severity, load_and_lint, load_and_test,
};
use time::{Date, OffsetDateTime};
use tokio::sync::Semaphore;

use crate::config::{Config, DataInterface};
use crate::generations::Generations;
use crate::readiness::Readiness;
use crate::record::{PolicyChange, Recorder};
use crate::store::{
    NewRevision, Notice, ReadRevisionError, Revision, Store, Stored, WriteRevisionError,
};
use crate::worker::{LiveFlows, WorkerGone, WorkerHandle};

/// Policies that are read and compiled at a time: each takes a core and up to some hundred MiB.
const LOADS_AT_A_TIME: usize = 2;
/// Longest comment, so that a list of revisions stays small.
const COMMENT_BYTES_MAX: usize = 1_024;
/// Who commits a node's first policy.
const FIRST_BOOT: &str = "first-boot";
/// What diagnostics call a text that came over the API.
const FILE: &str = "policy";

/// A policy in force, with its text.
#[derive(Debug)]
pub struct InForce {
    pub revision: Revision,
    pub text: String,
    pub loaded: Loaded,
    /// Of the day on which rules were last looked at for expiry.
    day: Date,
}

/// Who commits what.
#[derive(Debug, Clone)]
pub struct Proposal {
    pub text: String,
    pub expected_revision: u64,
    pub author: String,
    pub comment: String,
}

impl Proposal {
    /// It is shown on terminals and written to logs.
    fn has_fit_comment(&self) -> bool {
        self.comment.len() <= COMMENT_BYTES_MAX && !self.comment.contains(char::is_control)
    }
}

/// What becomes of a commit while the packet thread does not turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenStalled {
    Refuse,
    Wait,
}

/// What a commit has done.
#[derive(Debug)]
pub struct Committed {
    pub in_force: Arc<InForce>,
    pub flows: LiveFlows,
}

/// Why the policy in force is still the old one.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("{}", summary(.0))]
    Invalid(Diagnostics),
    /// It says something else than its own tests expect.
    #[error("{}", summary(.0))]
    TestsFail(Diagnostics),
    #[error(
        "the comment is longer than {COMMENT_BYTES_MAX} bytes or more than one line of text: shorten it"
    )]
    Comment,
    #[error(
        "revision {in_force} is in force, not {expected}: look at what has changed, then commit on {in_force}"
    )]
    Stale { expected: u64, in_force: u64 },
    #[error("zone {zone} names interface {interface}, which this node does not have; it has {}", known.join(", "))]
    UnknownInterface { zone: String, interface: String, known: Vec<String> },
    #[error(transparent)]
    Revision(#[from] ReadRevisionError),
    #[error(transparent)]
    Disk(#[from] WriteRevisionError),
    #[error("the packet thread does not turn; nothing was changed")]
    Stalled,
    /// Behind the point of no return: the next start brings the new policy into force.
    #[error(
        "the node is stopping; the new revision is on the disk and comes into force at the next start"
    )]
    Stopping,
}

impl CommitError {
    /// Tests are run of a policy that is right in all else.
    fn of(refused: Refused) -> Self {
        let Refused { diagnostics, tests } = refused;
        if tests.iter().any(|test| !test.passed) {
            Self::TestsFail(diagnostics)
        } else {
            Self::Invalid(diagnostics)
        }
    }
}

/// The first problem, and how many more there are.
fn summary(diagnostics: &Diagnostics) -> String {
    let Some(first) = diagnostics.first() else { return "the policy is refused".to_owned() };
    let help = if first.help.is_empty() { String::new() } else { format!(" ({})", first.help) };
    match diagnostics.0.len() - 1 {
        0 => format!("{first}{help}"),
        more => format!("{first}{help}; and {more} more: gabion check shows them all"),
    }
}

/// What comes into force on a node that has never had a policy.
#[derive(Debug)]
pub struct FirstPolicy {
    path: PathBuf,
    text: io::Result<String>,
}

impl FirstPolicy {
    /// Reads it while the process may still read everything. A node that is held gets it later.
    pub fn read(config: &Config) -> Option<Self> {
        let path = config.node.first_policy.clone().filter(|_| config.node.hold.is_none())?;
        Some(Self { text: std::fs::read_to_string(&path), path })
    }
}

/// The policy in force, its revisions, and the turn of those who change them.
#[derive(Debug)]
pub struct Policies {
    store: Mutex<Store>,
    in_force: ArcSwapOption<InForce>,
    /// Held during a commit; counts the rule sets given to the engine.
    turn: tokio::sync::Mutex<Generation>,
    loads: Semaphore,
    interfaces: Vec<DataInterface>,
    generations: Generations,
    worker: WorkerHandle,
    recorder: Recorder,
    readiness: Arc<Readiness>,
}

/// What the policies, and others, need to know of the node.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub interfaces: Vec<DataInterface>,
    pub generations: Generations,
    pub worker: WorkerHandle,
    pub recorder: Recorder,
    pub readiness: Arc<Readiness>,
}

impl Policies {
    /// No policy is in force until [`Policies::restore`].
    pub fn new(store: Store, around: Surroundings) -> Self {
        Self {
            store: Mutex::new(store),
            in_force: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::new(Generation(0)),
            loads: Semaphore::new(LOADS_AT_A_TIME),
            interfaces: around.interfaces,
            generations: around.generations,
            worker: around.worker,
            recorder: around.recorder,
            readiness: around.readiness,
        }
    }

    /// Brings the revision that was found on the disk into force, or the first policy where there is none. One that is no longer understood, or
    /// names interfaces that the node no longer has, leaves the node without a policy: it is not ready
    /// and passes nothing until one is committed.
    ///
    /// # Errors
    /// When the node is already stopping.
    pub async fn restore(
        &self,
        stored: Option<Stored>,
        first: Option<FirstPolicy>,
        notices: &[Notice],
    ) -> Result<(), WorkerGone> {
        for notice in notices {
            tracing::error!("{notice}");
            self.recorder.node(notice.to_string());
        }
        let Some(stored) = stored else {
            return match first {
                Some(first) => self.begin(first).await,
                None => Ok(()),
            };
        };
        let mut turn = self.turn.lock().await;
        let loaded = match self.check(stored.policy.clone()).await {
            Ok(loaded) => loaded,
            Err(error) => {
                let revision = stored.revision.number;
                let message = format!("revision {revision} cannot come into force: {error}");
                tracing::error!("{message}");
                self.recorder.node(message);
                return Ok(());
            }
        };
        let in_force = InForce::new(stored.revision, stored.policy, loaded);
        self.publish(&mut turn, in_force).await?;
        Ok(())
    }

    /// Commits the first policy of a node. One that is refused leaves the node without any.
    ///
    /// # Errors
    /// When the node is already stopping.
    async fn begin(&self, first: FirstPolicy) -> Result<(), WorkerGone> {
        let path = first.path.display();
        let refused = match first.text {
            Err(error) => error.to_string(),
            Ok(text) => {
                let proposal = Proposal {
                    text,
                    expected_revision: 0,
                    author: FIRST_BOOT.to_owned(),
                    comment: String::new(),
                };
                // The packet thread may still be taking memory: this waits for it.
                match self.commit_and_record("commit", proposal, WhenStalled::Wait).await {
                    Ok(_) => return Ok(()),
                    Err(CommitError::Stopping) => return Err(WorkerGone),
                    Err(error) => error.to_string(),
                }
            }
        };
        let message = format!("the first policy {path} cannot come into force: {refused}");
        tracing::error!("{message}");
        self.recorder.node(message);
        Ok(())
    }

    /// Reads, checks, compiles, tests and lints a text; changes nothing.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    ///
    /// # Panics
    /// When reading the policy has panicked.
    pub async fn validate(&self, text: String) -> Result<Loaded, Box<Refused>> {
        self.work(move || load_and_lint(FILE, &text, Some(today()), LintGroup::Usual)).await
    }

    /// As [`Policies::validate`], without the lints: those are not to delay what is to come into force.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    ///
    /// # Panics
    /// When reading the policy has panicked.
    pub async fn load(&self, text: String) -> Result<Loaded, Box<Refused>> {
        self.work(move || load_and_test(FILE, &text, Some(today()))).await
    }

    /// All warnings about a policy in force, its lints included.
    ///
    /// # Panics
    /// When a lint has panicked.
    pub async fn warnings(&self, in_force: &Arc<InForce>) -> Vec<Diagnostic> {
        let in_force = Arc::clone(in_force);
        self.work(move || {
            let InForce { loaded, text, day, .. } = &*in_force;
            let mut warnings = loaded.warnings.clone();
            warnings.extend(loaded.policy.lint(FILE, text, Some(*day), LintGroup::Usual));
            warnings.sort_by_key(|warning| (warning.line, warning.column));
            warnings
        })
        .await
    }

    /// Does what takes a core, away from the threads that answer.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.loads.acquire().await;
        tokio::task::spawn_blocking(work).await.expect("reading a policy does not panic")
    }

    /// Puts a policy in force, or changes nothing.
    ///
    /// # Errors
    /// [`CommitError`]; each attempt is in the audit, with its result.
    ///
    /// # Panics
    /// When reading the policy has panicked.
    pub async fn commit(self: &Arc<Self>, proposal: Proposal) -> Result<Committed, CommitError> {
        self.run("commit", proposal).await
    }

    /// Commits an earlier revision's text again.
    ///
    /// # Errors
    /// As [`Policies::commit`], or when the revision is not kept.
    ///
    /// # Panics
    /// When reading the policy has panicked.
    pub async fn roll_back(
        self: &Arc<Self>,
        revision: u64,
        mut proposal: Proposal,
    ) -> Result<Committed, CommitError> {
        proposal.text = self.get(revision)?.policy;
        if proposal.comment.is_empty() {
            proposal.comment = format!("rollback to revision {revision}");
        }
        self.run("rollback", proposal).await
    }

    /// In a task of its own, so that a client that hangs up does not stop it half-way.
    async fn run(
        self: &Arc<Self>,
        action: &'static str,
        proposal: Proposal,
    ) -> Result<Committed, CommitError> {
        let policies = Arc::clone(self);
        let task = tokio::spawn(async move {
            policies.commit_and_record(action, proposal, WhenStalled::Refuse).await
        });
        task.await.expect("a commit does not panic")
    }

    async fn commit_and_record(
        &self,
        action: &'static str,
        proposal: Proposal,
        when_stalled: WhenStalled,
    ) -> Result<Committed, CommitError> {
        let mut change = PolicyChange {
            action,
            author: proposal.author.clone(),
            comment: if proposal.has_fit_comment() {
                proposal.comment.clone()
            } else {
                String::new()
            },
            old_revision: 0,
            old_digest: String::new(),
            new_revision: None,
            new_digest: String::new(),
            result: String::new(),
        };
        let result = self.try_commit(proposal, &mut change, when_stalled).await;
        change.result = match &result {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("refused: {error}"),
        };
        self.recorder.policy(change);
        result
    }

    async fn try_commit(
        &self,
        proposal: Proposal,
        change: &mut PolicyChange,
        when_stalled: WhenStalled,
    ) -> Result<Committed, CommitError> {
        let mut turn = self.turn.lock().await;
        if let Some(old) = self.in_force() {
            change.old_revision = old.revision.number;
            change.old_digest.clone_from(&old.revision.digest);
        }
        if !proposal.has_fit_comment() {
            return Err(CommitError::Comment);
        }
        let in_force = self.store().current();
        if proposal.expected_revision != in_force {
            let expected = proposal.expected_revision;
            return Err(CommitError::Stale { expected, in_force });
        }
        let loaded = self.check(proposal.text.clone()).await?;
        change.new_digest = digest(&loaded);
        if when_stalled == WhenStalled::Refuse && !self.readiness.worker_turns() {
            return Err(CommitError::Stalled);
        }
        let revision = self.store().commit(NewRevision {
            policy: &proposal.text,
            digest: &change.new_digest,
            author: &proposal.author,
            comment: &proposal.comment,
            rules: rule_count(&loaded),
            committed_at: OffsetDateTime::now_utc(),
        })?;
        change.new_revision = Some(revision.number);
        let in_force = InForce::new(revision, proposal.text, loaded);
        self.publish(&mut turn, in_force).await.map_err(|WorkerGone| CommitError::Stopping)
    }

    async fn check(&self, text: String) -> Result<Loaded, CommitError> {
        let loaded = self.load(text).await.map_err(|refused| CommitError::of(*refused))?;
        fits(&loaded, &self.interfaces)?;
        Ok(loaded)
    }

    async fn publish(
        &self,
        last: &mut Generation,
        in_force: InForce,
    ) -> Result<Committed, WorkerGone> {
        *last = Generation(last.0 + 1);
        let rules = Arc::clone(&in_force.loaded.rule_set);
        self.generations.remember(*last, &rules);
        let (hash, _) = rules.digest().split_first_chunk().expect("a digest has 32 bytes");
        let hash = u64::from_be_bytes(*hash);
        let flows = self.worker.set_rules(*last, rules, hash).await?;
        let in_force = Arc::new(in_force);
        self.in_force.store(Some(Arc::clone(&in_force)));
        self.readiness.policy_in_force();
        Ok(Committed { in_force, flows })
    }

    /// Looks again which rules have expired, once a day has begun.
    ///
    /// # Errors
    /// When the node is stopping.
    pub async fn follow_calendar(&self) -> Result<(), WorkerGone> {
        let mut turn = self.turn.lock().await;
        let Some(old) = self.in_force().filter(|old| old.day != today()) else { return Ok(()) };
        match self.load(old.text.clone()).await {
            Ok(loaded) => {
                let fresh = InForce::new(old.revision.clone(), old.text.clone(), loaded);
                self.publish(&mut turn, fresh).await?;
            }
            Err(refused) => {
                let error = &refused.diagnostics;
                tracing::error!("the policy in force cannot be read again: {error}");
            }
        }
        Ok(())
    }

    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.load_full()
    }

    /// # Errors
    /// When the revision is not kept or damaged.
    pub fn get(&self, revision: u64) -> Result<Stored, ReadRevisionError> {
        self.store().get(revision)
    }

    /// The revision on the disk that the next commit must expect.
    pub fn current(&self) -> u64 {
        self.store().current()
    }

    /// Newest first.
    pub fn revisions(&self, limit: usize) -> Vec<Revision> {
        self.store().list(limit).cloned().collect()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether a node has the interfaces that a policy names.
fn fits(loaded: &Loaded, interfaces: &[DataInterface]) -> Result<(), CommitError> {
    for zone in loaded.rule_set.zones() {
        let has = |name: &String| interfaces.iter().any(|known| known.name == *name);
        if let Some(interface) = zone.interfaces.iter().find(|name| !has(name)) {
            return Err(CommitError::UnknownInterface {
                zone: zone.name.clone(),
                interface: interface.clone(),
                known: interfaces.iter().map(|known| known.name.clone()).collect(),
            });
        }
    }
    Ok(())
}

/// Looks whether the first policy could come into force; says everything that is wrong with it, one problem a line.
///
/// # Errors
/// When it could not.
pub fn check_first(config: &Config) -> Result<(), String> {
    let Some(path) = &config.node.first_policy else { return Ok(()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("node.first_policy {}: {error}", path.display()))?;
    let loaded = load_and_test(FILE, &text, Some(today())).map_err(|refused| {
        let errors = refused.diagnostics.0.iter().filter(|d| d.severity == Severity::Error);
        let line = |problem: &Diagnostic| match problem.help.as_str() {
            "" => problem.to_string(),
            help => format!("{problem} ({help})"),
        };
        errors.map(line).collect::<Vec<_>>().join("\n")
    })?;
    fits(&loaded, &config.interfaces).map_err(|error| format!("{FILE}: {error}"))
}

impl InForce {
    fn new(revision: Revision, text: String, loaded: Loaded) -> Self {
        Self { revision, text, loaded, day: today() }
    }

    /// A line of the text, from 1, without the blanks around it.
    pub fn line(&self, number: u32) -> &str {
        line(&self.text, number)
    }
}

/// A line of a text, from 1, without the blanks around it.
pub fn line(text: &str, number: u32) -> &str {
    let index = usize::try_from(number).unwrap_or(usize::MAX).checked_sub(1);
    index.and_then(|index| text.lines().nth(index)).unwrap_or("").trim()
}

/// SHA-256 of the canonical text, hexadecimal.
pub fn digest(loaded: &Loaded) -> String {
    loaded.rule_set.digest().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Written rules, without the zone pairs' defaults.
pub fn rule_count(loaded: &Loaded) -> u32 {
    let zones = loaded.rule_set.zones().len();
    let written = loaded.rule_set.rules().len().saturating_sub(zones * zones);
    u32::try_from(written).unwrap_or(u32::MAX)
}

fn today() -> Date {
    OffsetDateTime::now_utc().date()
}
