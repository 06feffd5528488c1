//! A node on Azure: it learns of planned events, and prepares for them.
//!
//! `document` reads what the metadata service says, `agenda` decides, `metadata` speaks with the service, and this shell joins them
//! to the node. One task: it asks once a second, as Azure's documentation recommends, looks how the node stands
//! while something is planned, and does what the agenda says. Acknowledgements are requests beside it. All may be cancelled
//! at any time: a node that is started again learns of its events anew.

pub mod agenda;
pub mod document;
pub mod metadata;
mod platform;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gabion_datapath::ebpf::Exit;
use gabion_engine::{MemberStatus, NodeState, Presence};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

pub use self::agenda::Notice;
use self::agenda::{Action, Agenda, Standing};
use self::document::{Document, Kind};
use self::metadata::{AskMetadataError, Metadata};
pub use self::platform::{SERVICES, is_azure};
use crate::clock::Clock;
use crate::cluster::Member;
use crate::drain::Drain;
use crate::readiness::Readiness;
use crate::record::Recorder;
use crate::worker::{Snapshot, WorkerGone, WorkerHandle};

/// How fast everything goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between an answer and the next question, and between looks at the node.
    pub turn: Duration,
    /// The same while the service does not answer: twice as long each time, up to this.
    pub turn_max: Duration,
    /// For an answer.
    pub patience: Duration,
    /// The same while the service has not answered yet: the first question turns it on.
    pub patience_first: Duration,
}

impl Pace {
    /// As Azure's documentation has it: a question a second, two minutes for the first.
    pub const AZURE: Self = Self {
        turn: Duration::from_secs(1),
        turn_max: Duration::from_secs(10),
        patience: Duration::from_secs(10),
        patience_first: Duration::from_secs(130),
    };
}

/// What became of questions, and what is planned; for whoever shows it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answers, and failures in the order of [`AskMetadataError::LABELS`].
    answered: AtomicU64,
    failed: [AtomicU64; AskMetadataError::LABELS.len()],
    acknowledged: AtomicU64,
}

impl Counts {
    /// How often the service was asked, by what came of it.
    pub fn asked(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let failed = AskMetadataError::LABELS.into_iter().zip(&self.failed);
        std::iter::once(("answered", &self.answered))
            .chain(failed)
            .map(|(label, count)| (label, count.load(Ordering::Relaxed)))
    }

