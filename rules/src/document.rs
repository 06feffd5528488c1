//! The policy as written: the shape of the document and the place of everything in it. What the words
//! mean is checked later; the JSON Schema comes from these structs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::diagnostic::{Problems, Span, suggestion};
use crate::read::{At, OneOrMany, read};
use crate::yaml::{Entry, Kind, Node};

/// A Gabion policy.
#[derive(Debug, Default, JsonSchema)]
#[serde(rename = "Gabion policy", rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    /// Always `gabion/v1`.
    #[schemars(required, schema_with = "api_version_schema")]
    pub api_version: Option<At<String>>,
    /// The zones by name, in the order in which reports show them.
    #[schemars(with = "BTreeMap<String, ZoneText>")]
    pub zones: Vec<Named<ZoneText>>,
    /// Names for lists of addresses and services.
    #[schemars(with = "Option<ObjectsText>")]
    pub objects: Objects,
    /// What holds for all rules.
    #[schemars(with = "Option<SettingsText>")]
    pub settings: SettingsText,
    /// Address translation; of each kind the first that matches applies.
    #[schemars(with = "Option<Vec<NatText>>")]
    pub nat: Vec<NatText>,
    /// The rules; the first that matches decides.
    #[schemars(with = "Option<Vec<RuleText>>")]
    pub rules: Vec<RuleText>,
    /// Packets and what must become of them; a failing test refuses the policy.
    #[schemars(with = "Option<Vec<TestText>>")]
    pub tests: Vec<TestText>,
}

/// An entry of a mapping whose keys are names.
#[derive(Debug)]
pub(crate) struct Named<T> {
    pub name: At<String>,
    /// `None` where it could not be read, which has been reported; the name exists all the same.
    pub value: Option<T>,
}

#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub addresses: Vec<Named<OneOrMany>>,
    pub services: Vec<Named<OneOrMany>>,
}

/// Names for lists of addresses and services.
#[derive(Debug, JsonSchema)]
#[serde(rename = "Objects", deny_unknown_fields)]
#[expect(dead_code, reason = "describes the shape to the schema; read as `Objects`")]
struct ObjectsText {
    /// Addresses, prefixes, ranges and other objects by name.
    addresses: Option<BTreeMap<String, OneOrMany>>,
    /// Services and other objects by name.
    services: Option<BTreeMap<String, OneOrMany>>,
}

/// A zone: what lies behind some interfaces.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Zone", deny_unknown_fields)]
pub(crate) struct ZoneText {
    /// Logical interface names; the node's configuration maps them to devices.
    pub interfaces: OneOrMany,
    /// All prefixes behind the zone. Without them: whatever no other zone claims.
    pub networks: Option<OneOrMany>,
}

/// What holds for all rules.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "Settings", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct SettingsText {
    /// Which packets are refused before any rule. Default `standard`.
    pub profile: Option<ProfileText>,
    /// What becomes of a packet that no rule matches.
    pub default: Option<At<DefaultText>>,
    /// Idle timers, each 1s to 7d.
    pub timeouts: Option<TimeoutsText>,
    /// What one source, or all together, may hold.
    pub flood: Option<FloodText>,
    /// Names of lints that are not to speak at all.
    pub allow_lints: Option<OneOrMany>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Profile", rename_all = "kebab-case")]
pub(crate) enum ProfileText {
    Standard,
    /// As the Common Criteria ask: no IPv6 unicast outside 2000::/3.
    StrictCc,
}

/// What becomes of a packet that no rule matches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Default", deny_unknown_fields)]
pub(crate) struct DefaultText {
    /// Default `drop`.
    pub action: Option<VerdictText>,
    /// Default `sampled`.
    pub log: Option<LogText>,
}

/// Idle timers as durations such as `30s` or `2h4m`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "Timeouts", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct TimeoutsText {
    pub tcp_opening: Option<At<String>>,
    pub tcp_established: Option<At<String>>,
    pub tcp_closing: Option<At<String>>,
    pub tcp_closed: Option<At<String>>,
    pub udp: Option<At<String>>,
    pub udp_unreplied: Option<At<String>>,
    pub icmp: Option<At<String>>,
    pub other: Option<At<String>>,
    pub fragment: Option<At<String>>,
}

/// Idle timers of the flows that a rule admits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "RuleTimeouts", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RuleTimeoutsText {
    pub tcp_opening: Option<At<String>>,
    pub tcp_established: Option<At<String>>,
    pub tcp_closing: Option<At<String>>,
    pub tcp_closed: Option<At<String>>,
    pub udp: Option<At<String>>,
    pub udp_unreplied: Option<At<String>>,
    pub icmp: Option<At<String>>,
    pub other: Option<At<String>>,
}

