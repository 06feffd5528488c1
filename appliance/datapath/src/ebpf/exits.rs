//! What became of packets that the programs have seen, by name.

/// `enum exit` of `bpf/layout.h`, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Forwarded,
    ForwardedEarly,
    Wrapped,
    Unwrapped,
    NotIp,
    NoFlow,
    Stale,
    WrongZone,
    OtherHost,
    Header,
    Fragment,
    Protocol,
    HopLimit,
    TcpFlags,
    TcpOptions,
    TcpWindow,
    TooBig,
    NoNeighbour,
    Refused,
    Unconfirmed,
    NoPeer,
    OtherHead,
    Challenged,
}

impl Exit {
    pub const ALL: [Self; 23] = [
        Self::Forwarded,
        Self::ForwardedEarly,
        Self::Wrapped,
        Self::Unwrapped,
        Self::NotIp,
        Self::NoFlow,
        Self::Stale,
        Self::WrongZone,
        Self::OtherHost,
        Self::Header,
        Self::Fragment,
        Self::Protocol,
        Self::HopLimit,
        Self::TcpFlags,
        Self::TcpOptions,
        Self::TcpWindow,
        Self::TooBig,
        Self::NoNeighbour,
        Self::Refused,
        Self::Unconfirmed,
        Self::NoPeer,
        Self::OtherHead,
        Self::Challenged,
    ];

    /// The name in metrics: how it was moved, that it was answered, or why the engine had to look.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::ForwardedEarly => "forwarded-xdp",
            Self::Wrapped => "wrapped",
            Self::Unwrapped => "unwrapped",
            Self::NotIp => "not-ip",
            Self::NoFlow => "no-flow",
            Self::Stale => "stale",
            Self::WrongZone => "wrong-zone",
            Self::OtherHost => "other-host",
            Self::Header => "header",
            Self::Fragment => "fragment",
            Self::Protocol => "protocol",
            Self::HopLimit => "hop-limit",
            Self::TcpFlags => "tcp-flags",
            Self::TcpOptions => "tcp-options",
            Self::TcpWindow => "tcp-window",
            Self::TooBig => "too-big",
            Self::NoNeighbour => "no-neighbour",
            Self::Refused => "refused",
            Self::Unconfirmed => "unconfirmed",
            Self::NoPeer => "no-peer",
            Self::OtherHead => "other-header",
            Self::Challenged => "challenged",
        }
    }

    /// Whether the program has done all that is to be done with the packet.
    pub const fn is_moved(self) -> bool {
        matches!(
            self,
            Self::Forwarded
                | Self::ForwardedEarly
                | Self::Wrapped
                | Self::Unwrapped
                | Self::Challenged
        )
    }

    /// What it means, in a sentence.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Forwarded => "Moved at tc.",
            Self::ForwardedEarly => "Moved by XDP, before the stack.",
            Self::Wrapped => "Handed over to the node whose flow it is of.",
            Self::Unwrapped => "Taken from the node that handed it over, and moved.",
            Self::NotIp => "No IP, or it has a VLAN tag: ARP, mostly.",
            Self::NoFlow => "Of a flow that is not settled, or of none.",
            Self::Stale => {
                "Of a flow that is to be judged anew: the policy or the network has changed."
            }
            Self::WrongZone => "Its flow's packets come in by another zone, or by another node.",
            Self::OtherHost => "Sent to another link address.",
            Self::Header => "IP options, extension headers, a wrong header checksum, or cut off.",
            Self::Fragment => "A fragment: those wait until they are whole.",
            Self::Protocol => "Neither TCP nor UDP, or a superframe of UDP between nodes.",
            Self::HopLimit => "It has been on its way for too long: the sender is told.",
            Self::TcpFlags => "A segment that opens, closes or resets a connection.",
            Self::TcpOptions => "A segment with options beside timestamps and SACK.",
            Self::TcpWindow => {
                "A segment outside the connection's windows: the engine looks again."
            }
            Self::TooBig => "Longer than the way on carries: the sender is told, or it is cut.",
            Self::NoNeighbour => "The next hop's link address is not known, or has changed.",
            Self::Refused => "The kernel would not change the frame.",
            Self::Unconfirmed => "gabiond has not turned for a while, and nobody ends flows.",
            Self::NoPeer => "The node whose flow it is of is silent, or there is no way to it.",
            Self::OtherHead => "From another node, with another header than its flow's.",
            Self::Challenged => "A SYN in a flood whose source was asked whether it is there.",
        }
    }
}
