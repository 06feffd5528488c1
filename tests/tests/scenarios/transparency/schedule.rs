//! What a run's number stands for: a place, two programs, and how bad the network is.

use std::net::IpAddr;

use gabion_tests::random::Random;
use smoltcp::time::Duration;

use super::host::Program;

/// Who connects to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Plain,
    DestinationNat,
    SourceNat,
    Ipv6,
}

impl Place {
    /// Client and server, as they are.
    pub(super) fn hosts(self) -> [(IpAddr, u16); 2] {
        let (client, server) = match self {
            Self::Plain | Self::DestinationNat => ("198.51.100.9", "10.1.0.10"),
            Self::SourceNat => ("10.1.0.10", "198.51.100.9"),
            Self::Ipv6 => ("2600:9::9", "2600:2::10"),
        };
        [(client.parse().unwrap(), 40_000), (server.parse().unwrap(), 443)]
    }

    /// The server as the client knows it.
    pub(super) fn called(self) -> (IpAddr, u16) {
        match self {
            Self::DestinationNat => (IpAddr::from([203, 0, 113, 7]), 443),
            Self::Plain | Self::SourceNat | Self::Ipv6 => self.hosts()[1],
        }
    }

    pub(super) const fn is_outbound(self) -> bool {
        matches!(self, Self::SourceNat)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) place: Place,
    pub(super) programs: [Program; 2],
    /// Frames of a thousand that are lost, repeated, or come up to two seconds later.
    pub(super) loss: u64,
    pub(super) repeat: u64,
    pub(super) late: u64,
    /// Milliseconds that any frame may take.
    pub(super) delay: u64,
}

impl Schedule {
    pub(super) fn draw(random: &mut Random) -> Self {
        use Place::{DestinationNat, Ipv6, Plain, SourceNat};
        let mut programs = [program(random), program(random)];
        if !programs[1].closes_first {
            programs[0].closes_first = true;
        }
        let loss = random.pick(&[0, 10, 50, 200]);
        for program in &mut programs {
            // smoltcp probes a window of zero and no small one: a lost update stops it for good.
            program.keep_alive = program
                .keep_alive
                .filter(|_| loss == 0)
                .or_else(|| (loss > 0).then_some(Duration::from_millis(500)));
        }
        Self {
            place: random.pick(&[Plain, DestinationNat, SourceNat, Ipv6]),
            programs,
            loss,
            repeat: random.pick(&[0, 20, 200]),
            late: random.pick(&[0, 0, 20, 100]),
            delay: random.pick(&[1, 10, 50, 300]),
        }
    }
}

fn program(random: &mut Random) -> Program {
    let buffer = random.pick(&[2_000, 4_000, 65_535, 200_000, 1 << 20]);
    // Small buffers make many segments of few bytes.
    let most = random.pick(&[1, 2_000, 20 * buffer.min(20_000)]);
    Program {
        sends: random.below(most as u64) as usize,
        reads: random.pick(&[100, 5_000, 1 << 20]),
        pause: random.pick(&[0, 0, 0, 20, 700]),
        closes_first: random.is_one_in(2),
        buffer,
        nagle: random.is_one_in(2),
        // Each one that comes sets the timer of smoltcp's retransmissions anew: more often than that, and
        // nothing that was lost is sent again.
        keep_alive: random.is_one_in(4).then_some(Duration::from_secs(30)),
        timestamps: random.is_one_in(3),
        mtu: random.pick(&[1_500, 1_500, 1_280, 576]),
    }
}