    /// Events that this node has let begin.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn count(&self, outcome: Result<(), &AskMetadataError>) {
        let counter = match outcome {
            Ok(()) => &self.answered,
            Err(error) => {
                let place = AskMetadataError::LABELS.iter().position(|one| *one == error.label());
                &self.failed[place.unwrap_or(0)]
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The task's state.
#[derive(Debug)]
pub struct ScheduledEvents {
    pub metadata: Metadata,
    pub pace: Pace,
    pub clock: Clock,
    pub worker: WorkerHandle,
    pub drain: Arc<Drain>,
    /// `None`: the node stands alone.
    pub member: Option<Member>,
    pub readiness: Arc<Readiness>,
    pub recorder: Recorder,
    pub counts: Arc<Counts>,
}

/// How the last questions went.
#[derive(Debug, Default)]
struct Course {
    has_answered: bool,
    failures: u32,
}

type Acknowledgement = (String, Result<(), AskMetadataError>);

impl ScheduledEvents {
    /// Follows events until the packet thread has ended.
    pub async fn run(self) {
        let mut agenda = Agenda::default();
        let mut course = Course::default();
        let mut acknowledging: JoinSet<Acknowledgement> = JoinSet::new();
        let mut turn = interval(self.pace.turn);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut question = Box::pin(self.ask(false, Duration::ZERO, self.pace.patience_first));
        loop {
            tokio::select! {
                (name, answer) = &mut question => {
                    if let Some(name) = name {
                        self.recorder.node(format!("scheduled events name this VM {name}"));
                        agenda.set_name(name);
                    }
                    let pause = self.take(&mut agenda, &mut course, answer);
                    let patience = self.patience(&course);
                    question = Box::pin(self.ask(agenda.name().is_some(), pause, patience));
                }
                Some(Ok((id, done))) = acknowledging.join_next() => {
                    self.take_acknowledgement(&mut agenda, &id, done);
                }
                _ = turn.tick() => {}
            }
            if self.act(&mut agenda, &mut acknowledging).await.is_err() {
                return;
            }
        }
    }

    fn patience(&self, course: &Course) -> Duration {
        // Whoever was late may be about to be turned on.
        let is_well = course.has_answered && course.failures == 0;
        if is_well { self.pace.patience } else { self.pace.patience_first }
    }

    async fn ask(
        &self,
        has_name: bool,
        pause: Duration,
        patience: Duration,
    ) -> (Option<String>, Result<Document, AskMetadataError>) {
        sleep(pause).await;
        let mut name = None;
        if !has_name {
            match self.metadata.name(self.pace.patience).await {
                Ok(known) => name = Some(known),
                Err(error) => self.counts.count(Err(&error)),
            }
        }
        (name, self.metadata.events(patience).await)
    }

    /// Takes an answer; returns how long to wait before the next question.
    fn take(
        &self,
        agenda: &mut Agenda,
        course: &mut Course,
        answer: Result<Document, AskMetadataError>,
    ) -> Duration {
        self.counts.count(answer.as_ref().map(|_| ()));
        match answer {
            Ok(document) => {
                if course.failures > 0 || !course.has_answered {
                    self.recorder.node("scheduled events: the metadata service answers");
                }
                *course = Course { has_answered: true, failures: 0 };
                if document.unreadable > 0 {
                    tracing::warn!(
                        events = document.unreadable,
                        "scheduled events that cannot be read"
                    );
                }
                for action in agenda.hear(self.clock.now(), document) {
                    if let Action::Tell(message) = action {
                        self.recorder.node(message);
                    }
                }
                self.pace.turn
            }
            Err(error) => {
                if course.failures == 0 {
                    self.recorder.node(format!(
                        "scheduled events: the metadata service at {} is of no use: {error}; it is asked again, and what is known stays planned",
                        self.metadata.address
                    ));
                }
                tracing::debug!("scheduled events: {error}");
                let pause = self.pace.turn.saturating_mul(1 << course.failures.min(16));
                course.failures = course.failures.saturating_add(1);
                error.retry_after().unwrap_or(pause).clamp(self.pace.turn, self.pace.turn_max)
            }
        }
    }

    fn take_acknowledgement(
        &self,
        agenda: &mut Agenda,
        id: &str,
        done: Result<(), AskMetadataError>,
    ) {
        let is_done = done.is_ok();
        match done {
            Ok(()) => {
                self.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.recorder.node(format!("scheduled event {id} is acknowledged: it may begin"));
            }
            Err(error) => {
                self.recorder.node(format!("scheduled event {id} is not acknowledged: {error}"));
            }
        }
        agenda.acknowledged(self.clock.now(), id, is_done);
    }

    /// Has the agenda decide, and does it.
    async fn act(
        &self,
        agenda: &mut Agenda,
        acknowledging: &mut JoinSet<Acknowledgement>,
    ) -> Result<(), WorkerGone> {
        if agenda.is_idle() {
            self.readiness.planned(Vec::new());
            return Ok(());
        }
        let standing = standing(&self.worker.snapshot().await?, self.drain.drains());
        for action in agenda.decide(self.clock.now(), &standing) {
            match action {
                Action::Drain => {
                    self.recorder.node("a scheduled event has this node drain");
                    self.drain.for_event(true).await?;
                }
                Action::Undrain => {
                    self.recorder.node("no scheduled event has this node drain any more");
                    self.drain.for_event(false).await?;
                }
                Action::Acknowledge(id) => {
                    let (metadata, patience) = (self.metadata, self.pace.patience);
                    acknowledging.spawn(async move {
                        let done = metadata.start(&id, patience).await;
                        (id, done)
                    });
                }
                Action::HoldResets(holds) => {
                    if let Some(member) = &self.member {
                        member.known.hold_resets(holds);
                    }
                }
                Action::Tell(message) => self.recorder.node(message),
            }
        }
        self.readiness.planned(agenda.notices(self.clock.now()));
        Ok(())
    }
}

fn standing(snapshot: &Snapshot, drains: bool) -> Standing {
    let moved = snapshot.exits.iter().filter(|(exit, _)| is_passed(*exit));
    let moved: u64 = moved.map(|(_, count)| count).sum();
    let passed = moved + snapshot.counters.forwarded + snapshot.counters.to_peers;
    let Some(cluster) = &snapshot.cluster else {
        let left = snapshot.shares.iter().map(|share| share.flows).sum();
        return Standing { drains, left, passed, ..Standing::default() };
    };
    let status = &cluster.status;
    let is_alive = |member: &&MemberStatus| member.presence == Presence::Alive;
    let is_ready = |member: &MemberStatus| member.state == NodeState::Ready;
    let alive = || status.members.iter().filter(is_alive);
    Standing {
        is_member: true,
        has_heirs: alive().any(is_ready),
        is_whole: alive().filter(|member| is_ready(member)).count() == status.members.len(),
        has_company: alive().next().is_some(),
        gives_way: alive()
            .any(|member| member.state == NodeState::Draining && member.node < status.node),
        drains: status.state == NodeState::Draining,
        left: status.owned.saturating_sub(status.closing),
        passed,
    }
}

/// Whether a program in the kernel passed the packet on.
const fn is_passed(exit: Exit) -> bool {
    match exit {
        Exit::Forwarded | Exit::ForwardedEarly | Exit::Wrapped | Exit::Unwrapped => true,
        Exit::NotIp
        | Exit::NoFlow
        | Exit::Stale
        | Exit::WrongZone
        | Exit::OtherHost
        | Exit::Header
        | Exit::Fragment
        | Exit::Protocol
        | Exit::HopLimit
        | Exit::TcpFlags
        | Exit::TcpOptions
        | Exit::TcpWindow
        | Exit::TooBig
        | Exit::NoNeighbour
        | Exit::Refused
        | Exit::Unconfirmed
        | Exit::NoPeer
        | Exit::OtherHead
        | Exit::Challenged => false,
    }
}

/// How many events are planned, by kind and whether they are about this VM; kinds that we do not know are `other`.
pub fn tally(notices: &[Notice]) -> Vec<(&'static str, bool, u64)> {
    let kinds = Kind::LABELS.into_iter().map(Some).chain([None]);
    kinds
        .flat_map(|kind| [(kind, true), (kind, false)])
        .map(|(kind, is_own)| {
            let is_kind = |notice: &&Notice| match kind {
                Some(kind) => notice.kind == kind,
                None => !Kind::LABELS.contains(&notice.kind.as_str()),
            };
            let of_kind = notices.iter().filter(is_kind);
            let count = of_kind.filter(|notice| notice.is_own == is_own).count() as u64;
            (kind.unwrap_or("other"), is_own, count)
        })
        .collect()
}
