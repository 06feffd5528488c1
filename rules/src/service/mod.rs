//! Services as the policy writes them: `tcp/443`, `udp/53->1024-65535`, `icmp/echo-request`,
//! `proto/47`, or an object's name.

pub(crate) mod icmp;
mod set;

use std::fmt;
use std::ops::RangeInclusive;

use crate::diagnostic::suggestion;
use crate::term::{self, TermError, is_name};

pub(crate) use icmp::IcmpFamily;
pub(crate) use set::{ANY_SERVICE, ServiceBox, ServiceSet, service_key};

/// IANA protocol numbers that have a name of their own here.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// What a service matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    Tcp(Ports),
    Udp(Ports),
    /// With `None`, every type; every code.
    Icmp(IcmpFamily, Option<u8>, Option<u8>),
    Protocol(u8),
}

/// Ports of a service; [`ALL_PORTS`] where it names none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub source: RangeInclusive<u16>,
    pub destination: RangeInclusive<u16>,
}

pub(crate) const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// A word of a service list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServiceWord<'t> {
    Service(Service),
    Object(&'t str),
}

const PROTOCOLS: [&str; 5] = ["tcp", "udp", "icmp", "icmpv6", "proto"];

/// Words that cannot be the name of a service object.
pub(crate) fn is_protocol(word: &str) -> bool {
    PROTOCOLS.contains(&word)
}

/// Reads a service or an object's name.
pub(crate) fn parse_service_word(word: &str) -> Result<ServiceWord<'_>, TermError> {
    let (protocol, rest) = match word.split_once('/') {
        Some((protocol, rest)) => (protocol, Some(rest)),
        None => (word, None),
    };
    let service = match (protocol, rest) {
        ("tcp", ports) => Service::Tcp(parse_ports(word, ports)?),
        ("udp", ports) => Service::Udp(parse_ports(word, ports)?),
        ("icmp", rest) => parse_icmp(word, IcmpFamily::V4, rest)?,
        ("icmpv6", rest) => parse_icmp(word, IcmpFamily::V6, rest)?,
        ("proto", rest) => Service::Protocol(parse_protocol(word, rest)?),
        (name, None) if is_name(name) => return Ok(ServiceWord::Object(name)),
        (unknown, _) => {
            let near = suggestion(unknown, PROTOCOLS);
            let help = "write tcp/443, udp/27015-27030, icmp/echo-request, proto/47 or the name of \
                        an object";
            let help = if near.is_empty() { help.to_owned() } else { near };
            return Err(TermError::new(format!("`{word}` is not a service"), help));
        }
    };
    Ok(ServiceWord::Service(service))
}

/// Reads `443`, `27015-27030`, or either behind the source's ports and an arrow.
fn parse_ports(word: &str, rest: Option<&str>) -> Result<Ports, TermError> {
    let Some(rest) = rest else {
        return Ok(Ports { source: ALL_PORTS, destination: ALL_PORTS });
    };
    match rest.split_once("->") {
        Some((source, destination)) => Ok(Ports {
            source: parse_port_range(word, source)?,
            destination: parse_port_range(word, destination)?,
        }),
        None => Ok(Ports { source: ALL_PORTS, destination: parse_port_range(word, rest)? }),
    }
}

/// Reads `443`, `27015-27030` or `any`. `word` is what an error shows.
pub(crate) fn parse_port_range(word: &str, text: &str) -> Result<RangeInclusive<u16>, TermError> {
    if text == "any" {
        return Ok(ALL_PORTS);
    }
    let port = |text: &str| {
        let help = "ports are numbers from 0 to 65535, as in 443 or 27015-27030";
        let error = || TermError::new(format!("`{text}` in `{word}` is not a port"), help);
        term::number::<u16>(text).ok_or_else(error)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        let message = format!("the range {first}-{last} is the wrong way round");
        return Err(TermError::new(message, format!("did you mean `{last}-{first}`?")));
    }
    Ok(first..=last)
}

