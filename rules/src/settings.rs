//! The policy's settings, validated: timers and flood limits. Table sizes belong to the node.

use std::time::Duration;

/// `settings:` of the policy with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub profile: Profile,
    pub timeouts: Timeouts,
    pub flood: FloodLimits,
}

/// Which packets are refused before any rule, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// What the RFCs ask of a router and a firewall.
    Standard,
    /// Also what the Common Criteria module for stateful traffic filters asks and the RFCs do not:
    /// IPv6 unicast outside 2000::/3 as source or destination (FFW_RUL_EXT.1.6).
    StrictCc,
}

impl Profile {
    /// As the policy writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::StrictCc => "strict-cc",
        }
    }
}

/// Idle timers; every one can be set from 1 s to 7 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// SYN seen, handshake not complete. Default 30 s; RFC 5382 REQ-5 asks 240 s, RFC 7857
    /// section 2.1 lets security lower it.
    pub tcp_opening: Duration,
    /// Default 7,440 s (RFC 5382 REQ-5: 2 h 04 min).
    pub tcp_established: Duration,
    /// A FIN from both sides; a half-closed connection keeps `tcp_established`. Default 240 s (RFC
    /// 5382 REQ-5).
    pub tcp_closing: Duration,
    /// After an exact RST or both FINs acknowledged. Default 10 s.
    pub tcp_closed: Duration,
    /// Default 300 s (RFC 4787 REQ-5c).
    pub udp: Duration,
    /// UDP without a reply yet. Default 120 s (RFC 4787 REQ-5).
    pub udp_unreplied: Duration,
    /// Default 60 s (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// Other protocols. Default 300 s (RFC 6092 REC-12).
    pub other: Duration,
    /// A datagram whose fragments are incomplete. Default 5 s.
    pub fragment: Duration,
}

/// An idle timer by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Timer {
    TcpOpening,
    TcpEstablished,
    TcpClosing,
    TcpClosed,
    Udp,
    UdpUnreplied,
    Icmp,
    Other,
    Fragment,
}

impl Timer {
    pub(crate) const ALL: [Self; 9] = [
        Self::TcpOpening,
        Self::TcpEstablished,
        Self::TcpClosing,
        Self::TcpClosed,
        Self::Udp,
        Self::UdpUnreplied,
        Self::Icmp,
        Self::Other,
        Self::Fragment,
    ];

    /// As the policy writes it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::TcpOpening => "tcp-opening",
            Self::TcpEstablished => "tcp-established",
            Self::TcpClosing => "tcp-closing",
            Self::TcpClosed => "tcp-closed",
            Self::Udp => "udp",
            Self::UdpUnreplied => "udp-unreplied",
            Self::Icmp => "icmp",
            Self::Other => "other",
            Self::Fragment => "fragment",
        }
    }
}

impl Timeouts {
    pub(crate) fn get(mut self, timer: Timer) -> Duration {
        *self.get_mut(timer)
    }

    pub(crate) fn get_mut(&mut self, timer: Timer) -> &mut Duration {
        match timer {
            Timer::TcpOpening => &mut self.tcp_opening,
            Timer::TcpEstablished => &mut self.tcp_established,
            Timer::TcpClosing => &mut self.tcp_closing,
            Timer::TcpClosed => &mut self.tcp_closed,
            Timer::Udp => &mut self.udp,
            Timer::UdpUnreplied => &mut self.udp_unreplied,
            Timer::Icmp => &mut self.icmp,
            Timer::Other => &mut self.other,
            Timer::Fragment => &mut self.fragment,
        }
    }
}

/// What one source, or all together, may hold; 0 is refused, there is no "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// TCP flows whose handshake is not complete, on the whole node. Default 16,384.
    pub half_open: u32,
    /// The same per destination address and port. Default 4,096.
    pub half_open_per_destination: u32,
    /// The same per source address. Default 2,048.
    pub half_open_per_source: u32,
    /// Flows per source address. Default 16,384.
    pub flows_per_source: u32,
    /// New flows that one source address may begin in a second, and at once. Default 10,000.
    pub new_flows_per_source_per_second: u32,
    /// ICMP errors, RSTs and other answers that the node makes, per second. Default 1,000.
    pub answers_per_second: u32,
    /// Log records per rule and second under `log: sampled`. Default 10.
    pub sampled_logs_per_second: u32,
    /// Log records per rule and second under `log: all`. Default 10,000.
    pub all_logs_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        const fn seconds(n: u64) -> Duration {
            Duration::from_secs(n)
        }
        Self {
            profile: Profile::Standard,
            timeouts: Timeouts {
                tcp_opening: seconds(30),
                tcp_established: seconds(7_440),
                tcp_closing: seconds(240),
                tcp_closed: seconds(10),
                udp: seconds(300),
                udp_unreplied: seconds(120),
                icmp: seconds(60),
                other: seconds(300),
                fragment: seconds(5),
            },
            flood: FloodLimits {
                half_open: 16_384,
                half_open_per_destination: 4_096,
                half_open_per_source: 2_048,
                flows_per_source: 16_384,
                new_flows_per_source_per_second: 10_000,
                answers_per_second: 1_000,
                sampled_logs_per_second: 10,
                all_logs_per_second: 10_000,
            },
        }
    }
}
