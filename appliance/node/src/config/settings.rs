//! The one list of settings: names, defaults, ranges and units stand here and nowhere else.
//!
//! `config::check` reads them from it, and `docs/configuration.md` is printed from it.

use std::fmt::Write as _;

/// One setting of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `section.name`, or `section.*` where the names are the operator's.
    pub key: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// What a setting's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number {
        default: u64,
        min: u64,
        max: u64,
        unit: &'static str,
    },
    Switch {
        default: bool,
    },
    Text {
        default: &'static str,
        form: &'static str,
    },
    List {
        form: &'static str,
    },
    /// No default; absent means what the help says.
    Optional {
        form: &'static str,
    },
    Required {
        form: &'static str,
    },
    /// A number without a default; absent means what the help says.
    OptionalNumber {
        min: u64,
        max: u64,
        unit: &'static str,
    },
}

const fn number(
    key: &'static str,
    default: u64,
    (min, max): (u64, u64),
    unit: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, kind: Kind::Number { default, min, max, unit }, help }
}

const fn text(
    key: &'static str,
    default: &'static str,
    form: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, kind: Kind::Text { default, form }, help }
}

const fn setting(key: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { key, kind, help }
}

const MIB: u64 = 1 << 20;

/// Every setting, in the order of the file.
pub const SETTINGS: &[Setting] = &[
    setting(
        "node.name",
        Kind::Optional { form: "1 to 63 letters, digits, - or ." },
        "The node's name in logs, metrics and status. Absent: the host's name.",
    ),
    setting(
        "node.hold",
        Kind::Optional { form: "one line of 1 to 1,000 characters" },
        "Why the node is held. It then moves nothing and is never ready, whatever its policy says; the reason stands in the probe's answer, on every interface, and in `gabion show health`. Such a node may be without [interfaces]. `gabion-provision` writes it where first-boot data is wrong or missing (docs/first-boot.md); take it out and restart gabiond once that is mended. Absent: the node is not held.",
    ),
    setting(
        "node.first_policy",
        Kind::Optional { form: "path of a policy" },
        "A policy that comes into force at the start of a node that has never had one. Absent: such a node waits for `gabion push`.",
    ),
    text("node.state_dir", "/var/lib/gabion", "absolute path", "Where policy revisions are kept."),
    number(
        "node.revisions",
        100,
        (2, 10_000),
        "revisions",
        "How many policy revisions are kept; the oldest go first.",
    ),
    number(
        "node.stall_ms",
        2_000,
        (100, 60_000),
        "ms",
        "A packet thread that has not turned for so long is reported as `worker-stalled`, and systemd's watchdog is no longer fed.",
    ),
    setting(
        "node.user",
        Kind::Optional { form: "user name or number" },
        "The user that the daemon becomes after its sockets are open. Absent: it stays the user that started it. In either case it keeps no capabilities but those it needs.",
    ),
    text(
        "node.datapath",
        "auto",
        "`auto`, `ebpf`, `userspace` or `null`",
        "`auto` is `ebpf` where it can be had, and elsewhere `userspace`, with the reason in the log. `userspace` moves packets through AF_PACKET rings. `ebpf` has the kernel move those of settled flows by itself, and the others as `userspace` does. It takes Linux 6.6; where it cannot be had the node does not start and says why. `null` moves none, is never ready, needs no privilege and is for trying the API.",
    ),
    text(
        "node.hook",
        "auto",
        "`auto`, `xdp` or `tc`",
        "Where programs of the datapath `ebpf` stand at data interfaces. `tc`: before the host's stack, where merged packets (superframes) pass as one. `xdp`: in the driver as well, before it makes anything of a frame, wherever one has a place for programs; packets pass one by one, and small ones at a fraction of the cost. What they do not move there goes on to the others. It sends by interfaces only whose driver takes such frames; where it cannot be had, the log says why, and the others do all. `auto` is `xdp` at interfaces of hardware, and `tc` at what software makes (veth, tun, bridges, virtio), which hands over superframes and checksums that are not made yet.",
    ),
    text(
        "node.pin_dir",
        "/sys/fs/bpf/gabion",
        "absolute path",
        "Where tables and programs of the datapath `ebpf` stay when gabiond ends, so that established flows go on until it is back: a directory in a bpf file system, which is mounted above it where there is none. Each node of a machine needs its own. `gabiond --detach` takes away what is there.",
    ),
    number(
        "node.fail_closed_after_s",
        120,
        (0, 86_400),
        "s",
        "How long established flows of the datapath `ebpf` go on when gabiond is not there, or its packet thread does not turn: nobody sees them end then. Two minutes are the shortest idle time that RFC 4787 REQ-5 allows a UDP flow. 0: for ever.",
    ),
    number(
        "node.device_wait_ms",
        5_000,
        (0, 600_000),
        "ms",
        "How long the start waits for data devices that are not there yet; then it fails and names them.",
    ),
    number(
        "node.ring_mib",
        8,
        (2, 1_024),
        "MiB",
        "Receive rings of each data interface: one half holds packets, 512 a MiB, the other frames of more than 1,900 bytes, 15 a MiB. Large rings fall out of the processor's cache. Full: counted as `ring_drops`.",
    ),
    number(
        "node.workers",
        1,
        (1, 16),
        "threads",
        "Packet threads, each with its part of the flows and of `limits`. What the kernel does not move by itself is spread over them: a flow is one thread's, both directions of it, and what one source may have is counted by one. More than one needs the datapath `ebpf`. In a cluster all nodes have as many, 16 in all, and each worker has UDP ports of its own: `sync_port` and `wrapped_port`, 16 higher than those of the one before. Another number than before a restart has established flows begin anew.",
    ),
    setting(
        "interfaces.*",
        Kind::Required { form: "device name" },
        "The data interfaces: the name that the policy's zones use = the device. At least one.",
    ),
    setting(
        "management.interfaces",
        Kind::List { form: "device names" },
        "Devices that the host keeps for itself: the guard leaves them alone and nothing is forwarded over them.",
    ),
    setting(
        "api.listen",
        Kind::List { form: "ADDRESS:PORT" },
        "Where the API is served over mutual TLS. Empty: over the Unix socket only.",
    ),
    text(
        "api.unix_socket",
        "/run/gabion/gabiond.sock",
        "absolute path",
        "Where the API is served to local users; mode 0660, so owner and group of the directory decide who may.",
    ),
    setting(
        "api.certificate",
        Kind::Optional { form: "path of a PEM file" },
        "The node's certificate with its chain. Required with `api.listen`.",
    ),
    setting(
        "api.key",
        Kind::Optional { form: "path of a PEM file" },
        "The certificate's private key. Required with `api.listen`.",
    ),
    setting(
        "api.client_ca",
        Kind::Optional { form: "path of a PEM file" },
        "The CA whose certificates clients must show. Required with `api.listen`.",
    ),
    number(
        "api.message_bytes",
        16 * MIB,
        (64 << 10, 256 * MIB),
        "bytes",
        "Largest request. A policy with 100,000 rules takes about 12 MiB.",
    ),
    number(
        "api.connections",
        64,
        (1, 4_096),
        "connections",
        "Connections to the API at a time, TLS and Unix socket each; more wait to be accepted.",
    ),
    number(
        "api.streams",
        32,
        (1, 1_024),
        "requests",
        "Requests under way at a time on one connection.",
    ),
    number(
        "api.watchers",
        16,
        (1, 1_024),
        "streams",
        "Watch streams at a time; more are refused as RESOURCE_EXHAUSTED.",
    ),
    number(
        "health.port",
        4_480,
        (1, 65_535),
        "TCP port",
        "HTTP probes: 200 when ready, else 503 with the reasons. On every interface.",
    ),
    number(
        "health.tcp_port",
        4_481,
        (1, 65_535),
        "TCP port",
        "TCP probes: accepts when ready, else refuses. On every interface.",
    ),
    number(
        "health.connections",
        64,
        (1, 4_096),
        "connections",
        "Probe connections at a time on each listener; the oldest makes room for the next.",
    ),
    number(
        "health.timeout_ms",
        2_000,
        (10, 30_000),
        "ms",
        "A probe that has not sent its request by then is cut off.",
    ),
    text(
        "metrics.listen",
        "127.0.0.1:4490",
        "ADDRESS:PORT, or empty",
        "Where Prometheus reads `/metrics`. Empty: nowhere.",
    ),
    number(
        "limits.flows",
        262_144,
        (64, 1 << 24),
        "flows",
        "Connections, both directions of each. Full: `flow-table-full`.",
    ),
    number(
        "limits.mappings",
        262_144,
        (64, 1 << 24),
        "mappings",
        "NAT mappings. Full: `mapping-table-full`.",
    ),
    number(
        "limits.fragmented_datagrams",
        1_024,
        (1, 65_536),
        "datagrams",
        "Datagrams of which fragments are kept. Full: `fragment-table-full`.",
    ),
    number(
        "limits.fragments_per_datagram",
        64,
        (2, 8_192),
        "fragments",
        "Fragments of one datagram. Beyond: `fragment-table-full`.",
    ),
    number(
        "limits.fragment_bytes",
        16 * MIB,
        (65_536, 1_024 * MIB),
        "bytes",
        "Bytes of kept fragments in all. Full: `fragment-table-full`.",
    ),
    number(
        "limits.parked_per_neighbour",
        16,
        (1, 1_024),
        "packets",
        "Packets that wait for one neighbour. Beyond: `neighbour-queue-full`.",
    ),
    number(
        "limits.parked",
        1_024,
        (1, 65_536),
        "packets",
        "Packets that wait for neighbours in all; one source may have an eighth of them. Full: `neighbour-queue-full`.",
    ),
    number(
        "limits.neighbours",
        16_384,
        (16, 1 << 20),
        "neighbours",
        "Neighbours that are known or asked for. Full: `neighbour-queue-full`.",
    ),
    number(
        "limits.transmit_queue",
        1_024,
        (16, 65_536),
        "frames",
        "Frames of the node's own making that wait to be sent. Full: `transmit-queue-full`.",
    ),
    number(
        "limits.events",
        16_384,
        (16, 1 << 20),
        "events",
        "Events that wait to be logged. Full: counted in `events_lost`; no packet waits.",
    ),
    setting(
        "log.journald",
        Kind::Switch { default: false },
        "Whether events and messages also go to the journal. Without it, messages go to standard error.",
    ),
    text(
        "log.json",
        "/var/log/gabion/events.jsonl",
        "absolute path, or empty",
        "The event log, one JSON object a line; reopened on SIGHUP. Empty: none.",
    ),
    number(
        "log.queue",
        16_384,
        (256, 1 << 20),
        "records",
        "Records that wait to be written. Full: the number lost is logged; no packet waits.",
    ),
    text(
        "log.level",
        "info",
        "`error`, `warn`, `info`, `debug` or `trace`",
        "The least important messages of the daemon itself that are still written.",
    ),
    setting(
        "cluster.name",
        Kind::Optional { form: "1 to 63 lower-case letters, digits or -" },
        "The cluster's name, as in the nodes' certificates. Absent: the node stands alone.",
    ),
    setting(
        "cluster.node",
        Kind::OptionalNumber { min: 1, max: 16, unit: "number" },
        "This node's number among the members. Required in a cluster.",
    ),
    setting(
        "cluster.members",
        Kind::List { form: "NUMBER=ADDRESS" },
        "All members, this node among them, each with the address at which the others reach it. The address must be on no data interface. The same at all members.",
    ),
    setting(
        "cluster.ca",
        Kind::Optional { form: "path of a PEM file" },
        "The CA of the members' certificates. Required in a cluster.",
    ),
    setting(
        "cluster.certificate",
        Kind::Optional { form: "path of a PEM file" },
        "This node's certificate, for the name `node-NUMBER.CLUSTER`: `gabion pki` makes it with `--cluster`. Read again on SIGHUP, with key and CA; sessions are renewed with it. Required in a cluster.",
    ),
    setting(
        "cluster.key",
        Kind::Optional { form: "path of a PEM file" },
        "The certificate's private key. Required in a cluster.",
    ),
    number(
        "cluster.sync_port",
        6_082,
        (1, 65_535),
        "UDP port",
        "State sync between members. The same at all members.",
    ),
    number(
        "cluster.session_port",
        6_083,
        (1, 65_535),
        "TCP port",
        "Sessions between members. The same at all members.",
    ),
    number(
        "cluster.wrapped_port",
        6_081,
        (1, 65_535),
        "UDP port",
        "Packets that a member hands to their owner. The same at all members.",
    ),
    number(
        "cluster.machine_port",
        6_084,
        (1, 65_535),
        "TCP port",
        "From here, and at this port of its addresses on data interfaces, the machine of a member is asked that has fallen silent. Nobody listens there: that the machine refuses is the answer. Whatever filters packets between members' data interfaces must let it through, or no connection is ever reset (`cluster.reset_lost`).",
    ),
    setting(
        "cluster.sync_mtu",
        Kind::OptionalNumber { min: 1_360, max: 9_216, unit: "bytes" },
        "The largest IP packet that the links between members carry. Absent: the MTU of the interface that has this node's address. The same at all members.",
    ),
    number(
        "cluster.heartbeat_ms",
        100,
        (10, 10_000),
        "ms",
        "A member says twice in this time that it lives. The same at all members.",
    ),
    number(
        "cluster.heartbeats_missed",
        4,
        (2, 100),
        "heartbeats",
        "A member of which so many are missed is taken for dead.",
    ),
    setting(
        "cluster.reset_lost",
        Kind::Switch { default: true },
        "Whether TCP connections are reset on both sides of which one side's packets still go to a member whose machine has gone: load balancers that pin connections do so, and they hang for minutes otherwise. A member's machine has gone when none of its addresses answers, on whatever link; while it answers, its daemon may be back any moment, and nothing is reset. To be off where the balancer moves connections to other members.",
    ),
    number(
        "cluster.renew_s",
        3_600,
        (10, 86_400),
        "s",
        "How long the keys of a session between members are used; the lower number's setting counts.",
    ),
    text(
        "azure.scheduled_events",
        "auto",
        "`true`, `false` or `\"auto\"`",
        "Whether the node asks Azure's metadata service once a second what is planned for this VM, drains before a reboot, redeployment or eviction, and acknowledges it (docs/azure-node.md). `auto`: if the firmware says that this is one of Azure's VMs.",
    ),
    text(
        "azure.metadata",
        "169.254.169.254:80",
        "ADDRESS:PORT",
        "Azure's metadata service. Never asked over a proxy.",
    ),
    text(
        "azure.host_services",
        "auto",
        "`true`, `false` or `\"auto\"`",
        "Whether the host may speak with Azure's own services (168.63.129.16: DNS, wire server; 169.254.169.254: metadata) over data interfaces too, as it has to where one of these is the VM's primary interface. `auto`: if the firmware says that this is one of Azure's VMs. Elsewhere these are anybody's addresses.",
    ),
    text(
        "guard.program",
        "/usr/libexec/gabion/gabion-guard",
        "absolute path",
        "The guard of the host's stack; started as a child. Nothing passes without it.",
    ),
];