fn parse_icmp(word: &str, family: IcmpFamily, rest: Option<&str>) -> Result<Service, TermError> {
    let Some(rest) = rest else {
        return Ok(Service::Icmp(family, None, None));
    };
    let (kind, code) = match rest.split_once('/') {
        Some((kind, code)) => (kind, Some(code)),
        None => (rest, None),
    };
    let known = || icmp::names(family).iter().map(|(name, _)| *name);
    let number = icmp::kind_number(family, kind).ok_or_else(|| {
        let near = suggestion(kind, known());
        let help = if near.is_empty() { known().collect::<Vec<_>>().join(", ") } else { near };
        TermError::new(format!("`{kind}` in `{word}` is not an ICMP type"), help)
    })?;
    let error = || TermError::new(format!("`{word}` has no code from 0 to 255"), "");
    let code = code.map(|code| term::number(code).ok_or_else(error)).transpose()?;
    Ok(Service::Icmp(family, Some(number), code))
}

/// Reads a protocol number that has no name of its own.
pub(crate) fn parse_protocol(word: &str, rest: Option<&str>) -> Result<u8, TermError> {
    let number: Option<u8> = rest.and_then(term::number);
    let help = "write the number from 0 to 255, as in `proto/47` for GRE";
    let number =
        number.ok_or_else(|| TermError::new(format!("`{word}` has no protocol number"), help))?;
    let named = match number {
        ICMP => "icmp",
        TCP => "tcp",
        UDP => "udp",
        ICMPV6 => "icmpv6",
        _ => return Ok(number),
    };
    let message = format!("protocol {number} has a name here");
    Err(TermError::new(message, format!("did you mean `{named}`?")))
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(ports) => write!(f, "tcp{ports}"),
            Self::Udp(ports) => write!(f, "udp{ports}"),
            Self::Icmp(family, kind, code) => {
                f.write_str(match family {
                    IcmpFamily::V4 => "icmp",
                    IcmpFamily::V6 => "icmpv6",
                })?;
                if let Some(kind) = kind {
                    write!(f, "/{}", icmp::kind_name(*family, *kind))?;
                }
                code.map_or(Ok(()), |code| write!(f, "/{code}"))
            }
            Self::Protocol(number) => write!(f, "proto/{number}"),
        }
    }
}

/// With the slash in front; nothing for all ports.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.destination) {
            (&ALL_PORTS, &ALL_PORTS) => Ok(()),
            (&ALL_PORTS, destination) => write!(f, "/{}", print_port_range(destination)),
            (source, destination) => {
                write!(f, "/{}->{}", print_port_range(source), print_port_range(destination))
            }
        }
    }
}

pub(crate) fn print_port_range(range: &RangeInclusive<u16>) -> String {
    match (*range.start(), *range.end()) {
        (0, u16::MAX) => "any".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn printed(word: &str) -> String {
        match parse_service_word(word).unwrap() {
            ServiceWord::Service(service) => service.to_string(),
            ServiceWord::Object(name) => format!("object {name}"),
        }
    }

    #[test]
    fn every_form_has_one_canonical_text() {
        for (word, canonical) in [
            ("tcp", "tcp"),
            ("tcp/0-65535", "tcp"),
            ("tcp/any", "tcp"),
            ("tcp/443", "tcp/443"),
            ("udp/27015-27030", "udp/27015-27030"),
            ("udp/53->any", "udp/53->any"),
            ("udp/any->53", "udp/53"),
            ("udp/123->123", "udp/123->123"),
            ("icmp", "icmp"),
            ("icmp/8", "icmp/echo-request"),
            ("icmp/destination-unreachable/4", "icmp/destination-unreachable/4"),
            ("icmp/200/1", "icmp/200/1"),
            ("icmpv6/128", "icmpv6/echo-request"),
            ("proto/47", "proto/47"),
            ("https", "object https"),
        ] {
            assert_eq!(printed(word), canonical, "{word}");
            if !canonical.starts_with("object") {
                assert_eq!(printed(canonical), canonical);
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for word in [
            "",
            "tcp/",
            "tcp/65536",
            "tcp/9-1",
            "tcp/a",
            "tcp/1-2-3",
            "tcp/1->",
            "proto",
            "proto/6",
            "proto/256",
            "icmp/echo",
            "icmp/8/",
            "icmp/8/256",
            "sctp/9",
            "HTTPS",
            "icmp/packet-too-big",
        ] {
            assert!(parse_service_word(word).is_err(), "{word}");
        }
    }
}
