//! From the file as written to the [`Config`] that it means.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use gabion_datapath::ebpf::HookChoice;
use gabion_engine::Limits;
use toml::Spanned;

use crate::azure::is_azure;

use super::settings::{self, Kind, grouped};
use super::written::{
    Choice, Written, WrittenApi, WrittenAzure, WrittenConfig, WrittenHealth, WrittenLimits,
    WrittenLog, WrittenNode,
};
use super::{Api, ApiTls, Azure, Config, DataInterface, DatapathKind, Health, Log, Node, Problem};

/// Linux's IFNAMSIZ without the terminating zero.
const DEVICE_NAME_BYTES: usize = 15;
/// RFC 1035 section 2.3.4.
const NODE_NAME_BYTES: usize = 63;
/// A line that fits a probe's answer and a terminal.
const HOLD_CHARACTERS: usize = 1_000;
/// sun_path of unix(7) without the terminating zero.
const SOCKET_PATH_BYTES: usize = 107;

pub(super) fn check(text: &str, file: &str) -> Result<Config, Vec<Problem>> {
    let mut checker = Checker { text, file, problems: Vec::new() };
    let written: WrittenConfig = match toml::from_str(text) {
        Ok(written) => written,
        Err(error) => {
            checker.problem(error.span(), one_line(error.message()));
            return Err(checker.problems);
        }
    };
    let config = checker.config(&written);
    if checker.problems.is_empty() {
        return Ok(config);
    }
    checker.problems.sort_by_key(|problem| problem.line);
    Err(checker.problems)
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads values; a wrong one is noted and its default taken, so that all mistakes are found.
pub(super) struct Checker<'a> {
    text: &'a str,
    file: &'a str,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn config(&mut self, written: &WrittenConfig) -> Config {
        let interfaces = self.interfaces(written);
        let management = self.management(written, &interfaces);
        let health = self.health(&written.health);
        let node = self.node(&written.node);
        let cluster = self.cluster(&written.cluster, health, node.workers);
        self.workers(&written.node, &node, cluster.is_some());
        Config {
            node,
            interfaces,
            management,
            api: self.api(&written.api),
            health,
            metrics: self.metrics(&written.metrics.listen),
            limits: self.limits(&written.limits),
            log: self.log(&written.log),
            cluster,
            azure: self.azure(&written.azure),
            guard_program: self.path(&written.guard.program, "guard.program"),
        }
    }

    fn node(&mut self, written: &WrittenNode) -> Node {
        let name = self.optional(&written.name, "node.name").unwrap_or_else(host_name);
        let fits = (1..=NODE_NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !fits {
            self.refuse(span(&written.name), "node.name", &name);
        }
        let datapath = match self.text(&written.datapath, "node.datapath").as_str() {
            "auto" => DatapathKind::Auto,
            "ebpf" => DatapathKind::Ebpf,
            "userspace" => DatapathKind::Userspace,
            "null" => DatapathKind::Null,
            other => {
                self.refuse(span(&written.datapath), "node.datapath", other);
                DatapathKind::Userspace
            }
        };
        let hook = match self.text(&written.hook, "node.hook").as_str() {
            "auto" => HookChoice::Auto,
            "xdp" => HookChoice::Xdp,
            "tc" => HookChoice::Tc,
            other => {
                self.refuse(span(&written.hook), "node.hook", other);
                HookChoice::Tc
            }
        };
        let hold = self.optional(&written.hold, "node.hold");
        if let Some(reason) = hold.as_deref().filter(|reason| !is_reason(reason)) {
            self.refuse(span(&written.hold), "node.hold", &reason.escape_debug().to_string());
        }
        Node {
            name,
            hold,
            first_policy: self
                .optional(&written.first_policy, "node.first_policy")
                .map(PathBuf::from),
            state_dir: self.path(&written.state_dir, "node.state_dir"),
            revisions_kept: self.size(&written.revisions, "node.revisions"),
            stall: Duration::from_millis(self.number(&written.stall_ms, "node.stall_ms")),
            user: self.optional(&written.user, "node.user"),
            datapath,
            hook,
            pin_dir: self.path(&written.pin_dir, "node.pin_dir"),
            fail_closed_after: match self
                .number(&written.fail_closed_after_s, "node.fail_closed_after_s")
            {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            device_wait: Duration::from_millis(
                self.number(&written.device_wait_ms, "node.device_wait_ms"),
            ),
            ring_mebibytes: self.short(&written.ring_mib, "node.ring_mib"),
            workers: self.short(&written.workers, "node.workers"),
        }
    }

    /// What several packet threads cannot do.
    fn workers(&mut self, written: &WrittenNode, node: &Node, is_member: bool) {
        let workers = node.workers;
        if workers == 1 {
            return;
        }
        // Who falls back to one is another member than the rest of the cluster takes it for.
        let is_auto = is_member && node.datapath == DatapathKind::Auto;
        if is_auto || matches!(node.datapath, DatapathKind::Userspace | DatapathKind::Null) {
            let message = format!(
                "node.workers = {workers}: more than one needs the programs; set node.datapath = \"ebpf\", or node.workers = 1"
            );
            self.problem(span(&written.workers), message);
        }
    }

    fn interfaces(&mut self, written: &WrittenConfig) -> Vec<DataInterface> {
        // A node is held because nobody knows its interfaces, perhaps.
        if written.interfaces.is_empty() && written.node.hold.is_none() {
            self.problem(
                None,
                "no data interface: add a section [interfaces] with lines such as `ext = \"eth1\"`"
                    .into(),
            );
        }
        let mut devices = BTreeSet::new();
        for (name, device) in &written.interfaces {
            if !is_logical_name(name) {
                self.problem(
                    Some(device.span()),
                    format!(
                        "interfaces.{name}: a logical name has 1 to 32 letters, digits, - or _"
                    ),
                );
            }
            self.device(device, &format!("interfaces.{name}"));
            if !devices.insert(device.get_ref()) {
                let message = format!(
                    "interfaces.{name} = \"{}\": another interface has this device already; name each device once",
                    device.get_ref()
                );
                self.problem(Some(device.span()), message);
            }
        }
        let interface = |(name, device): (&String, &Spanned<String>)| DataInterface {
            name: name.clone(),
            device: device.get_ref().clone(),
        };
        written.interfaces.iter().map(interface).collect()
    }

    fn management(&mut self, written: &WrittenConfig, data: &[DataInterface]) -> Vec<String> {
        for device in &written.management.interfaces {
            self.device(device, "management.interfaces");
            if let Some(same) = data.iter().find(|data| data.device == *device.get_ref()) {
                let message = format!(
                    "management.interfaces = \"{}\": this device is the data interface {}; take it out of one of the two",
                    same.device, same.name
                );
                self.problem(Some(device.span()), message);
            }
        }
        written.management.interfaces.iter().map(|device| device.get_ref().clone()).collect()
    }

    fn device(&mut self, device: &Spanned<String>, key: &str) {
        let name = device.get_ref();
        let fits = (1..=DEVICE_NAME_BYTES).contains(&name.len())
            && !name.bytes().any(|byte| byte == b'/' || byte.is_ascii_whitespace() || byte == 0)
            && name != "lo";
        if !fits {
            let message = format!(
                "{key} = \"{name}\": a device name has 1 to {DEVICE_NAME_BYTES} bytes without / or blanks, and is not lo"
            );
            self.problem(Some(device.span()), message);
        }
    }

    fn api(&mut self, written: &WrittenApi) -> Api {
        let unix_socket = self.path(&written.unix_socket, "api.unix_socket");
        if unix_socket.as_os_str().len() > SOCKET_PATH_BYTES {
            let message = format!(
                "api.unix_socket has {} bytes, a socket's path at most {SOCKET_PATH_BYTES}",
                unix_socket.as_os_str().len()
            );
            self.problem(span(&written.unix_socket), message);
        }
        Api {
            unix_socket,
            tls: self.api_tls(written),
            message_bytes: self.size(&written.message_bytes, "api.message_bytes"),
            connections: self.size(&written.connections, "api.connections"),
            streams: self.small(&written.streams, "api.streams"),
            watchers: self.size(&written.watchers, "api.watchers"),
        }
    }

    fn api_tls(&mut self, written: &WrittenApi) -> Option<ApiTls> {
        let first = written.listen.first()?;
        let listen = written
            .listen
            .iter()
            .filter_map(|text| self.socket_address(text.get_ref(), text.span(), "api.listen"))
            .collect();
        let mut file = |value: &Written<String>, key: &str| {
            if value.is_none() {
                let message = format!(
                    "api.listen needs {key}, which is missing; `gabion pki init` makes certificates"
                );
                self.problem(Some(first.span()), message);
            }
            PathBuf::from(self.optional(value, key).unwrap_or_default())
        };
        Some(ApiTls {
            certificate: file(&written.certificate, "api.certificate"),
            key: file(&written.key, "api.key"),
            client_ca: file(&written.client_ca, "api.client_ca"),
            listen,
        })
    }

    fn health(&mut self, written: &WrittenHealth) -> Health {
        let health = Health {
            http_port: self.short(&written.port, "health.port"),
            tcp_port: self.short(&written.tcp_port, "health.tcp_port"),
            connections: self.size(&written.connections, "health.connections"),
            timeout: Duration::from_millis(self.number(&written.timeout_ms, "health.timeout_ms")),
        };
        if health.http_port == health.tcp_port {
            let message = format!(
                "health.port and health.tcp_port are both {}; give each its own",
                health.http_port
            );
            self.problem(span(&written.tcp_port).or(span(&written.port)), message);
        }
        health
    }

    fn metrics(&mut self, written: &Written<String>) -> Option<SocketAddr> {
        let text = self.text(written, "metrics.listen");
        if text.is_empty() {
            return None;
        }
        self.socket_address(&text, span(written).unwrap_or(0..0), "metrics.listen")
    }

    fn azure(&mut self, written: &WrittenAzure) -> Azure {
        let asks = self.on_azure(&written.scheduled_events, "azure.scheduled_events");
        let host_services = self.on_azure(&written.host_services, "azure.host_services");
        let text = self.text(&written.metadata, "azure.metadata");
        let span = span(&written.metadata).unwrap_or(0..0);
        let metadata = self.socket_address(&text, span, "azure.metadata");
        Azure { scheduled_events: metadata.filter(|_| asks), host_services }
    }

    /// What is so on Azure's VMs, unless it is said.
    fn on_azure(&mut self, written: &Written<Choice>, key: &str) -> bool {
        match written.as_ref().map(Spanned::get_ref) {
            Some(Choice::Plain(choice)) => *choice,
            None => is_azure(),
            Some(Choice::Word(word)) if word == "auto" => is_azure(),
            Some(Choice::Word(other)) => {
                let other = other.clone();
                self.refuse(span(written), key, &other);
                false
            }
        }
    }

    fn limits(&mut self, written: &WrittenLimits) -> Limits {
        Limits {
            flows: self.small(&written.flows, "limits.flows"),
            mappings: self.small(&written.mappings, "limits.mappings"),
            fragmented_datagrams: self
                .small(&written.fragmented_datagrams, "limits.fragmented_datagrams"),
            fragments_per_datagram: self
                .small(&written.fragments_per_datagram, "limits.fragments_per_datagram"),
            fragment_bytes: self.small(&written.fragment_bytes, "limits.fragment_bytes"),
            parked_per_neighbour: self
                .small(&written.parked_per_neighbour, "limits.parked_per_neighbour"),
            parked: self.small(&written.parked, "limits.parked"),
            neighbours: self.small(&written.neighbours, "limits.neighbours"),
            transmit_queue: self.small(&written.transmit_queue, "limits.transmit_queue"),
            events: self.small(&written.events, "limits.events"),
        }
    }

    fn log(&mut self, written: &WrittenLog) -> Log {
        let json = self.text(&written.json, "log.json");
        let level = self.text(&written.level, "log.level");
        Log {
            journald: self.switch(&written.journald, "log.journald"),
            json: (!json.is_empty()).then(|| self.absolute(&json, span(&written.json), "log.json")),
            queue: self.size(&written.queue, "log.queue"),
            level: level.parse().unwrap_or_else(|_| {
                self.refuse(span(&written.level), "log.level", &level);
                tracing::Level::INFO
            }),
        }
    }

    pub(super) fn number(&mut self, written: &Written<i64>, key: &str) -> u64 {
        let Kind::Number { default, min, max, unit } = settings::find(key).kind else {
            unreachable!("{key} is a number");
        };
        let allowed = format!("{} to {} {unit}", grouped(min), grouped(max));
        let allowed = format!("{allowed} (default {})", grouped(default));
        self.within(written, key, min..=max, &allowed).unwrap_or(default)
    }

    pub(super) fn optional_number(&mut self, written: &Written<i64>, key: &str) -> Option<u64> {
        let Kind::OptionalNumber { min, max, unit } = settings::find(key).kind else {
            unreachable!("{key} is a number without a default");
        };
        let allowed = format!("{} to {} {unit}", grouped(min), grouped(max));
        self.within(written, key, min..=max, &allowed)
    }

    fn within(
        &mut self,
        written: &Written<i64>,
        key: &str,
        range: RangeInclusive<u64>,
        allowed: &str,
    ) -> Option<u64> {
        let written = written.as_ref()?;
        let value = *written.get_ref();
        let fits = u64::try_from(value).ok().filter(|value| range.contains(value));
        if fits.is_none() {
            let message = format!("{key} = {value} is out of range: {allowed}");
            self.problem(Some(written.span()), message);
        }
        fits
    }

    pub(super) fn small(&mut self, written: &Written<i64>, key: &str) -> u32 {
        u32::try_from(self.number(written, key)).expect("the setting's range fits 32 bits")
    }

    fn size(&mut self, written: &Written<i64>, key: &str) -> usize {
        usize::try_from(self.number(written, key)).expect("the setting's range fits a size")
    }

    pub(super) fn short(&mut self, written: &Written<i64>, key: &str) -> u16 {
        u16::try_from(self.number(written, key)).expect("the setting's range fits 16 bits")
    }

    pub(super) fn switch(&mut self, written: &Written<bool>, key: &str) -> bool {
        let Kind::Switch { default } = settings::find(key).kind else {
            unreachable!("{key} is a switch");
        };
        written.as_ref().map_or(default, |written| *written.get_ref())
    }

    fn text(&mut self, written: &Written<String>, key: &str) -> String {
        let Kind::Text { default, .. } = settings::find(key).kind else {
            unreachable!("{key} is a text");
        };
        written.as_ref().map_or_else(|| default.to_owned(), |written| written.get_ref().clone())
    }

    pub(super) fn optional(&mut self, written: &Written<String>, key: &str) -> Option<String> {
        let text = written.as_ref()?.get_ref().clone();
        if text.is_empty() {
            self.refuse(span(written), key, "");
        }
        Some(text)
    }

    fn path(&mut self, written: &Written<String>, key: &str) -> PathBuf {
        let text = self.text(written, key);
        self.absolute(&text, span(written), key)
    }

    fn absolute(&mut self, text: &str, span: Option<Range<usize>>, key: &str) -> PathBuf {
        let path = PathBuf::from(text);
        if !path.is_absolute() {
            self.refuse(span, key, text);
        }
        path
    }

    fn socket_address(&mut self, text: &str, span: Range<usize>, key: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.problem(
                Some(span),
                format!(
                    "{key} = \"{text}\" is not ADDRESS:PORT, such as 192.0.2.1:4450 or [2001:db8::1]:4450"
                ),
            );
        }
        address
    }

    pub(super) fn refuse(&mut self, span: Option<Range<usize>>, key: &str, value: &str) {
        let (Kind::Text { form, .. }
        | Kind::Optional { form }
        | Kind::List { form }
        | Kind::Required { form }) = settings::find(key).kind
        else {
            unreachable!("{key} has a form");
        };
        self.problem(span, format!("{key} = \"{value}\" is not allowed here: write {form}"));
    }

    pub(super) fn problem(&mut self, span: Option<Range<usize>>, message: String) {
        let line = span.map(|span| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            before.bytes().filter(|byte| *byte == b'\n').count() + 1
        });
        self.problems.push(Problem { file: self.file.to_owned(), line, message });
    }
}

pub(super) fn span<T>(written: &Written<T>) -> Option<Range<usize>> {
    written.as_ref().map(Spanned::span)
}

fn is_logical_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Whether it fits a line of a probe's answer. An empty one has been refused.
fn is_reason(text: &str) -> bool {
    text.chars().count() <= HOLD_CHARACTERS && !text.contains(char::is_control)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "gabion".to_owned())
}
