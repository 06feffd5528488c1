//! The canonical text of a policy: one rule a line, defaults left out, every value in its shortest
//! form. Comments are not kept. Printing what was read from it gives it again.

use std::time::Duration;

use crate::address::IpRange;
use crate::check::API_VERSION;
use crate::duration::print_duration;
use crate::object::{Object, Term};
use crate::policy::{
    DEFAULT_FILTERING, DEFAULT_NAT_PORTS, Match, Meta, NatDirection, NatKind, NatPolicy, Policy,
    PoolPolicy, RulePolicy, SourcePolicy, TestPolicy, Zones,
};
use crate::service::{Service, print_port_range};
use crate::settings::Timer;
use crate::{Filtering, FloodLimits, Lint, Mapping, Settings};

/// Columns after which an entry goes on in the next line, if it has a place to break.
const WIDTH: usize = 140;

impl Policy {
    /// The canonical text: reading it again gives the same policy. Comments are not kept.
    pub fn print(&self) -> String {
        let mut text = format!("apiVersion: {API_VERSION}\nzones:\n");
        for zone in &self.zones {
            let networks: Vec<_> = zone.networks.iter().map(|net| net.to_string()).collect();
            let interfaces = zone.interfaces.iter().map(|interface| plain(interface)).collect();
            let mut fields = vec![always_list("interfaces", interfaces)];
            if !networks.is_empty() {
                fields.push(always_list("networks", networks));
            }
            entry(&mut text, &format!("  {}:", plain(&zone.name)), mapping(fields));
        }
        self.print_objects(&mut text);
        self.print_settings(&mut text);
        section(&mut text, "nat", &self.nat, |rule| self.nat_fields(rule));
        section(&mut text, "rules", &self.rules, |rule| self.rule_fields(rule));
        section(&mut text, "tests", &self.tests, test_fields);
        text
    }

    fn print_objects(&self, text: &mut String) {
        if self.addresses.is_empty() && self.services.is_empty() {
            return;
        }
        *text += "objects:\n";
        let addresses = self.addresses.iter().map(|o| (&o.name, self.address_terms(&o.terms)));
        print_kind(text, "addresses", addresses.collect());
        let services = self.services.iter().map(|o| (&o.name, self.service_terms(&o.terms)));
        print_kind(text, "services", services.collect());
    }

    fn print_settings(&self, text: &mut String) {
        *text += "settings:\n";
        let default = &self.default;
        let fields =
            vec![field("action", default.action.label()), field("log", default.log.label())];
        entry(text, "  default:", mapping(fields));
        let standard = Settings::default();
        if self.settings.profile != standard.profile {
            *text += &format!("  profile: {}\n", self.settings.profile.label());
        }
        let timers = Timer::ALL.map(|timer| (timer, self.settings.timeouts.get(timer)));
        let changed =
            timers.into_iter().filter(|(timer, time)| *time != standard.timeouts.get(*timer));
        let fields = timeouts(changed);
        if !fields.is_empty() {
            entry(text, "  timeouts:", mapping(fields));
        }
        if !self.allow_lints.is_empty() {
            entry(text, "  allow-lints:", brackets(lints(&self.allow_lints)));
        }
        let now = flood(&self.settings.flood).into_iter();
        let changed = now.zip(flood(&standard.flood)).filter(|(now, then)| now != then);
        let fields: Vec<_> =
            changed.map(|((key, count), _)| field(key, &count.to_string())).collect();
        if !fields.is_empty() {
            entry(text, "  flood:", mapping(fields));
        }
    }

    fn nat_fields(&self, rule: &NatPolicy) -> Vec<Vec<String>> {
        let name = field("name", &plain(&rule.name));
        let from = self.zones_field("from", &rule.from);
        let source = self.address_match("source", &rule.source);
        let service = self.service_match(&rule.service);
        let mut fields = vec![name];
        match &rule.kind {
            NatKind::Destination(kind) => {
                fields.extend([field("kind", "dnat"), from]);
                fields.push(list("to", self.address_terms(&kind.to)));
                fields.extend(source.into_iter().chain(service));
                fields.push(list("target", self.address_terms(&kind.target)));
                fields.extend(kind.target_port.map(|port| field("target-port", &port.to_string())));
            }
            NatKind::Source(kind) => {
                fields.push(field("kind", "snat"));
                if kind.direction == NatDirection::Inbound {
                    fields.push(field("direction", "inbound"));
                }
                fields.extend([from, self.zones_field("out", &kind.out)]);
                fields.extend(source);
                fields.extend(self.address_match("destination", &kind.destination));
                fields.extend(service);
                self.pool_fields(kind, &mut fields);
            }
        }
        fields.extend(meta(&rule.meta));
        fields
    }

