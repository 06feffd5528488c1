//! Small packets at the kernel's speed: established flows, and flows that begin.
//!
//! Packets are made in the client, inside the kernel, and whatever forwards them runs in the maker's own software
//! interrupt, and so does what takes them at the server. A datapath that is a program of its own shares the processor
//! with the maker: of the established ones it gets more than it can take, and loses the rest.

mod generator;

use std::time::Duration;

use anyhow::ensure;

pub(crate) use self::generator::{DESTINATIONS, SERVICE};
use self::generator::{Generator, Stream};
use crate::Interrupt;
use crate::lab::{Place, set_polling};

/// Of one run, as to begin and to end one takes 30 ms.
const PACKETS_PER_RUN: u32 = 1 << 18;
/// What fits into all queues of all arms: nothing that is to begin is lost.
const BURST: u32 = 1_024;
const BURSTS_PER_SECOND: u32 = 20;
/// The same for packets that wait for nobody, as each flow has as many of them as it needs.
const PRIMING_BURST: u32 = 1_792;
const PRIMING_SETTLE: Duration = Duration::from_millis(3);
/// How long a burst may be under way when all of it has been made.
const SETTLE: Duration = Duration::from_millis(10);
/// Each flow has had a reply, and another packet to be settled by.
const PRIMED: u32 = 3;
const PRIMED_WITHIN: u32 = 12;
/// Flows have the same endpoint inside for each so many destinations.
const PORTS: u64 = 1_024;
/// Flows that begin come from so many ports of the client in turn.
const PORTS_OF_NEW: u64 = 40_000;
/// Behind all that established flows use, and more than ever begin.
const FIRST_NEW: u64 = PORTS_OF_NEW * 4_096;
const NEVER_TWICE: u64 = PORTS_OF_NEW * 60_000;
/// Of the smallest frame of Ethernet, whose check sequence is not there on a veth.
const SMALLEST: usize = 60;

/// A generator at an arm that is ready for it, until dropped.
#[derive(Debug)]
pub(crate) struct Packets {
    place: Place,
    generator: Generator,
}

impl Packets {
    pub(crate) fn begin(place: &Place) -> anyhow::Result<Self> {
        set_polling(place, true)?;
        let generator = Generator::new(place)?;
        Ok(Self { place: place.clone(), generator })
    }

    /// Sends a packet of every flow there and back, until all of them have been.
    pub(crate) fn prime(&mut self, flows: u64, interrupt: &Interrupt) -> anyhow::Result<()> {
        let stream = Stream { bytes: SMALLEST, flows, ports: PORTS, echo: true, to_the_end: true };
        let bursts = flows.div_ceil(PRIMING_BURST.into());
        let sent = bursts * u64::from(PRIMING_BURST);
        let (mut complete, mut returned) = (0, 0);
        for _ in 0..PRIMED_WITHIN {
            returned = 0;
            for _ in 0..bursts {
                interrupt.check()?;
                returned += self.generator.run(stream, PRIMING_BURST, PRIMING_SETTLE)?.returned;
            }
            complete += u32::from(returned * 1_000 >= sent * 999);
            if complete == PRIMED || (complete > 0 && flows > u64::from(PACKETS_PER_RUN)) {
                return Ok(());
            }
        }
        anyhow::bail!("of {sent} packets of {flows} flows only {returned} came back");
    }

    /// Packets of established flows a second.
    pub(crate) fn forward(
        &mut self,
        bytes: usize,
        flows: u64,
        seconds: u32,
        interrupt: &Interrupt,
    ) -> anyhow::Result<f64> {
        let stream = Stream { bytes, flows, ports: PORTS, echo: false, to_the_end: false };
        let (mut arrived, mut took) = (0, Duration::ZERO);
        while took < Duration::from_secs(seconds.into()) {
            interrupt.check()?;
            let ran = self.generator.run(stream, PACKETS_PER_RUN, Duration::ZERO)?;
            ensure!(ran.arrived > 0 && ran.took > Duration::ZERO, "no packet arrives");
            arrived += ran.arrived;
            took += ran.took;
        }
        Ok(arrived as f64 / took.as_secs_f64())
    }

    /// First packets a second, each of a flow of its own; in bursts, from the first that is made to the last that arrives.
    pub(crate) fn begin_flows(
        &mut self,
        seconds: u32,
        interrupt: &Interrupt,
    ) -> anyhow::Result<f64> {
        let stream = Stream {
            bytes: SMALLEST,
            flows: NEVER_TWICE,
            ports: PORTS_OF_NEW,
            echo: false,
            to_the_end: true,
        };
        self.generator.skip_to(FIRST_NEW);
        let (mut arrived, mut took) = (0, Duration::ZERO);
        for _ in 0..seconds * BURSTS_PER_SECOND {
            interrupt.check()?;
            let ran = self.generator.run(stream, BURST, SETTLE)?;
            arrived += ran.arrived;
            took += ran.took;
        }
        let sent = u64::from(seconds * BURSTS_PER_SECOND * BURST);
        ensure!(arrived * 100 >= sent * 99, "{arrived} of {sent} first packets arrived");
        Ok(arrived as f64 / took.as_secs_f64())
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        // Namespaces go at the end in any case.
        let _ = set_polling(&self.place, false);
    }
}
