//! A rule as plain numbers: written as policy text for Gabion, and asked by brute force as the oracle.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gabion_rules::{Query, Transport};

/// Of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

/// Addresses of one family from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addresses {
    pub family: Family,
    pub first: u128,
    pub last: u128,
}

/// What a rule asks of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    Any,
    Tcp {
        source: (u16, u16),
        destination: (u16, u16),
    },
    Udp {
        source: (u16, u16),
        destination: (u16, u16),
    },
    /// A type, or all.
    Icmp(Family, Option<u8>),
}

/// A rule for all zones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Empty for any.
    pub source: Vec<Addresses>,
    /// Empty for any.
    pub destination: Vec<Addresses>,
    pub service: Service,
    pub is_allow: bool,
}

impl Addresses {
    /// The network of `length` bits that holds an address.
    pub fn prefix(family: Family, address: u128, length: u32) -> Self {
        let width = if family == Family::V4 { 32 } else { 128 };
        let hosts = 1_u128.checked_shl(width - length).map_or(u128::MAX, |count| count - 1);
        Self { family, first: address & !hosts, last: address | hosts }
    }

    /// The address of a family that is this number.
    pub fn address(family: Family, number: u128) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
            Family::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        let (family, number) = match address {
            IpAddr::V4(address) => (Family::V4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (Family::V6, address.to_bits()),
        };
        family == self.family && self.first <= number && number <= self.last
    }

    /// As the policy writes it.
    pub fn text(&self) -> String {
        let (first, last) =
            (Self::address(self.family, self.first), Self::address(self.family, self.last));
        if first == last { format!("'{first}'") } else { format!("'{first}-{last}'") }
    }
}

impl Service {
    pub const fn tcp(source: (u16, u16), destination: (u16, u16)) -> Self {
        Self::Tcp { source, destination }
    }

    pub const fn udp(source: (u16, u16), destination: (u16, u16)) -> Self {
        Self::Udp { source, destination }
    }

    fn holds(&self, transport: Transport) -> bool {
        let within = |range: &(u16, u16), port| range.0 <= port && port <= range.1;
        match (self, transport) {
            (Self::Any, _) => true,
            (
                Self::Tcp { source, destination },
                Transport::Tcp { source_port, destination_port },
            )
            | (
                Self::Udp { source, destination },
                Transport::Udp { source_port, destination_port },
            ) => within(source, source_port) && within(destination, destination_port),
            (Self::Icmp(Family::V4, wanted), Transport::Icmp { kind, .. })
            | (Self::Icmp(Family::V6, wanted), Transport::Icmpv6 { kind, .. }) => {
                wanted.is_none_or(|wanted| wanted == kind)
            }
            _ => false,
        }
    }

    /// As the policy writes it.
    pub fn text(&self) -> String {
        let ports = |protocol, source: &(u16, u16), destination: &(u16, u16)| {
            let [(a, b), (c, d)] = [source, destination];
            format!("{protocol}/{a}-{b}->{c}-{d}")
        };
        match self {
            Self::Any => "any".to_owned(),
            Self::Tcp { source, destination } => ports("tcp", source, destination),
            Self::Udp { source, destination } => ports("udp", source, destination),
            Self::Icmp(family, kind) => {
                let name = if *family == Family::V4 { "icmp" } else { "icmpv6" };
                kind.map_or(name.to_owned(), |kind| format!("{name}/{kind}"))
            }
        }
    }
}

impl Rule {
    /// Whether a packet meets the rule.
    pub fn holds(&self, query: &Query) -> bool {
        let holds =
            |list: &[Addresses], address| list.is_empty() || list.iter().any(|a| a.holds(address));
        holds(&self.destination, query.destination)
            && holds(&self.source, query.source)
            && self.service.holds(query.transport)
    }
}

/// The index of the first rule that a packet meets, by asking one after the other.
pub fn first_match(rules: &[Rule], query: &Query) -> Option<usize> {
    rules.iter().position(|rule| rule.holds(query))
}

/// The policy of these rules, from any zone to any: `outside` is the first zone, `inside` the second.
pub fn policy_text(rules: &[Rule]) -> String {
    let mut text = String::from(
        "apiVersion: gabion/v1\nzones:\n  outside: { interfaces: [ext] }\n  inside: { interfaces: [int] }\nrules:\n",
    );
    let list = |list: &[Addresses]| match list {
        [] => "any".to_owned(),
        [only] => only.text(),
        list => format!("[{}]", list.iter().map(Addresses::text).collect::<Vec<_>>().join(", ")),
    };
    for (index, rule) in rules.iter().enumerate() {
        let (source, destination) = (list(&rule.source), list(&rule.destination));
        let action = if rule.is_allow { "allow" } else { "drop" };
        let service = rule.service.text();
        writeln!(
            text,
            "  - {{ name: r{index}, from: any, to: any, source: {source}, destination: {destination}, service: {service}, action: {action} }}"
        )
        .expect("writing to a string works");
    }
    text
}
