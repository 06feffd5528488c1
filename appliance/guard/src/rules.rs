//! The rules, as a value: what the kernel's own stack may see of the data devices, and send by them.
//!
//! ```text
//! prerouting   iifname DEVICE -> from_data    every data device
//! forward      iifname DEVICE -> drop, oifname DEVICE -> drop
//! output       oifname DEVICE -> to_data
//! from_data    ND, TCP to the ports, DHCP replies, answers of Azure's services: accept; the rest: drop
//! to_data      ND, TCP from the ports, DHCP requests, questions to Azure's services: accept; the rest: drop
//! ```
//!
//! *Azure's services* are let through only where the daemon says that this is one of Azure's VMs, whose hosts let nobody else send
//! from their addresses. Answers go to the ports that Linux gives to clients, so no server of the host's is reached.
//!
//! ARP is no business of `inet` tables and so reaches the host. Other devices meet no rule that
//! matches. Rules match device names, not indices: a device that is made anew is guarded at once.
//!
//! TCP to a port is not checked for a local destination address (`fib daddr type local`), which
//! libnftnl's safe binding lacks and some kernels do too: a packet that is not for the host is dropped
//! one hook later by `forward`, and whatever the host might say to it by `to_data`.
//! Fragments other than the first carry no ports and are dropped, so the host reassembles nothing.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::configuration::{Configuration, ConfigurationError, DeviceName};

/// The name of the table, in the family `inet`.
pub(crate) const TABLE: &str = "gabion_guard";

/// The name of the second table, with the same chains: see `main`.
pub(crate) const HELD_TABLE: &str = "gabion_guard_held";

/// Before defragmentation (-400) and connection tracking (-200), so that neither sees what is dropped
/// (linux/netfilter_ipv4.h).
pub(crate) const PRIORITY: i32 = -450;

/// Behind the first table, whose counters so tell of everything.
pub(crate) const HELD_PRIORITY: i32 = PRIORITY + 1;

/// One chain. The order of the chains is that in which the kernel must hear of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// The hook that leads here, unless a rule does. What no rule of such a chain matches is accepted.
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
    Output,
}

