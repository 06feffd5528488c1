//! How a packet is written in tests and on the command line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::Transport;
use crate::diagnostic::suggestion;
use crate::service::icmp::{IcmpFamily, kind_name, kind_number, names};
use crate::service::parse_protocol;
use crate::term::number;

/// A packet as written: `tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet [out spokes]`.
///
/// The other forms are `udp` with the same endpoints, `icmp 192.0.2.1 -> 192.0.2.2 echo-request in
/// internet`, `icmpv6`, where the type may be a name or a number and may have a code behind a slash,
/// and `proto/47 192.0.2.1 -> 192.0.2.2 in internet`. IPv6 endpoints are written `[2600::1]:443`.
///
/// `Display` writes it so that parsing gives the same value again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketText {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
    /// The zone, or a logical interface, by which the packet comes in.
    pub from: String,
    /// The zone to which it is routed; needed only where the zones' networks do not tell.
    pub out: Option<String>,
}

/// Why a text is not a packet, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}", column = .offset + 1)]
pub struct ParsePacketError {
    /// In bytes from 0.
    pub offset: usize,
    pub message: String,
}

impl FromStr for PacketText {
    type Err = ParsePacketError;

    fn from_str(text: &str) -> Result<Self, ParsePacketError> {
        let mut words = Words { text, at: 0 };
        let protocol = words.next("a protocol: tcp, udp, icmp, icmpv6 or proto/N")?;
        let form = Form::parse(protocol)?;
        let source = words.next("the source")?;
        words.keyword("->")?;
        let destination = words.next("the destination")?;
        let (source, destination, transport) = match form {
            Form::Tcp | Form::Udp => {
                let (source, destination) = (socket(source)?, socket(destination)?);
                (source.ip(), destination.ip(), form.with_ports(source.port(), destination.port()))
            }
            Form::Icmp(family) => {
                let kind = words.next("the ICMP type")?;
                (address(source)?, address(destination)?, icmp(family, kind)?)
            }
            Form::Other(protocol) => {
                (address(source)?, address(destination)?, Transport::Other { protocol })
            }
        };
        check_family(form, source, destination, protocol.offset)?;
        words.keyword("in")?;
        let from = words.next("the zone by which the packet comes in")?.text.to_owned();
        let out = match words.optional() {
            None => None,
            Some(word) if word.text == "out" => Some(words.next("the zone by which it leaves")?),
            Some(word) => return Err(word.error(format!("`{}` is not expected here", word.text))),
        };
        match words.optional() {
            Some(word) => Err(word.error("nothing more is expected here")),
            None => {
                let out = out.map(|word| word.text.to_owned());
                Ok(Self { source, destination, transport, from, out })
            }
        }
    }
}

impl fmt::Display for PacketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (self.source, self.destination);
        let sockets = |source_port, destination_port| {
            let source = SocketAddr::new(source, source_port);
            format!("{source} -> {}", SocketAddr::new(destination, destination_port))
        };
        match self.transport {
            Transport::Tcp { source_port, destination_port } => {
                write!(f, "tcp {}", sockets(source_port, destination_port))?;
            }
            Transport::Udp { source_port, destination_port } => {
                write!(f, "udp {}", sockets(source_port, destination_port))?;
            }
            Transport::Icmp { kind, code } => {
                let kind = print_icmp(IcmpFamily::V4, kind, code);
                write!(f, "icmp {source} -> {destination} {kind}")?;
            }
            Transport::Icmpv6 { kind, code } => {
                let kind = print_icmp(IcmpFamily::V6, kind, code);
                write!(f, "icmpv6 {source} -> {destination} {kind}")?;
            }
            Transport::Other { protocol } => {
                write!(f, "proto/{protocol} {source} -> {destination}")?;
            }
        }
        write!(f, " in {}", self.from)?;
        self.out.as_ref().map_or(Ok(()), |out| write!(f, " out {out}"))
    }
}

#[derive(Clone, Copy)]
enum Form {
    Tcp,
    Udp,
    Icmp(IcmpFamily),
    Other(u8),
}