/// Flood limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "Flood", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FloodText {
    pub half_open: Option<At<u32>>,
    pub half_open_per_destination: Option<At<u32>>,
    pub half_open_per_source: Option<At<u32>>,
    pub flows_per_source: Option<At<u32>>,
    pub new_flows_per_source_per_second: Option<At<u32>>,
    pub answers_per_second: Option<At<u32>>,
    pub sampled_logs_per_second: Option<At<u32>>,
    pub all_logs_per_second: Option<At<u32>>,
}

/// A NAT rule.
#[derive(Debug, JsonSchema)]
#[serde(rename = "Nat", untagged)]
pub(crate) enum NatText {
    Destination(DestinationNatText),
    Source(SourceNatText),
}

/// Destination NAT: packets to an address go to a target instead.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "DestinationNat", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DestinationNatText {
    pub name: At<String>,
    #[allow(dead_code, reason = "has chosen this struct")]
    pub kind: DestinationNatKind,
    /// Zones by which packets come in, or `any`.
    pub from: OneOrMany,
    /// The published addresses.
    pub to: OneOrMany,
    /// Default `any`.
    pub source: Option<OneOrMany>,
    /// Default `any`.
    pub service: Option<OneOrMany>,
    /// The addresses that serve; connections are spread over several.
    pub target: OneOrMany,
    /// Default: the port stays.
    pub target_port: Option<At<u16>>,
    pub meta: Option<MetaText>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DestinationNatKind {
    Dnat,
}

/// Source NAT: packets leave with another source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "SourceNat", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct SourceNatText {
    pub name: At<String>,
    #[allow(dead_code, reason = "has chosen this struct")]
    pub kind: SourceNatKind,
    /// Default `outbound`. Chooses the default of `mapping`.
    pub direction: Option<DirectionText>,
    /// Zones by which packets come in, or `any`.
    pub from: OneOrMany,
    /// Zones by which packets leave, or `any`.
    pub out: OneOrMany,
    /// Default `any`.
    pub source: Option<OneOrMany>,
    /// Default `any`. After destination NAT.
    pub destination: Option<OneOrMany>,
    /// Default `any`.
    pub service: Option<OneOrMany>,
    /// `self`, or addresses, prefixes, ranges and objects that form a pool.
    pub address: OneOrMany,
    /// Default `1024-65535`.
    pub ports: Option<At<String>>,
    /// Ports that one source may hold. Default: as many as `flows-per-source` of `settings.flood`.
    pub ports_per_source: Option<At<u32>>,
    /// Default `endpoint-independent`, `symmetric` for inbound.
    pub mapping: Option<MappingText>,
    /// Default `address-and-port-dependent`.
    pub filtering: Option<FilteringText>,
    pub meta: Option<MetaText>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SourceNatKind {
    Snat,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Direction", rename_all = "kebab-case")]
pub(crate) enum DirectionText {
    Inbound,
    Outbound,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Mapping", rename_all = "kebab-case")]
pub(crate) enum MappingText {
    EndpointIndependent,
    Symmetric,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Filtering", rename_all = "kebab-case")]
pub(crate) enum FilteringText {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// A rule. Replies to what it allows need no rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Rule", deny_unknown_fields)]
pub(crate) struct RuleText {
    pub name: At<String>,
    /// Zones by which packets come in, or `any`.
    pub from: OneOrMany,
    /// Zones by which packets leave, or `any`.
    pub to: OneOrMany,
    /// Default `any`. Before source NAT.
    pub source: Option<OneOrMany>,
    /// Default `any`. After destination NAT.
    pub destination: Option<OneOrMany>,
    /// Default `any`.
    pub service: Option<OneOrMany>,
    pub action: ActionText,
    /// Default `none`.
    pub log: Option<LogText>,
    /// Idle timers of the flows that the rule admits. Default: those of `settings`.
    pub timeouts: Option<At<RuleTimeoutsText>>,
    /// In a cluster, whether a flow's first packet waits until other nodes know of the flow. Default `false`.
    pub strict: Option<At<bool>>,
    pub meta: Option<MetaText>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Action", rename_all = "kebab-case")]
pub(crate) enum ActionText {
    Allow,
    /// Silently.
    Drop,
    /// TCP gets a RST, all else ICMP "administratively prohibited".
    Reject,
    /// Counts and never decides.
    Monitor,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Verdict", rename_all = "kebab-case")]
pub(crate) enum VerdictText {
    Allow,
    Drop,
    Reject,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "Log", rename_all = "kebab-case")]
pub(crate) enum LogText {
    None,
    Sampled,
    All,
}

/// For people; only `expires` has an effect on packets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Meta", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct MetaText {
    pub owner: Option<At<String>>,
    pub ticket: Option<At<String>>,
    /// The last day on which the rule is in force, as `2027-03-31`.
    pub expires: Option<At<String>>,
    pub description: Option<At<String>>,
    /// Names of lints that are not to speak of the rule.
    pub allow_lints: Option<OneOrMany>,
}

/// A packet and what must become of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Test", deny_unknown_fields)]
pub(crate) struct TestText {
    pub name: At<String>,
    /// As in `tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet`.
    pub packet: At<String>,
    pub expect: VerdictText,
    /// The rule that must decide; `default:FROM->TO` names a default.
    pub rule: Option<At<String>>,
    /// The NAT rules that must apply, destination first.
    pub nat: Option<OneOrMany>,
}

fn api_version_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "const": "gabion/v1", "type": "string" })
}

const KEYS: [&str; 7] = ["apiVersion", "zones", "objects", "settings", "nat", "rules", "tests"];

/// Reads the whole document; whatever fits is in the answer, whatever does not is reported.
pub(crate) fn read_document(root: Node<'_>, problems: &mut Problems) -> Document {
    let mut document = Document::default();
    let root_span = root.span;
    for entry in entries(root, problems) {
        let value = entry.value;
        match &*entry.key {
            "apiVersion" => document.api_version = read(value, problems),
            "zones" => document.zones = read_named(value, problems),
            "objects" => document.objects = read_objects(value, problems),
            "settings" => document.settings = read(value, problems).unwrap_or_default(),
            "nat" => document.nat = items(value, problems, read_nat),
            "rules" => document.rules = items(value, problems, read),
            "tests" => document.tests = items(value, problems, read),
            unknown => report_unknown(unknown, entry.key_span, &KEYS, problems),
        }
    }
    if document.api_version.is_none() && !problems.any_errors() {
        let help = "begin with `apiVersion: gabion/v1`";
        problems.error_with(root_span, "the key `apiVersion` is missing", help);
    }
    document
}

fn read_objects(node: Node<'_>, problems: &mut Problems) -> Objects {
    let mut objects = Objects::default();
    for entry in entries(node, problems) {
        match &*entry.key {
            "addresses" => objects.addresses = read_named(entry.value, problems),
            "services" => objects.services = read_named(entry.value, problems),
            unknown => {
                report_unknown(unknown, entry.key_span, &["addresses", "services"], problems);
            }
        }
    }
    objects
}

fn read_nat(node: Node<'_>, problems: &mut Problems) -> Option<NatText> {
    let Kind::Mapping(entries) = &node.kind else {
        // The reader has the words for what is wrong.
        return read(node, problems).map(NatText::Destination);
    };
    let kind = entries.iter().find(|entry| entry.key == "kind");
    let Some(kind) = kind else {
        let help = "write `kind: dnat` or `kind: snat`";
        problems.error_with(node.span, "the key `kind` is missing", help);
        return None;
    };
    match &kind.value.kind {
        Kind::Scalar(text) if text == "dnat" => read(node, problems).map(NatText::Destination),
        Kind::Scalar(text) if text == "snat" => read(node, problems).map(NatText::Source),
        Kind::Scalar(text) => {
            let message = format!("`{text}` is not one of dnat, snat");
            problems.error_with(kind.value.span, message, suggestion(text, ["dnat", "snat"]));
            None
        }
        Kind::Null | Kind::Sequence(_) | Kind::Mapping(_) | Kind::Broken => {
            problems.error(kind.value.span, "expected dnat or snat");
            None
        }
    }
}

fn read_named<T: DeserializeOwned>(node: Node<'_>, problems: &mut Problems) -> Vec<Named<T>> {
    let found = entries(node, problems);
    let read_entry = |entry: Entry<'_>| {
        let name = At { value: entry.key.into_owned(), span: entry.key_span };
        Named { name, value: read(entry.value, problems) }
    };
    found.into_iter().map(read_entry).collect()
}

