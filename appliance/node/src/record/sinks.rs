//! Where records are written: a file of JSON lines, and the journal by way of `tracing`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{Record, What};
use crate::config::Log;

/// Owner and group may read: records name who talks to whom.
const FILE_MODE: u32 = 0o640;
const BUFFER_BYTES: usize = 64 << 10;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error("log.json: cannot open {}: {source}; make its directory or name another file", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that writes records: {0}")]
    Thread(#[source] io::Error),
}

#[derive(Debug)]
pub(super) struct Sinks {
    json: Option<JsonLines>,
    journald: bool,
}

#[derive(Debug)]
struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
    /// The disk has refused, and this has been said.
    failing: bool,
    lost: u64,
}

impl Sinks {
    pub(super) fn open(log: &Log) -> Result<Self, OpenLogError> {
        let json = log.json.as_deref().map(|path| {
            JsonLines::open(path)
                .map_err(|source| OpenLogError::File { path: path.to_owned(), source })
        });
        Ok(Self { json: json.transpose()?, journald: log.journald })
    }

    pub(super) fn write(&mut self, record: &Record) {
        if let Some(json) = &mut self.json {
            json.write(record);
        }
        match &record.what {
            // Changes of the policy and of the node always reach the daemon's own messages.
            What::Policy(change) => {
                tracing::info!(
                    target: "gabiond::audit",
                    author = change.author, old = change.old_digest, new = change.new_digest,
                    "{}", change.line()
                );
            }
            What::Node { message } => tracing::info!(target: "gabiond::audit", "{message}"),
            What::LimitReached { limit } | What::LimitOver { limit, .. } => {
                tracing::warn!(target: "gabiond::audit", limit, "{}", record.what.line());
            }
            What::FlowOpened { flow, .. } | What::FlowClosed { flow, .. } if self.journald => {
                tracing::info!(
                    target: "gabiond::events",
                    rule = flow.rule, from_zone = flow.from_zone, to_zone = flow.to_zone,
                    source = %flow.source.address, destination = %flow.destination.address,
                    "{}", record.what.line()
                );
            }
            What::Denied { reason, interface, .. } if self.journald => {
                tracing::info!(
                    target: "gabiond::events", reason, interface, "{}", record.what.line()
                );
            }
            What::Suppressed { .. } | What::Lost { .. } if self.journald => {
                tracing::info!(target: "gabiond::events", "{}", record.what.line());
            }
            What::FlowOpened { .. }
            | What::FlowClosed { .. }
            | What::Denied { .. }
            | What::Suppressed { .. }
            | What::Lost { .. } => {}
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(json) = &mut self.json {
            json.flush();
        }
    }

    pub(super) fn reopen(&mut self) {
        let Some(json) = &mut self.json else { return };
        json.flush();
        match JsonLines::open(&json.path) {
            Ok(fresh) => *json = fresh,
            Err(error) => {
                tracing::error!(path = %json.path.display(), %error, "cannot reopen the event log");
            }
        }
    }
}

impl JsonLines {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: path.to_owned(), file, failing: false, lost: 0 })
    }

    fn write(&mut self, record: &Record) {
        let mut line = serde_json::to_vec(record).expect("a record has text keys only");
        line.push(b'\n');
        let written = self.file.write_all(&line);
        self.note(written);
    }

    fn flush(&mut self) {
        let flushed = self.file.flush();
        self.note(flushed);
    }

    /// Says once that the disk refuses, and once that it takes records again, with the number lost.
    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if self.failing && self.file.buffer().is_empty() => {
                tracing::error!(
                    records = self.lost,
                    "the event log is written again; some were lost"
                );
                (self.failing, self.lost) = (false, 0);
            }
            Ok(()) => {}
            Err(error) => {
                if !self.failing {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "the event log cannot be written");
                }
                self.failing = true;
                self.lost += 1;
            }
        }
    }
}
