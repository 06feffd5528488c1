//! What the metadata service says, read once, here: Scheduled Events (api-version 2020-07-01) and the VM's name.
//!
//! Words that nobody has told us yet are kept: a kind of event that Azure invents tomorrow still ends this machine.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Events that one answer may have; Azure's documentation knows no limit, and has examples of one.
const EVENTS_MAX: usize = 256;
/// Bytes of a name or an identifier; Azure's are GUIDs and names of at most 64.
const NAME_BYTES_MAX: usize = 256;
/// Characters of a description that are kept.
const DESCRIPTION_MAX: usize = 200;

/// Everything that is planned, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// Grows with each change, says Azure. Nothing is decided by it: what stands in the document is what counts.
    pub incarnation: i64,
    pub events: Vec<Event>,
    /// Events that could not be read: they hide none of the others.
    pub unreadable: usize,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub kind: Kind,
    /// Names of the VMs that it is about.
    pub resources: Vec<String>,
    pub start: Start,
    /// As it is written, for all VMs the same.
    pub not_before: Option<OffsetDateTime>,
    pub description: String,
    /// `Platform` or `User`.
    pub source: String,
    /// Of the interruption, as far as it is known.
    pub lasts: Option<Duration>,
}

/// What becomes of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// It stands still for seconds, and goes on as if nothing had been.
    Freeze,
    Reboot,
    /// It is started on another host.
    Redeploy,
    /// A spot VM is taken away, 30 s later.
    Preempt,
    /// It is deleted.
    Terminate,
    /// Not among those that are documented.
    Other(String),
}

/// When it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Not before so long from when the document was written.
    In(Duration),
    Begun,
    /// It says neither.
    Unknown,
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ReadDocumentError {
    #[error("not the JSON that is documented: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} events, and at most {EVENTS_MAX} are read")]
    Many(usize),
}

impl Kind {
    /// The name in logs, status and metrics.
    pub fn label(&self) -> &str {
        match self {
            Self::Freeze => Self::LABELS[0],
            Self::Reboot => Self::LABELS[1],
            Self::Redeploy => Self::LABELS[2],
            Self::Preempt => Self::LABELS[3],
            Self::Terminate => Self::LABELS[4],
            Self::Other(name) => name,
        }
    }

