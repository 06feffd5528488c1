//! A datapath between capture files: each port reads one and writes one.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::iter::Peekable;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Duration;

use super::{PcapReader, PcapWriter, ReadPcapError};
use crate::{Datapath, FrameMut, Port, PortCounters, ProbeError, VnetHeader, Waker};

/// Why a capture did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenPcapError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: ReadPcapError,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the descriptor that ends a wait")]
    Signal(#[source] io::Error),
}

/// Plays captures: frames come in by the order of their times over all ports, and what is sent is
/// written with the time of the frame that was received last.
#[derive(Debug)]
pub struct PcapDatapath {
    ports: Vec<PcapPort>,
    now: Duration,
    waker: Waker,
    /// Of others, which end a wait too.
    watched: Vec<OwnedFd>,
}

#[derive(Debug)]
struct PcapPort {
    input: Option<Peekable<PcapReader<BufReader<File>>>>,
    output: PcapWriter<BufWriter<File>>,
    counters: PortCounters,
}

impl PcapDatapath {
    /// Opens a port for each pair: the capture to be received, if any, and the one to be written.
    ///
    /// # Errors
    /// When an input is no Ethernet capture or an output can not be made.
    pub fn open(files: &[(Option<&Path>, &Path)]) -> Result<Self, OpenPcapError> {
        let open_port = |&(input, output): &(Option<&Path>, &Path)| {
            Ok(PcapPort {
                input: input.map(open_reader).transpose()?,
                output: open_writer(output)?,
                counters: PortCounters::default(),
            })
        };
        Ok(Self {
            ports: files.iter().map(open_port).collect::<Result<_, _>>()?,
            now: Duration::ZERO,
            waker: Waker::new().map_err(OpenPcapError::Signal)?,
            watched: Vec::new(),
        })
    }

    /// Whether all that the inputs held has been received.
    pub fn is_finished(&mut self) -> bool {
        self.next_port().is_none()
    }

    /// The time of the frame that was received last.
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// The port whose next record is the oldest; a broken record comes first, to be told.
    fn next_port(&mut self) -> Option<usize> {
        let next_times = self.ports.iter_mut().enumerate().filter_map(|(index, port)| {
            let record = port.input.as_mut()?.peek()?;
            Some((record.as_ref().map_or(Duration::ZERO, |record| record.time), index))
        });
        next_times.min().map(|(_, index)| index)
    }

    fn send(&mut self, out: Port, bytes: &[u8]) -> bool {
        let port = &mut self.ports[usize::from(out.0)];
        let written = port.output.write(self.now, bytes).is_ok();
        if written {
            port.counters.sent += 1;
        } else {
            port.counters.transmit_drops += 1;
        }
        written
    }
}

fn open_reader(path: &Path) -> Result<Peekable<PcapReader<BufReader<File>>>, OpenPcapError> {
    File::open(path)
        .map_err(ReadPcapError::Read)
        .and_then(|file| PcapReader::new(BufReader::new(file)))
        .map(Iterator::peekable)
        .map_err(|source| OpenPcapError::Read { path: path.to_owned(), source })
}

fn open_writer(path: &Path) -> Result<PcapWriter<BufWriter<File>>, OpenPcapError> {
    File::create(path)
        .and_then(|file| PcapWriter::new(BufWriter::new(file)))
        .map_err(|source| OpenPcapError::Write { path: path.to_owned(), source })
}

impl Datapath for PcapDatapath {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.is_finished() { self.waker.wait(&self.watched, timeout) } else { Ok(()) }
    }

    fn watch(&mut self, readable: OwnedFd) {
        self.watched.push(readable);
    }

    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32> {
        for handled in 0..budget {
            let Some(from) = self.next_port() else { return Ok(handled) };
            let port = &mut self.ports[from];
            let Some(record) = port.input.as_mut().and_then(Iterator::next) else {
                return Ok(handled);
            };
            let mut record = record.map_err(io::Error::other)?;
            port.counters.received += 1;
            self.now = record.time;
            let (from, vnet) = (Port(from as u16), VnetHeader::default());
            let mut frame = FrameMut { from, bytes: &mut record.bytes, vnet, out: None };
            handle(slice::from_mut(&mut frame));
            if let Some(out) = frame.out {
                self.send(out, &record.bytes);
            }
        }
        Ok(budget)
    }

    fn transmit(&mut self, port: Port, bytes: &[u8], _vnet: VnetHeader) -> bool {
        self.send(port, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ports.iter_mut().try_for_each(|port| port.output.flush())
    }

    fn counters(&self, port: Port) -> PortCounters {
        self.ports[usize::from(port.0)].counters
    }

    fn port_count(&self) -> u16 {
        self.ports.len() as u16
    }

    fn port_up(&self, port: Port) -> bool {
        port.0 < self.port_count()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn probe(&mut self) -> Result<(), ProbeError> {
        Ok(())
    }
}