impl Form {
    fn parse(word: Word<'_>) -> Result<Self, ParsePacketError> {
        const KNOWN: [&str; 5] = ["tcp", "udp", "icmp", "icmpv6", "proto/47"];
        match word.text.split_once('/') {
            None if word.text == "tcp" => Ok(Self::Tcp),
            None if word.text == "udp" => Ok(Self::Udp),
            None if word.text == "icmp" => Ok(Self::Icmp(IcmpFamily::V4)),
            None if word.text == "icmpv6" => Ok(Self::Icmp(IcmpFamily::V6)),
            Some(("proto", rest)) => {
                let number = parse_protocol(word.text, Some(rest));
                number.map(Self::Other).map_err(|error| word.error(error.message))
            }
            _ => {
                let near = suggestion(word.text, KNOWN);
                let near = if near.is_empty() { KNOWN.join(", ") } else { near };
                Err(word.error(format!("`{}` is not a protocol: {near}", word.text)))
            }
        }
    }

    fn with_ports(self, source_port: u16, destination_port: u16) -> Transport {
        match self {
            Self::Tcp => Transport::Tcp { source_port, destination_port },
            Self::Udp => Transport::Udp { source_port, destination_port },
            Self::Icmp(_) | Self::Other(_) => unreachable!("only tcp and udp have ports"),
        }
    }
}

fn check_family(
    form: Form,
    source: IpAddr,
    destination: IpAddr,
    offset: usize,
) -> Result<(), ParsePacketError> {
    let message = match form {
        _ if source.is_ipv4() != destination.is_ipv4() => {
            "source and destination are not of one address family"
        }
        Form::Icmp(IcmpFamily::V4) if source.is_ipv6() => "IPv6 addresses go with icmpv6",
        Form::Icmp(IcmpFamily::V6) if source.is_ipv4() => "IPv4 addresses go with icmp",
        Form::Tcp | Form::Udp | Form::Icmp(_) | Form::Other(_) => return Ok(()),
    };
    Err(ParsePacketError { offset, message: message.to_owned() })
}

fn socket(word: Word<'_>) -> Result<SocketAddr, ParsePacketError> {
    let error = |_| {
        let example = "an address and a port, as in 192.0.2.1:443 or [2600::1]:443";
        word.error(format!("`{}` is not {example}", word.text))
    };
    let socket: SocketAddr = word.text.parse().map_err(error)?;
    match socket {
        // Scopes are not part of a packet.
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            Err(word.error(format!("`{}` has a scope, which packets do not carry", word.text)))
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => Ok(socket),
    }
}

fn address(word: Word<'_>) -> Result<IpAddr, ParsePacketError> {
    let error = |_| word.error(format!("`{}` is not an address (without a port)", word.text));
    word.text.parse().map_err(error)
}

fn icmp(family: IcmpFamily, word: Word<'_>) -> Result<Transport, ParsePacketError> {
    let (kind, code) = word.text.split_once('/').unwrap_or((word.text, "0"));
    let kind = kind_number(family, kind).ok_or_else(|| {
        let known = names(family).iter().map(|(name, _)| *name);
        let near = suggestion(kind, known.clone());
        let near = if near.is_empty() { known.collect::<Vec<_>>().join(", ") } else { near };
        word.error(format!("`{kind}` is not an ICMP type: {near}"))
    })?;
    let error = || word.error("the ICMP code is a number from 0 to 255");
    let code = number(code).ok_or_else(error)?;
    Ok(match family {
        IcmpFamily::V4 => Transport::Icmp { kind, code },
        IcmpFamily::V6 => Transport::Icmpv6 { kind, code },
    })
}

fn print_icmp(family: IcmpFamily, kind: u8, code: u8) -> String {
    let kind = kind_name(family, kind);
    if code == 0 { kind } else { format!("{kind}/{code}") }
}

#[derive(Clone, Copy)]
struct Word<'t> {
    text: &'t str,
    offset: usize,
}

impl Word<'_> {
    fn error(&self, message: impl Into<String>) -> ParsePacketError {
        ParsePacketError { offset: self.offset, message: message.into() }
    }
}

