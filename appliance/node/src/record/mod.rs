//! The event log: what happened, with names, in JSON lines and the journal, and to those who watch.
//!
//! One thread, `records`, owns the sinks. Others reach it by [`Recorder`], over a channel as deep as
//! `log.queue`; one that is full loses the record and counts it, so that no packet and no commit waits
//! for a disk. The number lost is written as soon as there is room. Watchers get every record from a
//! broadcast of `WATCH_DEPTH`; one that is too slow is told how many it missed. `stop` writes what is
//! queued and ends the thread.

mod sinks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use gabion_engine::{Denial, Event, FlowReport, InterfaceId, LogSource};
use gabion_rules::PacketText;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast;

use crate::clock::Clock;
use crate::config::{DataInterface, Log};
use crate::flow::{Flow, protocol_label};
use crate::generations::Generations;

pub use sinks::OpenLogError;
use sinks::Sinks;

/// Records that a watcher may be behind.
const WATCH_DEPTH: usize = 1_024;
/// Records that are written before the file is flushed.
const BATCH: usize = 256;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    #[serde(serialize_with = "rfc3339")]
    pub at: OffsetDateTime,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    FlowOpened {
        flow: Flow,
        /// By which its first packet came in.
        interface: String,
    },
    FlowClosed {
        flow: Flow,
        reason: &'static str,
    },
    Denied {
        /// A drop reason's label.
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// In the notation of `explain`, as far as the packet could be read.
        packet: String,
        interface: String,
    },
    /// So many records of the rule, or of a check before the rules, were not written.
    Suppressed {
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        records: u64,
    },
    /// So many records of any kind found the queue full.
    Lost {
        records: u64,
    },
    /// Packets are refused for this reason, or flows make room, from now on.
    LimitReached {
        limit: &'static str,
    },
    /// Nothing has met the limit for a while.
    LimitOver {
        limit: &'static str,
        times: u64,
        lasted_seconds: f64,
    },
    Policy(PolicyChange),
    Node {
        message: String,
    },
}

/// The audit of one attempt to change the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyChange {
    /// `commit`, `rollback` or `load`.
    pub action: &'static str,
    pub author: String,
    pub comment: String,
    /// The revision and digest in force before.
    pub old_revision: u64,
    pub old_digest: String,
    /// What it became, or was to become.
    pub new_revision: Option<u64>,
    pub new_digest: String,
    /// `done`, or why it was refused.
    pub result: String,
}

/// The way to the log, for any thread or task.
#[derive(Debug, Clone)]
pub struct Recorder {
    entries: Sender<Entry>,
    lost: Arc<AtomicU64>,
    watchers: broadcast::Sender<Arc<Record>>,
}

#[derive(Debug)]
enum Entry {
    Engine(Event),
    Record(Box<Record>),
    Reopen,
    Stop,
}

/// What engine events are read with.
#[derive(Debug, Clone)]
pub struct Reader {
    pub clock: Clock,
    pub generations: Generations,
    pub interfaces: Vec<DataInterface>,
}

