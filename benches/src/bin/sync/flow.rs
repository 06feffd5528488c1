//! The packets of connections, each from a client of its own or nearly so.

use gabion_benches::{EXTERNAL, INTERNAL};
use gabion_engine::build::{self, FrameBuilder};
use gabion_engine::{Engine, Frame, InterfaceId, Offload, Time, Verdict};

/// Connections of one client: fewer than one source may have.
const PORTS: u32 = 5_000;
const SERVER: &str = "10.1.0.10:443";

/// A packet and where it comes in.
pub(crate) type Arriving = (InterfaceId, Vec<u8>);

/// What comes of connection `number`, in order: the handshake, some data, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet {
    Syn,
    SynAck,
    Ack,
    Data,
    Reset,
}

impl Packet {
    pub(crate) fn of(self, number: u32) -> Arriving {
        let client = client(number);
        let forth = || build::tcp().from(&client).to(SERVER).window(9_000);
        let back = || build::tcp().from(SERVER).to(&client).window(9_000);
        let arriving = |from, builder: FrameBuilder| (from, builder.frame());
        match self {
            Self::Syn => arriving(EXTERNAL, forth().syn().seq(1_000).mss(1_360)),
            Self::SynAck => arriving(INTERNAL, back().syn().seq(5_000).ack(1_001).mss(1_360)),
            Self::Ack => arriving(EXTERNAL, forth().seq(1_001).ack(5_001)),
            Self::Data => {
                arriving(EXTERNAL, forth().seq(1_001).ack(5_001).psh().payload(&[0x55; 64]))
            }
            Self::Reset => arriving(EXTERNAL, forth().seq(1_001).ack(5_001).rst()),
        }
    }
}

fn client(number: u32) -> String {
    let (host, port) = (number / PORTS, 10_000 + number % PORTS);
    format!("20.0.{}.{}:{port}", host / 250, 1 + host % 250)
}

/// Has an engine decide these; returns how many it forwards.
pub(crate) fn pass(engine: &mut Engine, now: Time, arriving: &mut [Arriving]) -> usize {
    let mut forwarded = 0;
    for (from, bytes) in arriving {
        let mut frame = Frame { bytes, offload: Offload::default() };
        let verdict = engine.handle_frame(now, *from, &mut frame);
        forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
    }
    while engine.poll_event().is_some() {}
    forwarded
}