fn entries<'t>(node: Node<'t>, problems: &mut Problems) -> Vec<Entry<'t>> {
    match node.kind {
        Kind::Mapping(entries) => entries,
        Kind::Broken => Vec::new(),
        Kind::Scalar(_) | Kind::Null | Kind::Sequence(_) => {
            let help = "leave the key out where there is nothing to say";
            problems.error_with(node.span, "expected a mapping (`key: value`)", help);
            Vec::new()
        }
    }
}

fn items<T>(
    node: Node<'_>,
    problems: &mut Problems,
    mut read_item: impl FnMut(Node<'_>, &mut Problems) -> Option<T>,
) -> Vec<T> {
    match node.kind {
        Kind::Sequence(nodes) => {
            nodes.into_iter().filter_map(|node| read_item(node, problems)).collect()
        }
        Kind::Broken => Vec::new(),
        Kind::Scalar(_) | Kind::Null | Kind::Mapping(_) => {
            let help = "leave the key out where there is nothing to say";
            problems.error_with(node.span, "expected a list (`- { ... }`)", help);
            Vec::new()
        }
    }
}

fn report_unknown(key: &str, span: Span, known: &[&str], problems: &mut Problems) {
    let near = suggestion(key, known.iter().copied());
    let help = if near.is_empty() { format!("known here: {}", known.join(", ")) } else { near };
    problems.error_with(span, format!("unknown key `{key}`"), help);
}
