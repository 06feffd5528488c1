//! `gabion watch`: events as they happen.

use std::ops::ControlFlow;

use anyhow::Result;
use clap::ValueEnum;
use gabion_api::v1::event::Kind;
use gabion_api::v1::{Event, Flow, WatchRequest};

use crate::connect::Connection;
use crate::present::{EventJson, Paint, Tone, bytes, endpoint, kind_label, say, time_text};

/// Shows events as they happen, until interrupted
///
/// JSON, one object a line: {"kind","at","flow","reason","rule","packet","interface","message",
/// "revision","suppressed"}; what does not apply is absent.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Only these kinds [default: all]
    #[arg(long, short, value_enum, value_delimiter = ',')]
    kind: Vec<EventKind>,

    /// Ends after so many events
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,

    /// Prints JSON lines
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventKind {
    FlowOpened,
    FlowClosed,
    Denied,
    Policy,
    Node,
    Suppressed,
}

impl From<EventKind> for Kind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::FlowOpened => Self::FlowOpened,
            EventKind::FlowClosed => Self::FlowClosed,
            EventKind::Denied => Self::Denied,
            EventKind::Policy => Self::Policy,
            EventKind::Node => Self::Node,
            EventKind::Suppressed => Self::Suppressed,
        }
    }
}

impl Watch {
    /// # Errors
    /// If the node does not answer or goes away.
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let kinds = self.kind.iter().map(|kind| Kind::from(*kind).into()).collect();
        let request = WatchRequest { kinds };
        let stream = node.call(async move |api| api.watch(request).await)?;
        let mut left = self.limit;
        node.read(stream, |event| {
            let text = if self.json {
                serde_json::to_string(&EventJson::from(event)).expect("own shapes serialise")
            } else {
                line(&event)
            };
            if say(text).is_err() {
                return ControlFlow::Break(());
            }
            left = left.map(|left| left.saturating_sub(1));
            if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(())
    }
}

fn line(event: &Event) -> String {
    let paint = Paint::stdout();
    let at = time_text(event.at.as_ref()).unwrap_or_default();
    // The time of day to the millisecond: `2026-11-21T10:00:00.123456789Z`.
    let clock = at.get(11..).map(|clock| clock.trim_end_matches('Z')).unwrap_or_default();
    let clock: String = clock.chars().take("10:00:00.123".len()).collect();
    let kind = event.kind();
    let tone = match kind {
        Kind::FlowOpened => Tone::Good,
        Kind::Denied => Tone::Bad,
        Kind::Policy | Kind::Node => Tone::Strong,
        Kind::Suppressed => Tone::Warning,
        Kind::FlowClosed | Kind::Unspecified => Tone::Plain,
    };
    let label = format!("{:<11}", kind_label(kind));
    let clock = paint.apply(Tone::Faint, &format!("{clock:<12}"));
    format!("{clock}  {}  {}", paint.apply(tone, &label), what(event))
}

fn what(event: &Event) -> String {
    let rule = |text: String| match event.rule.as_str() {
        "" => text,
        rule => format!("{text} by {rule}"),
    };
    match event.kind() {
        Kind::FlowOpened => event.flow.as_ref().map(opened).unwrap_or_default(),
        Kind::FlowClosed => {
            event.flow.as_ref().map(|flow| closed(flow, &event.reason)).unwrap_or_default()
        }
        Kind::Denied => rule(format!("{}  {}", event.packet, event.reason)),
        Kind::Policy if event.revision > 0 => {
            format!("revision {}: {}", event.revision, event.message)
        }
        Kind::Suppressed => rule(format!("{} records are not shown", event.suppressed)),
        Kind::Policy | Kind::Node | Kind::Unspecified => event.message.clone(),
    }
}

fn opened(flow: &Flow) -> String {
    let nat = match &flow.translated {
        Some(translated) => format!(
            "  as {} ({})",
            path(&translated.source, &translated.destination),
            flow.nat_rules.join(" + ")
        ),
        None => String::new(),
    };
    format!("{} {}  by {}{nat}", flow.protocol, path(&flow.source, &flow.destination), flow.rule)
}

fn closed(flow: &Flow, reason: &str) -> String {
    let [there, back] = [&flow.original, &flow.reply]
        .map(|usage| bytes(usage.as_ref().map_or(0, |usage| usage.bytes)));
    let way = path(&flow.source, &flow.destination);
    format!("{} {way}  {reason}, {there} there, {back} back", flow.protocol)
}

fn path(
    source: &Option<gabion_api::v1::Endpoint>,
    destination: &Option<gabion_api::v1::Endpoint>,
) -> String {
    let [source, destination] =
        [source, destination].map(|end| end.as_ref().map_or_else(|| "?".to_owned(), endpoint));
    format!("{source} -> {destination}")
}
