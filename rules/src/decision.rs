//! The question that the engine asks of a rule set, and the answer.

use std::net::IpAddr;

/// A zone of the policy: index into [`RuleSet::zones`](crate::RuleSet::zones).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZoneId(pub u16);

/// A rule, or the pseudo-rule of a zone pair: index into [`RuleSet::rules`](crate::RuleSet::rules).
///
/// The written rules come first, in their order; behind them stands one default rule per ordered
/// zone pair, so that every decision has a name and a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// What a rule may look at: the first packet of a flow, after destination NAT and before source NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    pub from: ZoneId,
    pub to: ZoneId,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
}

/// The transport header as far as rules can match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp {
        source_port: u16,
        destination_port: u16,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    /// ICMP for IPv4.
    Icmp {
        kind: u8,
        code: u8,
    },
    /// ICMP for IPv6.
    Icmpv6 {
        kind: u8,
        code: u8,
    },
    /// Any other IP protocol number, which has no ports.
    Other {
        protocol: u8,
    },
}

/// What a rule does with the packets that it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    /// Silently.
    Drop,
    /// With an answer: TCP gets a RST, all else ICMP "administratively prohibited".
    Reject,
}

impl Action {
    /// As the policy, the API and the logs write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Drop => "drop",
            Self::Reject => "reject",
        }
    }
}

/// How much of what a rule decides is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogMode {
    None,
    /// A bounded number of records per rule and second; the rest is counted and the number logged.
    Sampled,
    /// Every record, up to the node's own bound, beyond which the number suppressed is logged.
    All,
}

impl LogMode {
    /// As the policy writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sampled => "sampled",
            Self::All => "all",
        }
    }
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub rule: RuleId,
    pub action: Action,
    pub log: LogMode,
}
