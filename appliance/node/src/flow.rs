//! Flows as people see them: with names instead of numbers. And which of them somebody asked for.

use std::net::IpAddr;
use std::time::Duration;

use gabion_engine::{Endpoint, FlowKey, FlowReport, Time, Usage};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::generations::Names;

/// A flow with all names resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    pub id: u64,
    #[serde(serialize_with = "protocol_text")]
    pub protocol: u8,
    pub source: Side,
    pub destination: Side,
    /// What leaves the node in the original direction, where NAT changes anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated: Option<Sides>,
    pub from_zone: String,
    pub to_zone: String,
    pub rule: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nat_rules: Vec<String>,
    pub state: &'static str,
    pub original: Traffic,
    pub reply: Traffic,
    #[serde(serialize_with = "seconds", rename = "age_s")]
    pub age: Duration,
    #[serde(skip)]
    pub expires_in: Duration,
}

/// An address with a port, or with an ICMP query identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Side {
    pub address: IpAddr,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sides {
    pub source: Side,
    pub destination: Side,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// IANA protocol numbers that have names here.
const PROTOCOLS: [(u8, &str); 4] = [(6, "tcp"), (17, "udp"), (1, "icmp"), (58, "icmpv6")];

impl Flow {
    /// Reads a report, as of `now`, in the names of its generation.
    pub fn new(report: &FlowReport, names: &Names, now: Time) -> Self {
        let leaves = report.reply.reversed();
        let nat = [report.destination_nat, report.source_nat];
        Self {
            id: report.id.0,
            protocol: report.original.protocol,
            source: report.original.source.into(),
            destination: report.original.destination.into(),
            translated: (leaves != report.original).then(|| leaves.into()),
            from_zone: names.zone(report.from),
            to_zone: names.zone(report.to),
            rule: names.rule(report.rule),
            nat_rules: nat.into_iter().flatten().map(|id| names.nat(id)).collect(),
            state: report.state.label(),
            original: report.original_usage.into(),
            reply: report.reply_usage.into(),
            age: now.since(report.opened),
            expires_in: report.expires.since(now),
        }
    }
}

impl From<Endpoint> for Side {
    fn from(endpoint: Endpoint) -> Self {
        Self { address: endpoint.address.to_ip(), port: endpoint.port }
    }
}

impl From<FlowKey> for Sides {
    fn from(key: FlowKey) -> Self {
        Self { source: key.source.into(), destination: key.destination.into() }
    }
}

impl From<Usage> for Traffic {
    fn from(usage: Usage) -> Self {
        Self { packets: usage.packets, bytes: usage.bytes }
    }
}

/// `tcp`, `udp`, `icmp`, `icmpv6`, or the number.
pub fn protocol_label(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string(), |(_, label)| (*label).to_owned())
}

fn protocol_text<S: Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&protocol_label(*number))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e3).round() / 1e3)
}

/// Which flows are asked for; all that is set must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlowFilter {
    pub protocol: Option<u8>,
    pub source: Option<IpNet>,
    pub destination: Option<IpNet>,
    pub port: Option<u16>,
    pub rule: Option<String>,
    pub zone: Option<String>,
    pub state: Option<String>,
}

/// Why a filter is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowFilterError {
    #[error("`{0}` is no protocol: write tcp, udp, icmp, icmpv6 or a number from 0 to 255")]
    Protocol(String),
    #[error(
        "`{0}` is neither an address nor a prefix: write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32"
    )]
    Prefix(String),
    #[error("{0} is no port: 0 to 65,535")]
    Port(u32),
    #[error(
        "`{0}` is no state: syn-sent, syn-received, established, closing, closed, unreplied or replied"
    )]
    State(String),
}

/// Every `FlowState::label`.
const STATES: [&str; 7] =
    ["syn-sent", "syn-received", "established", "closing", "closed", "unreplied", "replied"];

impl FlowFilter {
    /// # Errors
    /// When it is neither a known name nor a number.
    pub fn protocol(text: &str) -> Result<u8, FlowFilterError> {
        let known = PROTOCOLS.iter().find(|(_, label)| *label == text).map(|(number, _)| *number);
        known
            .or_else(|| text.parse().ok())
            .ok_or_else(|| FlowFilterError::Protocol(text.to_owned()))
    }

