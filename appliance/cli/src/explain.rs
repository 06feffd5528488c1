//! `gabion explain`: what becomes of a packet, stage by stage; asked of a node, or of a file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use gabion_api::v1::{Endpoint, ExplainRequest, ExplainResponse, Step, Translation};
use gabion_rules::{Explanation, PacketText, RuleSet, load};

use crate::check::{read, today};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::present::{ExplanationJson, Grid, Paint, Tone, endpoint, print_json, say};

/// Says what would become of a packet, and why; nothing is sent
///
/// A packet is written `PROTOCOL SOURCE -> DESTINATION in ZONE`, for instance
/// "tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet",
/// "udp [2600:1::9]:53000 -> [2600:2::10]:53 in internet" or
/// "icmp 198.51.100.9 -> 10.1.0.10 echo-request in internet".
/// JSON: {"packet","verdict","reason","rule","rule_line","rule_source","translated":{"source":
/// {"address","port"},"destination":{..}},"out_interface","steps":[{"stage","outcome","detail"}]}
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// The packet
    packet: String,

    /// Asks this policy, without a node
    #[arg(long, short, value_name = "POLICY")]
    file: Option<PathBuf>,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Explain {
    /// # Errors
    /// If the packet or the policy makes no sense, or the node does not answer.
    pub(crate) fn run(&self) -> Result<()> {
        let explained = match &self.file {
            Some(file) => offline(&self.packet, file)?,
            None => {
                let packet = self.packet.clone();
                let request = ExplainRequest { packet, policy: String::new() };
                self.connection.open()?.call(async move |api| api.explain(request).await)?
            }
        };
        if self.json {
            print_json(&ExplanationJson::new(&self.packet, explained))?;
        } else {
            show(&explained)?;
        }
        Ok(())
    }
}

fn show(explained: &ExplainResponse) -> std::io::Result<()> {
    let mut grid = Grid::new(["stage".into(), "outcome".into(), "detail".into()]);
    for step in &explained.steps {
        let tone = match step.outcome.as_str() {
            "drop" => Tone::Bad,
            "translate" | "match" => Tone::Strong,
            _ => Tone::Plain,
        };
        grid.toned_row([
            (Tone::Plain, step.stage.clone()),
            (tone, step.outcome.clone()),
            (Tone::Plain, step.detail.clone()),
        ]);
    }
    say(format_args!("{}\n", grid.text()))?;
    say(verdict(explained))?;
    if explained.rule_line > 0 && !explained.rule_source.is_empty() {
        say(format_args!("  {:>4} | {}", explained.rule_line, explained.rule_source.trim()))?;
    }
    if let Some(translated) = &explained.translated {
        say(format_args!("  leaves as {}", translation(translated)))?;
    }
    Ok(())
}

/// `allow by web-in, out of int`.
fn verdict(explained: &ExplainResponse) -> String {
    let tone = Tone::from(explained.verdict.as_str());
    let mut text = Paint::stdout().apply(tone, &explained.verdict);
    for (word, value) in [
        (" by ", &explained.rule),
        (": ", &explained.reason),
        (", out of ", &explained.out_interface),
    ] {
        if !value.is_empty() {
            text += word;
            text += value;
        }
    }
    text
}

fn translation(translated: &Translation) -> String {
    let [source, destination] = [&translated.source, &translated.destination]
        .map(|end| end.as_ref().map_or_else(|| "an address of the node".to_owned(), endpoint));
    format!("{source} -> {destination}")
}

fn offline(packet: &str, file: &Path) -> Result<ExplainResponse> {
    let (name, text) = read(file)?;
    let packet: PacketText = packet.parse().map_err(|error| {
        Failure::new(format!("`{packet}` is not a packet: {error}"))
            .next("write it as in: tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet")
    })?;
    let loaded = load(&name, &text, Some(today())).map_err(|problems| {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        Failure::new(format!("the policy is not valid: {first}"))
            .next(format!("see all of it: gabion check {name}"))
    })?;
    let explanation = loaded.rule_set.explain(&packet)?;
    Ok(as_from_node(&loaded.rule_set, explanation, &text))
}

/// The answer that a node would give, as far as the policy alone can tell.
fn as_from_node(rules: &RuleSet, explanation: Explanation, text: &str) -> ExplainResponse {
    let rule = explanation
        .rule
        .and_then(|id| usize::try_from(id.0).ok())
        .and_then(|index| rules.rules().get(index));
    let line = rule.map_or(0, |rule| rule.line);
    let source = usize::try_from(line).unwrap_or(0).checked_sub(1);
    let step = |step: gabion_rules::Step| Step {
        stage: step.stage.label().to_owned(),
        outcome: step.outcome.label().to_owned(),
        detail: step.detail,
    };
    let at = |address: std::net::IpAddr, port: Option<u16>| Endpoint {
        address: address.to_string(),
        port: port.map_or(0, u32::from),
    };
    ExplainResponse {
        verdict: explanation.action.label().to_owned(),
        rule: rule.map(|rule| rule.name.clone()).unwrap_or_default(),
        rule_line: line,
        rule_source: source.and_then(|n| text.lines().nth(n)).unwrap_or_default().to_owned(),
        translated: explanation.translated.map(|translated| Translation {
            source: translated.source.map(|address| at(address, None)),
            destination: Some(at(translated.destination, translated.destination_port)),
        }),
        steps: explanation.steps.into_iter().map(step).collect(),
        reason: String::new(),
        out_interface: String::new(),
    }
}