    fn pool_fields(&self, kind: &SourcePolicy, fields: &mut Vec<Vec<String>>) {
        fields.push(match &kind.address {
            PoolPolicy::OwnAddress => field("address", "self"),
            PoolPolicy::Pool { terms, .. } => list("address", self.address_terms(terms)),
        });
        if kind.ports != DEFAULT_NAT_PORTS {
            fields.push(field("ports", &nat_ports(kind)));
        }
        let quota = kind.ports_per_source;
        fields.extend(quota.map(|ports| field("ports-per-source", &ports.to_string())));
        if kind.mapping != kind.direction.mapping() {
            fields.push(field("mapping", mapping_label(kind.mapping)));
        }
        if kind.filtering != DEFAULT_FILTERING {
            fields.push(field("filtering", filtering_label(kind.filtering)));
        }
    }

    fn rule_fields(&self, rule: &RulePolicy) -> Vec<Vec<String>> {
        let mut fields = vec![field("name", &plain(&rule.name))];
        fields.extend([self.zones_field("from", &rule.from), self.zones_field("to", &rule.to)]);
        fields.extend(self.address_match("source", &rule.source));
        fields.extend(self.address_match("destination", &rule.destination));
        fields.extend(self.service_match(&rule.service));
        fields.push(field("action", rule.action.map_or("monitor", |action| action.label())));
        if rule.log != crate::LogMode::None {
            fields.push(field("log", rule.log.label()));
        }
        if !rule.timeouts.is_empty() {
            let timers = mapping(timeouts(rule.timeouts.iter().copied()));
            fields.push(keyed("timeouts", timers));
        }
        if rule.is_strict {
            fields.push(field("strict", "true"));
        }
        fields.extend(meta(&rule.meta));
        fields
    }

    fn zones_field(&self, key: &str, zones: &Zones) -> Vec<String> {
        match zones {
            Zones::Any => field(key, "any"),
            Zones::Listed(zones) => {
                list(key, zones.iter().map(|zone| plain(self.zone_name(*zone))).collect())
            }
        }
    }

    fn address_match(&self, key: &str, wanted: &Match<IpRange>) -> Option<Vec<String>> {
        match wanted {
            Match::Any => None,
            Match::Terms(terms) => Some(list(key, self.address_terms(terms))),
        }
    }

    fn service_match(&self, wanted: &Match<Service>) -> Option<Vec<String>> {
        match wanted {
            Match::Any => None,
            Match::Terms(terms) => Some(list("service", self.service_terms(terms))),
        }
    }

    fn address_terms(&self, terms: &[Term<IpRange>]) -> Vec<String> {
        print_terms(terms, &self.addresses)
    }

    fn service_terms(&self, terms: &[Term<Service>]) -> Vec<String> {
        print_terms(terms, &self.services)
    }
}

fn print_terms<T: ToString>(terms: &[Term<T>], objects: &[Object<T>]) -> Vec<String> {
    let print = |term: &Term<T>| match term {
        Term::Value(value) => word(&value.to_string()),
        Term::Object(id) => plain(&objects[id.0].name),
    };
    terms.iter().map(print).collect()
}

fn print_kind(text: &mut String, kind: &str, objects: Vec<(&String, Vec<String>)>) {
    if objects.is_empty() {
        return;
    }
    *text += &format!("  {kind}:\n");
    for (name, terms) in objects {
        let name = format!("    {}:", plain(name));
        entry(text, &name, brackets(terms));
    }
}

fn test_fields(test: &TestPolicy) -> Vec<Vec<String>> {
    let mut fields = vec![field("name", &plain(&test.name))];
    fields.push(vec![format!("packet: {}", quoted(&test.packet.to_string()))]);
    fields.push(field("expect", test.expect.label()));
    fields.extend(test.rule.as_ref().map(|rule| field("rule", &plain(rule))));
    let nat = test.nat.as_ref().map(|names| names.iter().map(|name| plain(name)).collect());
    fields.extend(nat.map(|names| list("nat", names)));
    fields
}

fn lints(lints: &[Lint]) -> Vec<String> {
    lints.iter().map(|lint| lint.label().to_owned()).collect()
}

fn meta(meta: &Meta) -> Option<Vec<String>> {
    if *meta == Meta::default() {
        return None;
    }
    let expires = meta
        .expires
        .map(|date| format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()));
    let parts = [
        ("owner", meta.owner.as_deref().map(plain)),
        ("ticket", meta.ticket.as_deref().map(plain)),
        ("expires", expires),
        ("description", meta.description.as_deref().map(plain)),
    ];
    let parts = parts.into_iter().filter_map(|(key, text)| Some(format!("{key}: {}", text?)));
    let mut parts: Vec<String> = parts.collect();
    if !meta.allow_lints.is_empty() {
        parts.push(list("allow-lints", lints(&meta.allow_lints)).join(" "));
    }
    Some(vec![format!("meta: {{ {} }}", parts.join(", "))])
}