/// Looks a setting up by its key.
///
/// # Panics
/// When no such setting is in the list: a mistake in this program.
pub(super) fn find(key: &str) -> &'static Setting {
    SETTINGS
        .iter()
        .find(|setting| setting.key == key)
        .unwrap_or_else(|| unreachable!("{key} is not in the list of settings"))
}

/// `docs/configuration.md`, whole.
pub fn reference() -> String {
    let mut page = String::from(
        "# Settings of the node\n\n\
         `gabiond` reads one TOML file, by default `/etc/gabion/gabiond.toml`. It describes the node: names, paths, ports and the\n\
         sizes of tables. What the firewall permits, and its timers and flood limits, are the policy's.\n\
         `gabiond --check-config` checks a file and changes nothing. An unknown setting is an error.\n\n\
         This page is printed by `gabiond --print-config-reference`; a test keeps it current.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (this, name) = setting.key.split_once('.').expect("every key has a section");
        if this != section {
            section = this;
            let _ = write!(
                page,
                "\n## [{section}]\n\n| setting | default | allowed | unit | |\n|---|---|---|---|---|\n"
            );
        }
        let (default, allowed, unit) = setting.kind.columns();
        let name = if name == "*" { "NAME" } else { name };
        let _ = writeln!(page, "| `{name}` | {default} | {allowed} | {unit} | {} |", setting.help);
    }
    page
}

impl Kind {
    fn columns(self) -> (String, String, &'static str) {
        match self {
            Self::Number { default, min, max, unit } => {
                (grouped(default), format!("{} to {}", grouped(min), grouped(max)), unit)
            }
            Self::Switch { default } => (format!("`{default}`"), "`true`, `false`".into(), ""),
            Self::Text { default: "", form } => ("empty".into(), form.into(), ""),
            Self::Text { default, form } => (format!("`{default}`"), form.into(), ""),
            Self::List { form } => ("none".into(), form.into(), ""),
            Self::Optional { form } => ("absent".into(), form.into(), ""),
            Self::Required { form } => ("required".into(), form.into(), ""),
            Self::OptionalNumber { min, max, unit } => {
                ("absent".into(), format!("{} to {}", grouped(min), grouped(max)), unit)
            }
        }
    }
}

/// `262144` as `262,144`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