    /// Of the documented ones.
    pub const LABELS: [&'static str; 5] = ["Freeze", "Reboot", "Redeploy", "Preempt", "Terminate"];

    fn of(name: &str) -> Self {
        match name {
            "Freeze" => Self::Freeze,
            "Reboot" => Self::Reboot,
            "Redeploy" => Self::Redeploy,
            "Preempt" => Self::Preempt,
            "Terminate" => Self::Terminate,
            other => Self::Other(printable(other)),
        }
    }

    /// Whether the VM's memory, and with it all that the node knows, is lost.
    pub const fn ends_memory(&self) -> bool {
        match self {
            Self::Freeze => false,
            Self::Reboot | Self::Redeploy | Self::Preempt | Self::Terminate | Self::Other(_) => {
                true
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WrittenDocument {
    #[serde(default)]
    document_incarnation: i64,
    events: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WrittenEvent {
    event_id: String,
    event_type: String,
    resources: Vec<String>,
    event_status: String,
    #[serde(default)]
    not_before: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    event_source: String,
    #[serde(default = "unknown")]
    duration_in_seconds: i64,
}

/// As Azure says it (`DurationInSeconds`).
const fn unknown() -> i64 {
    -1
}

impl Document {
    /// Reads an answer that was written when its author's clock showed `written`: only differences to that clock are
    /// taken from it, as this machine's may be wrong.
    ///
    /// # Errors
    /// When it is no document.
    pub fn read(body: &[u8], written: OffsetDateTime) -> Result<Self, ReadDocumentError> {
        let WrittenDocument { document_incarnation, events } = serde_json::from_slice(body)?;
        if events.len() > EVENTS_MAX {
            return Err(ReadDocumentError::Many(events.len()));
        }
        let all = events.len();
        let mut ids = BTreeSet::new();
        let events: Vec<_> = events
            .into_iter()
            .filter_map(|event| read_event(event, written))
            // What is said twice in one document is believed once.
            .filter(|event| ids.insert(event.id.clone()))
            .collect();
        Ok(Self { incarnation: document_incarnation, unreadable: all - events.len(), events })
    }
}

fn read_event(event: Value, written: OffsetDateTime) -> Option<Event> {
    let event: WrittenEvent = serde_json::from_value(event).ok()?;
    let is_name = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
    let has_names = event.resources.iter().all(is_name);
    if !has_names || !is_name(&event.event_id) || !is_name(&event.event_type) {
        return None;
    }
    let not_before = read_date(&event.not_before);
    let start = if event.event_status == "Started" {
        Start::Begun
    } else {
        not_before.map_or(Start::Unknown, |not_before| {
            Start::In((not_before - written).try_into().unwrap_or(Duration::ZERO))
        })
    };
    Some(Event {
        kind: Kind::of(&event.event_type),
        resources: event.resources,
        start,
        not_before,
        description: printable(&event.description),
        source: printable(&event.event_source),
        lasts: u64::try_from(event.duration_in_seconds).ok().map(Duration::from_secs),
        id: event.event_id,
    })
}

/// Reads a time such as `Mon, 19 Sep 2016 18:29:47 GMT`. The day of the week says nothing new, and is wrong in some of
/// Azure's own examples.
pub(super) fn read_date(text: &str) -> Option<OffsetDateTime> {
    let format = format_description!(
        "[day padding:none] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let text = text.split_once(',').map_or(text, |(_, date)| date).trim();
    PrimitiveDateTime::parse(text, &format).ok().map(PrimitiveDateTime::assume_utc)
}

/// What a log and a terminal can bear.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(DESCRIPTION_MAX).map(shown).collect()
}

#[derive(Debug, Deserialize)]
struct Instance {
    compute: Compute,
}

#[derive(Debug, Deserialize)]
struct Compute {
    name: String,
}

/// The VM's name out of what `/metadata/instance` says.
///
/// # Errors
/// When it is not there.
pub(super) fn read_name(body: &[u8]) -> Result<String, ReadDocumentError> {
    Ok(serde_json::from_slice::<Instance>(body)?.compute.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const FREEZE: &str = r#"{ "DocumentIncarnation": 2, "Events": [ {
        "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123", "EventStatus": "Scheduled", "EventType": "Freeze",
        "ResourceType": "VirtualMachine", "Resources": ["WestNO_0", "WestNO_1"],
        "NotBefore": "Mon, 11 Apr 2026 22:26:58 GMT", "Description": "paused\u0007", "EventSource": "Platform",
        "DurationInSeconds": 5 } ] }"#;

    fn at(text: &str) -> OffsetDateTime {
        read_date(text).unwrap()
    }

    #[test]
    fn an_event_as_documented() {
        let read = Document::read(FREEZE.as_bytes(), at("Sat, 11 Apr 2026 22:16:58 GMT")).unwrap();
        assert_eq!((read.incarnation, read.unreadable), (2, 0));
        let [event] = &read.events[..] else { panic!("{read:?}") };
        assert_eq!(event.kind, Kind::Freeze);
        assert_eq!(event.resources, ["WestNO_0", "WestNO_1"]);
        assert_eq!(event.start, Start::In(Duration::from_secs(600)));
        assert_eq!(event.lasts, Some(Duration::from_secs(5)));
        assert_eq!(event.description, "paused ");
    }

    #[test]
    fn what_has_begun_has_no_time_and_what_is_past_is_now() {
        let begun =
            FREEZE.replace("Scheduled", "Started").replace("Mon, 11 Apr 2026 22:26:58 GMT", "");
        let read = Document::read(begun.as_bytes(), OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(read.events[0].start, Start::Begun);
        let late = Document::read(FREEZE.as_bytes(), at("Sun, 12 Apr 2026 22:26:58 GMT")).unwrap();
        assert_eq!(late.events[0].start, Start::In(Duration::ZERO));
        let none = FREEZE.replace("Mon, 11 Apr 2026 22:26:58 GMT", "soon");
        let read = Document::read(none.as_bytes(), OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(read.events[0].start, Start::Unknown);
    }

    #[test]
    fn one_unreadable_event_hides_no_other() {
        let two = FREEZE.replace("\"Events\": [", "\"Events\": [ {\"EventId\": 7}, ");
        let read = Document::read(two.as_bytes(), OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!((read.events.len(), read.unreadable), (1, 1));
        assert!(Document::read(b"<html>", OffsetDateTime::UNIX_EPOCH).is_err());
        assert!(Document::read(b"{}", OffsetDateTime::UNIX_EPOCH).is_err());
        let many = format!("{{\"Events\":[{}1]}}", "1,".repeat(EVENTS_MAX));
        assert!(Document::read(many.as_bytes(), OffsetDateTime::UNIX_EPOCH).is_err());
    }

    #[test]
    fn an_event_that_stands_twice_is_believed_once() {
        let one = &FREEZE[FREEZE.find("[ {").unwrap() + 2..FREEZE.rfind('}').unwrap() - 2];
        let other = one.replace("Freeze", "Reboot");
        let twice = FREEZE.replace(one, &format!("{one}, {other}"));
        let read = Document::read(twice.as_bytes(), OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!((read.events.len(), read.unreadable), (1, 1), "{twice}");
        assert_eq!(read.events[0].kind, Kind::Freeze);
    }

    #[test]
    fn kinds_of_tomorrow_keep_their_name() {
        let read = FREEZE.replace("\"Freeze\"", "\"Hibernate\"");
        let read = Document::read(read.as_bytes(), OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(read.events[0].kind.label(), "Hibernate");
        assert!(read.events[0].kind.ends_memory());
    }

    #[test]
    fn the_name_of_the_vm() {
        let body = br#"{"compute":{"name":"fw-1","vmId":"x"},"network":{}}"#;
        assert_eq!(read_name(body).unwrap(), "fw-1");
        assert!(read_name(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>, text in "\\PC*") {
            let _ = Document::read(&bytes, OffsetDateTime::UNIX_EPOCH);
            let _ = Document::read(text.as_bytes(), OffsetDateTime::UNIX_EPOCH);
            let _ = read_date(&text);
            let event = FREEZE.replace("Mon, 11 Apr 2026 22:26:58 GMT", &text.replace(['"', '\\'], ""));
            let _ = Document::read(event.as_bytes(), OffsetDateTime::UNIX_EPOCH);
        }
    }
}