impl Recorder {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// When the file or the journal cannot be opened.
    pub fn start(log: &Log, reader: Reader) -> Result<(Self, JoinHandle<()>), OpenLogError> {
        let sinks = Sinks::open(log)?;
        let (entries, receiver) = crossbeam_channel::bounded(log.queue);
        let recorder =
            Self { entries, lost: Arc::default(), watchers: broadcast::channel(WATCH_DEPTH).0 };
        let mut writer = Writer {
            reader,
            sinks,
            lost: Arc::clone(&recorder.lost),
            watchers: recorder.watchers.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(OpenLogError::Thread)?;
        Ok((recorder, thread))
    }

    /// Takes an engine's event; never waits.
    pub fn event(&self, event: Event) {
        self.take(Entry::Engine(event));
    }

    pub fn policy(&self, change: PolicyChange) {
        self.record(What::Policy(change));
    }

    pub fn node(&self, message: impl Into<String>) {
        self.record(What::Node { message: message.into() });
    }

    fn record(&self, what: What) {
        let at = OffsetDateTime::now_utc();
        self.take(Entry::Record(Box::new(Record { at, what })));
    }

    fn take(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every record from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Record>> {
        self.watchers.subscribe()
    }

    /// Opens the file anew, after somebody moved it away.
    pub fn reopen(&self) {
        let _ = self.entries.send(Entry::Reopen);
    }

    /// Writes what is queued and ends the thread; does not wait for it.
    pub fn stop(&self) {
        let _ = self.entries.send(Entry::Stop);
    }
}

struct Writer {
    reader: Reader,
    sinks: Sinks,
    lost: Arc<AtomicU64>,
    watchers: broadcast::Sender<Arc<Record>>,
}

impl Writer {
    fn run(&mut self, entries: &Receiver<Entry>) {
        while let Ok(first) = entries.recv() {
            let rest = std::iter::from_fn(|| entries.try_recv().ok()).take(BATCH - 1);
            for entry in std::iter::once(first).chain(rest) {
                match entry {
                    Entry::Engine(event) => {
                        if let Some(record) = self.reader.read(event) {
                            self.write(record);
                        }
                    }
                    Entry::Record(record) => self.write(*record),
                    Entry::Reopen => self.sinks.reopen(),
                    Entry::Stop => {
                        self.tell_lost();
                        return self.sinks.flush();
                    }
                }
            }
            self.tell_lost();
            self.sinks.flush();
        }
    }

    fn tell_lost(&mut self) {
        let records = self.lost.swap(0, Ordering::Relaxed);
        if records > 0 {
            self.write(Record { at: OffsetDateTime::now_utc(), what: What::Lost { records } });
        }
    }

    fn write(&mut self, record: Record) {
        let record = Arc::new(record);
        self.sinks.write(&record);
        // An error means that nobody watches.
        let _ = self.watchers.send(record);
    }
}

impl Reader {
    /// The event with names; `None` for those that are no record.
    fn read(&self, event: Event) -> Option<Record> {
        let now = self.clock.now();
        let flow = |report: &FlowReport| {
            Flow::new(report, &self.generations.names(report.generation), now)
        };
        let (at, what) = match event {
            Event::FlowOpened(report) => {
                let interface = self.interface(report.interface);
                (report.opened, What::FlowOpened { flow: flow(&report), interface })
            }
            Event::FlowClosed { flow: report, why } => {
                (now, What::FlowClosed { flow: flow(&report), reason: why.label() })
            }
            Event::Denied(denial) => (denial.at, self.denied(&denial)),
            Event::Suppressed { source, records } => {
                let (rule, reason) = match source {
                    LogSource::Rule { generation, rule } => {
                        (Some(self.generations.names(generation).rule(rule)), None)
                    }
                    LogSource::Check(reason) => (None, Some(reason.label())),
                };
                (now, What::Suppressed { rule, reason, records })
            }
            Event::LimitReached { limit } => (now, What::LimitReached { limit: limit.label() }),
            Event::LimitOver { limit, times, lasted } => {
                let lasted_seconds = lasted.as_secs_f64();
                (now, What::LimitOver { limit: limit.label(), times, lasted_seconds })
            }
            Event::NeighbourWanted { .. } => return None,
        };
        Some(Record { at: self.clock.wall(at), what })
    }

    fn interface(&self, id: InterfaceId) -> String {
        let interface = self.interfaces.get(usize::from(id.0));
        interface.map_or_else(String::new, |interface| interface.name.clone())
    }

    fn denied(&self, denial: &Denial) -> What {
        let interface = self.interface(denial.interface);
        let (rule, packet) = match denial.decided {
            Some(decided) => {
                let names = self.generations.names(decided.generation);
                let packet = PacketText {
                    source: denial.source.to_ip(),
                    destination: denial.destination.to_ip(),
                    transport: decided.query.transport,
                    from: names.zone(decided.query.from),
                    out: None,
                };
                (Some(names.rule(decided.rule)), packet.to_string())
            }
            None => (None, format!("{} -> {} in {interface}", denial.source, denial.destination)),
        };
        What::Denied { reason: denial.reason.label(), rule, packet, interface }
    }
}

impl What {
    /// For people: one line.
    pub fn line(&self) -> String {
        match self {
            Self::FlowOpened { flow, interface } => {
                format!("flow opened {} in {interface} by rule {}", keys(flow), flow.rule)
            }
            Self::FlowClosed { flow, reason } => {
                let (sent, received) = (flow.original.bytes, flow.reply.bytes);
                format!("flow closed ({reason}) {} {sent}/{received} bytes", keys(flow))
            }
            Self::Denied { reason, rule, packet, .. } => {
                let rule =
                    rule.as_ref().map_or_else(String::new, |rule| format!(" by rule {rule}"));
                format!("denied ({reason}) {packet}{rule}")
            }
            Self::Suppressed { rule, reason, records } => {
                let source = rule.as_deref().or(*reason).unwrap_or_default();
                format!("{records} records of {source} were suppressed")
            }
            Self::Lost { records } => format!("{records} records were lost: log.queue was full"),
            Self::LimitReached { limit } => format!("degraded: {limit} reached"),
            Self::LimitOver { limit, times, lasted_seconds } => {
                format!("{limit} is over: met {times} times in {lasted_seconds:.1} s")
            }
            Self::Policy(change) => change.line(),
            Self::Node { message } => message.clone(),
        }
    }
}

impl PolicyChange {
    pub fn line(&self) -> String {
        let Self { action, author, old_revision, result, .. } = self;
        let new = self.new_revision.map_or_else(|| "nothing".to_owned(), |new| new.to_string());
        format!("policy {action} by {author}: revision {old_revision} -> {new}: {result}")
    }
}

fn keys(flow: &Flow) -> String {
    let side = |side: crate::flow::Side| std::net::SocketAddr::new(side.address, side.port);
    let (protocol, from, to) = (protocol_label(flow.protocol), flow.source, flow.destination);
    let leaves = flow.translated.map_or_else(String::new, |sides| {
        format!(" (as {} -> {})", side(sides.source), side(sides.destination))
    });
    format!("{protocol} {} -> {}{leaves}", side(from), side(to))
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
}

#[cfg(test)]
mod tests;
