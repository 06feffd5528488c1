//! Where in the kernel programs look at frames.

/// A place of programs on a frame's way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Behind the driver and its merging of packets, before the stack.
    Tc,
    /// In the driver. What it leaves goes on to the other.
    Xdp,
}

impl Hook {
    pub const ALL: [Self; 2] = [Self::Tc, Self::Xdp];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }

    /// What a program says of a frame that it has sent to an interface.
    pub const fn sent(self) -> u32 {
        match self {
            // TC_ACT_REDIRECT of linux/pkt_cls.h.
            Self::Tc => 7,
            // XDP_REDIRECT of linux/bpf.h.
            Self::Xdp => 4,
        }
    }

    /// What it says of one that goes on as if there were no program.
    pub const fn left(self) -> u32 {
        match self {
            // TC_ACT_UNSPEC.
            Self::Tc => u32::MAX,
            // XDP_PASS.
            Self::Xdp => 2,
        }
    }

    /// The program of data interfaces, by its name in `bpf`.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Tc => "fast_path",
            Self::Xdp => "fast_path_xdp",
        }
    }
}

/// Where programs are to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HookChoice {
    /// XDP before tc where hardware has a place for it.
    #[default]
    Auto,
    /// The same wherever a driver has a place for it.
    Xdp,
    Tc,
}
