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
}