/// A single port would read as a number.
fn nat_ports(kind: &SourcePolicy) -> String {
    let ports = print_port_range(&kind.ports);
    if kind.ports.start() == kind.ports.end() { quoted(&ports) } else { ports }
}

fn mapping_label(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::Symmetric => "symmetric",
    }
}

fn filtering_label(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent",
        Filtering::AddressDependent => "address-dependent",
        Filtering::AddressAndPortDependent => "address-and-port-dependent",
    }
}

fn timeouts(timers: impl Iterator<Item = (Timer, Duration)>) -> Vec<Vec<String>> {
    timers.map(|(timer, time)| field(timer.label(), &print_duration(time))).collect()
}

fn flood(flood: &FloodLimits) -> [(&'static str, u32); 8] {
    [
        ("half-open", flood.half_open),
        ("half-open-per-destination", flood.half_open_per_destination),
        ("half-open-per-source", flood.half_open_per_source),
        ("flows-per-source", flood.flows_per_source),
        ("new-flows-per-source-per-second", flood.new_flows_per_source_per_second),
        ("answers-per-second", flood.answers_per_second),
        ("sampled-logs-per-second", flood.sampled_logs_per_second),
        ("all-logs-per-second", flood.all_logs_per_second),
    ]
}

fn section<T>(text: &mut String, key: &str, items: &[T], fields: impl Fn(&T) -> Vec<Vec<String>>) {
    if items.is_empty() {
        return;
    }
    *text += &format!("{key}:\n");
    for item in items {
        entry(text, "  -", mapping(fields(item)));
    }
}

/// Writes an entry: its head, then its pieces with spaces between, in as many lines as it takes.
fn entry(text: &mut String, head: &str, pieces: Vec<String>) {
    let depth = head.len() - head.trim_start().len();
    *text += head;
    let mut column = head.len();
    for piece in pieces {
        let length = piece.chars().count();
        if column + 1 + length > WIDTH && column > depth + 4 && column > head.len() {
            *text += &format!("\n{:indent$}", "", indent = depth + 4);
            column = depth + 4;
        } else {
            *text += " ";
            column += 1;
        }
        *text += &piece;
        column += length;
    }
    *text += "\n";
}

/// Fields, each a row of pieces, as `{ a, b }`.
fn mapping(fields: Vec<Vec<String>>) -> Vec<String> {
    let count = fields.len();
    let mut pieces: Vec<String> = Vec::new();
    for (index, mut field) in fields.into_iter().enumerate() {
        if let Some(first) = field.first_mut().filter(|_| index == 0) {
            first.insert_str(0, "{ ");
        }
        if let Some(last) = field.last_mut() {
            *last += if index + 1 == count { " }" } else { "," };
        }
        pieces.append(&mut field);
    }
    pieces
}

fn field(key: &str, value: &str) -> Vec<String> {
    vec![format!("{key}: {value}")]
}

/// One entry alone, several as a list.
fn list(key: &str, items: Vec<String>) -> Vec<String> {
    keyed(key, brackets(items))
}

fn always_list(key: &str, items: Vec<String>) -> Vec<String> {
    match &*items {
        [only] => field(key, &format!("[{only}]")),
        _ => list(key, items),
    }
}

fn keyed(key: &str, mut pieces: Vec<String>) -> Vec<String> {
    if let Some(first) = pieces.first_mut() {
        first.insert_str(0, &format!("{key}: "));
    }
    pieces
}

fn brackets(mut items: Vec<String>) -> Vec<String> {
    let last = items.len().wrapping_sub(1);
    match &mut *items {
        [] => return vec!["[]".to_owned()],
        [_] => return items,
        items => {
            for (index, item) in items.iter_mut().enumerate() {
                if index == 0 {
                    item.insert(0, '[');
                }
                item.push(if index == last { ']' } else { ',' });
            }
        }
    }
    items
}

/// An address or a service: quoted where its colons would read as YAML's.
fn word(text: &str) -> String {
    if text.starts_with(':') || text.ends_with(':') { quoted(text) } else { text.to_owned() }
}

/// A name or a text: quoted unless every YAML reader takes it for a string as it stands.
fn plain(text: &str) -> String {
    const TAKEN: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_safe = |c: char| c.is_ascii_alphanumeric() || " ._/@+-".contains(c);
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(is_safe)
        && !text.ends_with(' ')
        && !TAKEN.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() => quoted.push(c),
            c => quoted += &format!("\\U{:08X}", u32::from(c)),
        }
    }
    quoted + "\""
}
