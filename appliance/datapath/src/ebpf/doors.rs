//! What comes to one of several workers: packets behind doors of its own. The programs and all that has to do with
//! interfaces are the first worker's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::layout::Control;
use super::mapping::SharedArray;
use crate::{Datapath, UserspaceDatapath};

/// What a datapath behind doors leaves to its packet sockets (`slow`).
macro_rules! behind_doors {
    () => {
        fn watch(&mut self, readable: std::os::fd::OwnedFd) {
            self.slow.watch(readable);
        }

        fn watched(&self) -> bool {
            self.slow.watched()
        }

        fn receive(
            &mut self,
            budget: u32,
            handle: &mut dyn FnMut(&mut [$crate::FrameMut<'_>]),
        ) -> std::io::Result<u32> {
            self.slow.receive(budget, handle)
        }

        fn transmit(&mut self, port: $crate::Port, bytes: &[u8], vnet: $crate::VnetHeader) -> bool {
            self.slow.transmit(port, bytes, vnet)
        }

        fn transmit_buffer(
            &mut self,
            port: $crate::Port,
            buffer: &mut Vec<u8>,
            place: std::ops::Range<usize>,
            vnet: $crate::VnetHeader,
        ) -> bool {
            self.slow.transmit_buffer(port, buffer, place, vnet)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.slow.flush()
        }

        fn counters(&self, port: $crate::Port) -> $crate::PortCounters {
            self.slow.counters(port)
        }

        fn port_count(&self) -> u16 {
            self.slow.port_count()
        }

        fn port_up(&self, port: $crate::Port) -> bool {
            self.slow.port_up(port)
        }

        fn waker(&self) -> $crate::Waker {
            self.slow.waker()
        }

        fn probe(&mut self) -> Result<(), $crate::ProbeError> {
            self.slow.probe()
        }
    };
}
pub(super) use behind_doors;

/// Packet sockets at a worker's doors. The doors are there as long as the first worker's datapath. To be used by one
/// thread.
#[derive(Debug)]
pub struct DoorsDatapath {
    pub(super) slow: UserspaceDatapath,
    pub(super) control: Arc<SharedArray<Control>>,
    pub(super) worker: u16,
    pub(super) unconfirmed: Option<Duration>,
}

impl Datapath for DoorsDatapath {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.slow.wait(timeout)?;
        self.control[usize::from(self.worker)].confirm(self.unconfirmed);
        Ok(())
    }

    behind_doors!();
}