struct Words<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Words<'t> {
    fn optional(&mut self) -> Option<Word<'t>> {
        let rest = self.text.get(self.at..)?;
        let offset = self.at + (rest.len() - rest.trim_start().len());
        let text = rest.split_whitespace().next()?;
        self.at = offset + text.len();
        Some(Word { text, offset })
    }

    fn next(&mut self, what: &str) -> Result<Word<'t>, ParsePacketError> {
        let offset = self.text.len();
        let error = || ParsePacketError { offset, message: format!("{what} is missing") };
        self.optional().ok_or_else(error)
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), ParsePacketError> {
        let word = self.next(&format!("`{keyword}`"))?;
        if word.text == keyword {
            return Ok(());
        }
        Err(word.error(format!("expected `{keyword}`, found `{}`", word.text)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::service::{TCP, UDP};

    #[test]
    fn every_form_prints_as_it_is_written() {
        for text in [
            "tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet",
            "tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet out spokes",
            "udp [2600::1]:53 -> [2600:1::9]:1024 in ext",
            "icmp 192.0.2.1 -> 192.0.2.2 echo-request in internet",
            "icmp 192.0.2.1 -> 192.0.2.2 destination-unreachable/4 in internet",
            "icmpv6 2600::1 -> 2600::2 packet-too-big in internet",
            "icmpv6 2600::1 -> 2600::2 200/3 in internet",
            "proto/47 192.0.2.1 -> 192.0.2.2 in internet",
        ] {
            assert_eq!(text.parse::<PacketText>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_point_at_the_word() {
        for (text, column, message) in [
            ("", 1, "a protocol: tcp, udp, icmp, icmpv6 or proto/N is missing"),
            ("tpc 1.1.1.1:1 -> 2.2.2.2:2 in a", 1, "`tpc` is not a protocol: did you mean `tcp`?"),
            ("tcp 1.1.1.1 -> 2.2.2.2:2 in a", 5, "`1.1.1.1` is not an address and a port"),
            ("tcp 1.1.1.1:1 > 2.2.2.2:2 in a", 15, "expected `->`, found `>`"),
            ("tcp 1.1.1.1:1 -> 2.2.2.2:2", 27, "`in` is missing"),
            ("tcp 1.1.1.1:1 -> 2.2.2.2:2 in a b", 33, "`b` is not expected here"),
            ("tcp 1.1.1.1:1 -> 2.2.2.2:2 in a out", 36, "the zone by which it leaves is missing"),
            ("tcp 1.1.1.1:1 -> 2.2.2.2:2 in a out b c", 39, "nothing more is expected here"),
            ("tcp 1.1.1.1:1 -> [::1]:2 in a", 1, "source and destination are not of one"),
            ("icmp ::1 -> ::2 echo-request in a", 1, "IPv6 addresses go with icmpv6"),
            ("icmp 1.1.1.1 -> 2.2.2.2 ping in a", 25, "`ping` is not an ICMP type"),
            ("proto/6 1.1.1.1 -> 2.2.2.2 in a", 1, "protocol 6 has a name here"),
            ("udp [fe80::1%3]:1 -> [fe80::2]:1 in a", 5, "`[fe80::1%3]:1` has a scope"),
        ] {
            let error = text.parse::<PacketText>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("column {column}: {message}")), "{text}: {error}");
        }
    }

    fn transports() -> impl Strategy<Value = Transport> {
        let unnamed = |p: &u8| ![1, TCP, UDP, 58].contains(p);
        prop_oneof![
            any::<(u16, u16)>().prop_map(|(source_port, destination_port)| Transport::Tcp {
                source_port,
                destination_port
            }),
            any::<(u16, u16)>().prop_map(|(source_port, destination_port)| Transport::Udp {
                source_port,
                destination_port
            }),
            any::<(u8, u8)>().prop_map(|(kind, code)| Transport::Icmp { kind, code }),
            any::<(u8, u8)>().prop_map(|(kind, code)| Transport::Icmpv6 { kind, code }),
            any::<u8>()
                .prop_filter("named", unnamed)
                .prop_map(|protocol| Transport::Other { protocol }),
        ]
    }

    proptest! {
        #[test]
        fn printing_can_be_read_again(
            v4 in any::<[std::net::Ipv4Addr; 2]>(), v6 in any::<[std::net::Ipv6Addr; 2]>(),
            is_v4 in any::<bool>(), transport in transports(),
            from in "[a-z0-9-]{1,9}", out in prop::option::of("[a-z0-9-]{1,9}"),
        ) {
            let is_v4 = match transport {
                Transport::Icmp { .. } => true,
                Transport::Icmpv6 { .. } => false,
                Transport::Tcp { .. } | Transport::Udp { .. } | Transport::Other { .. } => is_v4,
            };
            let (source, destination) =
                if is_v4 { (v4[0].into(), v4[1].into()) } else { (v6[0].into(), v6[1].into()) };
            let packet = PacketText { source, destination, transport, from, out };
            prop_assert_eq!(packet.to_string().parse::<PacketText>().unwrap(), packet);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<PacketText>();
        }

        #[test]
        fn reading_mutated_packets_never_panics(at in 0_usize..60, byte in any::<char>()) {
            let mut text = "icmp 192.0.2.1 -> 192.0.2.2 destination-unreachable/4 in internet out a".to_owned();
            text.insert(at, byte);
            let _ = text.parse::<PacketText>();
        }
    }
}
