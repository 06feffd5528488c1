//! Address translation as a rule set describes it; the engine carries it out.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::{Transport, ZoneId};

/// A NAT rule: its index among all NAT rules of the policy, in their written order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NatId(pub u16);

/// What destination NAT may look at: the packet as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatQuery {
    pub from: ZoneId,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
}

/// Destination NAT: the packet goes to one of `targets` instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationNat {
    pub id: NatId,
    pub name: String,
    /// Where the rule stands in the policy text, from 1.
    pub line: u32,
    /// All of one family, that of the addresses which the rule publishes; never empty.
    pub targets: Vec<IpAddr>,
    /// `None` keeps the destination port.
    pub target_port: Option<u16>,
}

/// Ports on which destination NAT publishes a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Of one family.
    pub addresses: RangeInclusive<IpAddr>,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    pub ports: RangeInclusive<u16>,
}

/// Source NAT: the packet leaves with another source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceNat {
    pub id: NatId,
    pub name: String,
    /// Where the rule stands in the policy text, from 1.
    pub line: u32,
    pub address: SourceAddress,
    /// Ports (or ICMP query identifiers) that the translation may use.
    pub ports: RangeInclusive<u16>,
    /// How many of them one source may hold at once, on all addresses and of all protocols together
    /// (RFC 6888 REQ-4). Default: `flows_per_source` of the flood limits.
    pub ports_per_source: u32,
    pub mapping: Mapping,
    pub filtering: Filtering,
}

/// A NAT rule of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatRule {
    Destination(DestinationNat),
    Source(SourceNat),
}

impl NatRule {
    pub fn id(&self) -> NatId {
        match self {
            Self::Destination(rule) => rule.id,
            Self::Source(rule) => rule.id,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Destination(rule) => &rule.name,
            Self::Source(rule) => &rule.name,
        }
    }

    /// Where the rule stands in the policy text, from 1.
    pub fn line(&self) -> u32 {
        match self {
            Self::Destination(rule) => rule.line,
            Self::Source(rule) => rule.line,
        }
    }
}

/// Which source address a translated packet gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceAddress {
    /// The node's own address on the interface by which the packet leaves.
    OwnAddress,
    /// One of these ranges, all of the packet's family; never empty.
    Pool(Vec<RangeInclusive<IpAddr>>),
}

/// RFC 4787 section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// One external endpoint per internal endpoint, whatever the destination (REQ-1).
    EndpointIndependent,
    /// A port per connection, shared between connections whose remote endpoints differ (RFC 7857
    /// section 3). The default for `direction: inbound`.
    Symmetric,
}

/// RFC 4787 section 5: who may send to an external endpoint that a mapping has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filtering {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}
