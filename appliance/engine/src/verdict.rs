//! What becomes of a frame: a closed list, with one name for each member everywhere.

use crate::{InterfaceId, NodeId, WorkerId};

/// What the engine decided about one frame. Every frame gets exactly one final verdict, counted once;
/// `Held` is not final: the frame is counted when it is released or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the frame, rewritten in place, out of this interface.
    Forward { out: InterfaceId },
    /// It goes on by `poll_transmit`: cut to the next link's MTU.
    Queued { out: InterfaceId },
    /// It goes on by `poll_wrapped`: to the node that owns its flow, or knows who does.
    ToPeer { node: NodeId },
    /// It has been handed to the engine of this node that has its flow, which counts it anew.
    ToWorker { worker: WorkerId },
    /// Leave the frame to the host's own stack: ARP, ND, management and health.
    Local,
    /// The frame asked the appliance itself something and the answer is queued (ARP, ND).
    Answered,
    /// Kept until more is known: the rest of a datagram, or a neighbour's link address.
    Held,
    /// Gone, silently.
    Drop(DropReason),
    /// Gone, and the sender is told: an ICMP error or a RST is queued, within its rate limit, or a challenge.
    Reject(DropReason),
}

/// One list gives the enum, its labels, its help texts and its counter indices.
macro_rules! drop_reasons {
    ($($(#[doc = $help:literal])+ $variant:ident => $label:literal,)+) => {
        /// Why a frame was dropped or rejected.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[doc = $help])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name of the reason in metrics, logs, traces and docs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// What the sender did, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help,)+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    // Before anything is known.
    /// No policy is loaded, or the guard of the host stack is not in place.
    NotReady => "not-ready",
    /// The frame came in by an interface that no zone of the policy lists.
    NoZone => "no-zone",
    /// The frame is shorter than its Ethernet header, or longer than a slot of the ring.
    FrameTruncated => "frame-truncated",
    /// The frame carries neither IPv4, IPv6 nor ARP.
    NotIp => "not-ip",
    /// The frame is addressed to another link-layer address.
    OtherHost => "other-host",

    // Malformed: dropped before rules.
    /// The IP header is shorter or longer than it says, or has the wrong version (RFC 791, RFC 8200).
    IpHeader => "ip-header",
    /// The IPv4 header checksum is wrong (RFC 1812 section 5.2.2).
    IpChecksum => "ip-checksum",
    /// The IPv4 header carries an option other than end of list and no-operation (RFC 7126).
    IpOption => "ip-option",
    /// An IPv6 extension header is unknown, repeated, out of order, past the end, or names a home
    /// address that is not its flow's (RFC 9288, RFC 6092 REC-27).
    ExtensionHeader => "extension-header",
    /// A source address that no host may use: multicast, loopback, unspecified, reserved (RFC 6890).
    MartianSource => "martian-source",
    /// A destination that is never forwarded: multicast, loopback, link-local, reserved (RFC 6890).
    MartianDestination => "martian-destination",
    /// The source lies outside the networks of the zone that it came from (BCP 38).
    SpoofedSource => "spoofed-source",
    /// Source and destination are the same address (LAND).
    Land => "land",
    /// The transport header is shorter than it must be.
    TransportTruncated => "transport-truncated",
    /// A checksum of the transport header is wrong.
    TransportChecksum => "transport-checksum",
    /// A TCP or UDP port of zero, which is reserved (RFC 6335 section 6).
    PortZero => "port-zero",
    /// TCP flags that no correct host sends together, such as SYN with FIN or none at all.
    TcpFlags => "tcp-flags",
    /// An ICMP message of a type that never crosses a router, or is not supported (RFC 4890).
    IcmpType => "icmp-type",

    // Fragments.
    /// A fragment with an impossible offset or length (RFC 791, RFC 8200 section 4.5).
    FragmentInvalid => "fragment-invalid",
    /// A first fragment too short for its transport header (RFC 1858, RFC 7112).
    FragmentTiny => "fragment-tiny",
    /// Fragments that overlap: the whole datagram goes (RFC 5722).
    FragmentOverlap => "fragment-overlap",
    /// A fragment that is kept already, byte for byte.
    FragmentDuplicate => "fragment-duplicate",
    /// A datagram whose fragments did not all come in time.
    FragmentTimeout => "fragment-timeout",
    /// No room for another fragment.
    FragmentTableFull => "fragment-table-full",

    // ICMP errors.
    /// An ICMP error about a packet of no known flow (RFC 5508 REQ-4, RFC 6092 REC-10).
    IcmpErrorUnmatched => "icmp-error-unmatched",
    /// An ICMP error whose quoted packet the flow can not have sent (RFC 5927).
    IcmpErrorForged => "icmp-error-forged",

    // Flows.
    /// A TCP segment other than a SYN that belongs to no flow.
    TcpNotSyn => "tcp-not-syn",
    /// A TCP segment outside the window that the receiver has offered (RFC 5961, RFC 9293).
    TcpWindow => "tcp-window",
    /// A TCP segment that the state of its connection does not permit.
    TcpState => "tcp-state",
    /// An ICMP reply to no query that is known.
    IcmpUnsolicited => "icmp-unsolicited",
    /// A packet of a flow that came in by another zone than the flow's.
    WrongZone => "wrong-zone",
    /// A packet to an external endpoint whose mapping does not admit this sender (RFC 4787 section 5).
    NatFiltered => "nat-filtered",

    // Rules.
    /// A rule says drop.
    RuleDrop => "rule-drop",
    /// A rule says reject.
    RuleReject => "rule-reject",

    // NAT.
    /// No address that the NAT rule may use is there, or none of the packet's family.
    NatNoAddress => "nat-no-address",
    /// Every port that the NAT rule may use is taken.
    NatPortsExhausted => "nat-ports-exhausted",
    /// The source holds as many ports as its NAT rule lets one source hold (RFC 6888 REQ-4).
    NatPortQuota => "nat-port-quota",
    /// The translated packet would be taken for one of another flow.
    NatConflict => "nat-conflict",

    // Limits.
    /// The flow table is full.
    FlowTableFull => "flow-table-full",
    /// The table of NAT mappings is full.
    MappingTableFull => "mapping-table-full",
    /// Too many TCP connections are half open, in all or towards this destination.
    HalfOpenLimit => "half-open-limit",
    /// A SYN of an unknown source while many TCP connections are half open: it was asked whether it is there, with an
    /// acknowledgement that it answers with a RST (RFC 9293 section 3.10.7.3).
    SynChallenged => "syn-challenged",
    /// The RST that answers a challenge: the next SYN of its source may begin a connection.
    ChallengeMet => "challenge-met",
    /// The source has as many flows, or as many half-open connections, as one source may have.
    SourceQuota => "source-quota",
    /// The source has begun as many flows in this second as one source may begin.
    SourceRate => "source-rate",

    // Forwarding.
    /// The packet is addressed to the node, which offers nothing there.
    ToNode => "to-node",
    /// The packet's TTL or hop limit has run out.
    TtlExpired => "ttl-expired",
    /// The packet is larger than the next link takes and must not be fragmented.
    TooBig => "too-big",
    /// No route leads to the destination.
    NoRoute => "no-route",
    /// The route leads out of an interface that no zone of the policy lists.
    NoZoneOut => "no-zone-out",
    /// The next hop did not answer ARP or ND.
    NeighbourUnresolved => "neighbour-unresolved",
    /// The packet's flow was revoked, or ended, while the packet waited for a neighbour.
    FlowEnded => "flow-ended",
    /// Too many packets wait for a neighbour already.
    NeighbourQueueFull => "neighbour-queue-full",
    /// More frames are queued for sending than the queue takes.
    TransmitQueueFull => "transmit-queue-full",

    // Several workers.
    /// Too many packets wait for the worker that has their flow.
    WorkerQueueFull => "worker-queue-full",

    // Several nodes.
    /// No node has said that it owns the packet's flow, and the packet may not begin one.
    NoOwner => "no-owner",
    /// The packet's rule is strict, and no other node has said in time that it knows of the flow.
    NotRegistered => "not-registered",
    /// Too many packets wait for word from other nodes, or to be sent there.
    PeerQueueFull => "peer-queue-full",
    /// A TCP segment to a side that is reached no more: the node that its packets went by has died, and
    /// they still go there. Both sides are told that the connection is over.
    LegLost => "leg-lost",
    /// A wrapped packet that is no member's: its tag is wrong.
    PeerForged => "peer-forged",
    /// A wrapped packet that is not as it must be (RFC 8926).
    PeerMalformed => "peer-malformed",
    /// A wrapped packet that has come before.
    PeerReplayed => "peer-replayed",
}

impl DropReason {
    /// Whether a table, a quota or a rate was used up, rather than the packet being at fault.
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Self::FragmentTableFull
                | Self::NatPortsExhausted
                | Self::NatPortQuota
                | Self::FlowTableFull
                | Self::MappingTableFull
                | Self::HalfOpenLimit
                | Self::SynChallenged
                | Self::SourceQuota
                | Self::SourceRate
                | Self::NeighbourQueueFull
                | Self::TransmitQueueFull
                | Self::WorkerQueueFull
                | Self::PeerQueueFull
        )
    }

    /// The index of the reason's counter.
    pub const fn index(self) -> usize {
        self as usize
    }
}