/// Every match must hold for the verdict to count.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Stands as the comment in the kernel, and says what the rule is for.
    pub(crate) label: String,
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match {
    From(DeviceName),
    To(DeviceName),
    Ip(IpVersion),
    Transport(Transport),
    SourcePort(u16),
    DestinationPort(u16),
    Source(Ipv4Addr),
    Destination(Ipv4Addr),
    /// A port of a client's, on the side that is the host's.
    SourcePorts(RangeInclusive<u16>),
    DestinationPorts(RangeInclusive<u16>),
    HopLimit(u8),
    Icmpv6Type(RangeInclusive<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Icmpv6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Goto(&'static str),
}

/// The rules for a configuration.
pub(crate) fn chains(configuration: &Configuration) -> Vec<Chain> {
    let per_device = |word: &str, field: fn(DeviceName) -> Match, verdict| {
        let rule = |device: &DeviceName| Rule {
            label: format!("{word}{device}"),
            matches: vec![field(device.clone())],
            verdict,
        };
        configuration.devices().map(rule).collect::<Vec<_>>()
    };
    let mut forward = per_device(FROM, Match::From, Verdict::Drop);
    forward.extend(per_device("to ", Match::To, Verdict::Drop));
    vec![
        inner(FROM_DATA, configuration, Match::DestinationPort, DHCP_REPLY),
        inner(TO_DATA, configuration, Match::SourcePort, DHCP_REQUEST),
        Chain {
            name: PREROUTING,
            hook: Some(Hook::Prerouting),
            rules: per_device(FROM, Match::From, Verdict::Goto(FROM_DATA)),
        },
        Chain { name: "forward", hook: Some(Hook::Forward), rules: forward },
        Chain {
            name: "output",
            hook: Some(Hook::Output),
            rules: per_device("to ", Match::To, Verdict::Goto(TO_DATA)),
        },
    ]
}

/// Reads the configuration back from the labels of rules that are in place.
///
/// The labels may lie: compare the rules with [`chains`] of the result.
///
/// # Errors
/// [`ConfigurationError`] if the labels can not be this program's.
pub(crate) fn configuration<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Configuration, ConfigurationError> {
    let (mut devices, mut ports, mut azure_services) = (Vec::new(), Vec::new(), false);
    for (chain, label) in labels {
        if chain == PREROUTING {
            devices.extend(label.strip_prefix(FROM));
        } else if chain == FROM_DATA {
            ports.extend(label.strip_prefix(TCP).and_then(|port| port.parse::<u16>().ok()));
            azure_services |= label.starts_with(AZURE);
        }
    }
    Ok(Configuration::new(devices, ports)?.with_azure_services(azure_services))
}

pub(crate) const PREROUTING: &str = "prerouting";
const FROM_DATA: &str = "from_data";
const TO_DATA: &str = "to_data";

const FROM: &str = "from ";
const TCP: &str = "tcp ";

/// Router and neighbour solicitation and advertisement, and redirect (RFC 4861 section 4).
const NEIGHBOUR_DISCOVERY: RangeInclusive<u8> = 133..=137;
/// Proof that the packet crossed no router (RFC 4861 section 11.2).
const NEIGHBOUR_DISCOVERY_HOP_LIMIT: u8 = 255;

/// Source and destination port of DHCP, by family: RFC 2131 section 4.1, RFC 8415 section 7.2.
const DHCP_REPLY: [(IpVersion, u16, u16); 2] = [(IpVersion::V4, 67, 68), (IpVersion::V6, 547, 546)];
const DHCP_REQUEST: [(IpVersion, u16, u16); 2] =
    [(IpVersion::V4, 68, 67), (IpVersion::V6, 546, 547)];

/// Linux's own choice (`ip_local_port_range`).
const CLIENT_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// What each VM of Azure's may ask, and where: DNS, wire server and guest agent, metadata.
const AZURE_SERVICES: [(Ipv4Addr, Transport, u16); 6] = [
    (AZURE_HOST, Transport::Udp, 53),
    (AZURE_HOST, Transport::Tcp, 53),
    (AZURE_HOST, Transport::Tcp, 80),
    (AZURE_HOST, Transport::Tcp, 443),
    (AZURE_HOST, Transport::Tcp, 32_526),
    (Ipv4Addr::new(169, 254, 169, 254), Transport::Tcp, 80),
];
const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
const AZURE: &str = "azure ";

/// The answers, in the chain of what comes in, or the questions.
fn azure(name: &str) -> impl Iterator<Item = (String, Vec<Match>)> {
    let is_inbound = name == FROM_DATA;
    AZURE_SERVICES.into_iter().map(move |(address, transport, port)| {
        let (ends, word) = if is_inbound {
            let ends = [
                Match::Source(address),
                Match::SourcePort(port),
                Match::DestinationPorts(CLIENT_PORTS),
            ];
            (ends, "from")
        } else {
            let ends = [
                Match::Destination(address),
                Match::DestinationPort(port),
                Match::SourcePorts(CLIENT_PORTS),
            ];
            (ends, "to")
        };
        let head = [Match::Ip(IpVersion::V4), Match::Transport(transport)];
        let name = match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Icmpv6 => "icmpv6",
        };
        let label = format!("{AZURE}{name} {word} {address}:{port}");
        (label, head.into_iter().chain(ends).collect())
    })
}

fn inner(
    name: &'static str,
    configuration: &Configuration,
    own_port: fn(u16) -> Match,
    dhcp: [(IpVersion, u16, u16); 2],
) -> Chain {
    let accept = |label: String, matches| Rule { label, matches, verdict: Verdict::Accept };
    let mut rules = vec![accept(
        "neighbour discovery".to_owned(),
        vec![
            Match::Ip(IpVersion::V6),
            Match::Transport(Transport::Icmpv6),
            Match::HopLimit(NEIGHBOUR_DISCOVERY_HOP_LIMIT),
            Match::Icmpv6Type(NEIGHBOUR_DISCOVERY),
        ],
    )];
    rules.extend(configuration.ports().map(|port| {
        accept(format!("{TCP}{port}"), vec![Match::Transport(Transport::Tcp), own_port(port)])
    }));
    rules.extend(dhcp.map(|(version, source, destination)| {
        let label = match version {
            IpVersion::V4 => "dhcp",
            IpVersion::V6 => "dhcpv6",
        };
        accept(
            label.to_owned(),
            vec![
                Match::Ip(version),
                Match::Transport(Transport::Udp),
                Match::SourcePort(source),
                Match::DestinationPort(destination),
            ],
        )
    }));
    if configuration.azure_services() {
        rules.extend(azure(name).map(|(label, matches)| accept(label, matches)));
    }
    rules.push(Rule { label: "the rest".to_owned(), matches: vec![], verdict: Verdict::Drop });
    Chain { name, hook: None, rules }
}

#[cfg(test)]
mod tests;