    /// An address stands for itself alone.
    ///
    /// # Errors
    /// When it is neither an address nor a prefix.
    pub fn prefix(text: &str) -> Result<IpNet, FlowFilterError> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| address()).map_err(|_| FlowFilterError::Prefix(text.to_owned()))
    }

    /// # Errors
    /// When flows have no such state.
    pub fn state(text: &str) -> Result<String, FlowFilterError> {
        if STATES.contains(&text) {
            Ok(text.to_owned())
        } else {
            Err(FlowFilterError::State(text.to_owned()))
        }
    }

    /// Whether a flow is one of those that are asked for.
    pub fn admits(&self, flow: &Flow) -> bool {
        let translated =
            flow.translated.unwrap_or(Sides { source: flow.source, destination: flow.destination });
        let sources = [flow.source, translated.source];
        let destinations = [flow.destination, translated.destination];
        let within = |net: &Option<IpNet>, sides: &[Side]| {
            net.is_none_or(|net| sides.iter().any(|side| net.contains(&side.address)))
        };
        let is = |wanted: &Option<String>, names: &[&str]| {
            wanted.as_ref().is_none_or(|wanted| names.contains(&wanted.as_str()))
        };
        self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && within(&self.source, &sources)
            && within(&self.destination, &destinations)
            && self.port.is_none_or(|port| {
                sources.iter().chain(&destinations).any(|side| side.port == port)
            })
            && is(&self.rule, &[&flow.rule])
            && is(&self.zone, &[&flow.from_zone, &flow.to_zone])
            && is(&self.state, &[flow.state])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn side(text: &str) -> Side {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Side { address: address.ip(), port: address.port() }
    }

    fn flow() -> Flow {
        Flow {
            id: 7,
            protocol: 6,
            source: side("198.51.100.9:40000"),
            destination: side("203.0.113.7:443"),
            translated: Some(Sides {
                source: side("10.0.0.4:1024"),
                destination: side("10.1.0.10:8443"),
            }),
            from_zone: "internet".into(),
            to_zone: "spokes".into(),
            rule: "web-in".into(),
            nat_rules: vec!["publish-web".into()],
            state: "established",
            original: Traffic { packets: 1, bytes: 60 },
            reply: Traffic { packets: 0, bytes: 0 },
            age: Duration::from_millis(1500),
            expires_in: Duration::from_secs(30),
        }
    }

    fn filter(change: impl FnOnce(&mut FlowFilter)) -> FlowFilter {
        let mut filter = FlowFilter::default();
        change(&mut filter);
        filter
    }

    #[test]
    fn each_field_admits_and_refuses() {
        let net = |text| Some(FlowFilter::prefix(text).unwrap());
        let name = |text: &str| Some(text.to_owned());
        for (filter, expected) in [
            (FlowFilter::default(), true),
            (filter(|f| f.protocol = Some(6)), true),
            (filter(|f| f.protocol = Some(17)), false),
            (filter(|f| f.source = net("198.51.100.9")), true),
            (filter(|f| f.source = net("10.0.0.0/24")), true),
            (filter(|f| f.source = net("10.1.0.0/24")), false),
            (filter(|f| f.destination = net("203.0.113.0/24")), true),
            (filter(|f| f.destination = net("10.1.0.10/32")), true),
            (filter(|f| f.destination = net("::/0")), false),
            (filter(|f| f.port = Some(40000)), true),
            (filter(|f| f.port = Some(8443)), true),
            (filter(|f| f.port = Some(80)), false),
            (filter(|f| f.rule = name("web-in")), true),
            (filter(|f| f.rule = name("web")), false),
            (filter(|f| f.zone = name("spokes")), true),
            (filter(|f| f.zone = name("internet")), true),
            (filter(|f| f.zone = name("mgmt")), false),
            (filter(|f| f.state = name("established")), true),
            (filter(|f| f.state = name("closed")), false),
            (filter(|f| (f.protocol, f.port) = (Some(6), Some(80))), false),
        ] {
            assert_eq!(filter.admits(&flow()), expected, "{filter:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(FlowFilter::protocol("tcp"), Ok(6));
        assert_eq!(FlowFilter::protocol("47"), Ok(47));
        for error in [
            FlowFilter::protocol("tpc").unwrap_err(),
            FlowFilter::prefix("tpc").unwrap_err(),
            FlowFilter::state("tpc").unwrap_err(),
        ] {
            assert!(error.to_string().starts_with("`tpc` is n"), "{error}");
        }
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_value(flow()).unwrap();
        assert_eq!(json["protocol"], "tcp");
        assert_eq!(json["age_s"], 1.5);
        assert_eq!(json["translated"]["destination"]["port"], 8443);
    }
}
