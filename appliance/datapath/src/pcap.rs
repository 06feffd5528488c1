//! Captures: the reader and the writer of the classic format, and a datapath between files.
//!
//! The format is libpcap's (draft-ietf-opsawg-pcap), link type Ethernet, both byte orders, with
//! microseconds or nanoseconds. Written are nanoseconds in the machine's order. Of frames that the
//! kernel had not finished (partial checksum, superframe) the bytes are written as they are.

mod device;

use std::io::{self, Read, Write};
use std::time::Duration;

pub use device::{OpenPcapError, PcapDatapath};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;

/// Largest record that is read or written: libpcap's own limit (MAXIMUM_SNAPLEN).
const MAX_RECORD_BYTES: u32 = 262_144;

/// A frame with the time at which it was captured, counted from 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub time: Duration,
    pub bytes: Vec<u8>,
}

/// Why a capture can not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadPcapError {
    #[error("not a capture in the classic pcap format: it begins with {0:#010x}")]
    Magic(u32),
    #[error("the capture has link type {0}, only Ethernet (1) is understood")]
    LinkType(u32),
    #[error("a record of {bytes} bytes is larger than the {MAX_RECORD_BYTES} that are allowed")]
    RecordTooLarge { bytes: u32 },
    #[error("the capture ends within a record or can not be read")]
    Read(#[from] io::Error),
}

#[derive(Debug, Clone, Copy)]
enum ByteOrder {
    Native,
    Swapped,
}

impl ByteOrder {
    const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Native => u32::from_ne_bytes(bytes),
            Self::Swapped => u32::from_ne_bytes(bytes).swap_bytes(),
        }
    }
}

/// Reads records one after the other; ends after the first error.
#[derive(Debug)]
pub struct PcapReader<R> {
    input: R,
    order: ByteOrder,
    nanoseconds_per_fraction: u32,
    ended: bool,
}

impl<R: Read> PcapReader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// When it is none of an Ethernet capture.
    pub fn new(mut input: R) -> Result<Self, ReadPcapError> {
        let [magic, _version, _zone, _accuracy, _snap_length, link_type] = read_words(&mut input)?;
        let (order, nanoseconds_per_fraction) = match u32::from_ne_bytes(magic) {
            MAGIC_MICROSECONDS => (ByteOrder::Native, 1000),
            MAGIC_NANOSECONDS => (ByteOrder::Native, 1),
            other if other.swap_bytes() == MAGIC_MICROSECONDS => (ByteOrder::Swapped, 1000),
            other if other.swap_bytes() == MAGIC_NANOSECONDS => (ByteOrder::Swapped, 1),
            other => return Err(ReadPcapError::Magic(other)),
        };
        // The upper bits tell of a frame check sequence.
        let link_type = order.u32(link_type) & 0xffff;
        if link_type != LINKTYPE_ETHERNET {
            return Err(ReadPcapError::LinkType(link_type));
        }
        Ok(Self { input, order, nanoseconds_per_fraction, ended: false })
    }

    fn read_record(&mut self) -> Result<Option<Record>, ReadPcapError> {
        let mut first = [0; 1];
        if self.input.read(&mut first)? == 0 {
            return Ok(None);
        }
        let [seconds, fraction, captured, _length] =
            read_words(&mut first.as_slice().chain(&mut self.input))?
                .map(|word| self.order.u32(word));
        if captured > MAX_RECORD_BYTES {
            return Err(ReadPcapError::RecordTooLarge { bytes: captured });
        }
        let mut bytes = vec![0; captured as usize];
        self.input.read_exact(&mut bytes)?;
        let nanoseconds = u64::from(fraction) * u64::from(self.nanoseconds_per_fraction);
        let time = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds);
        Ok(Some(Record { time, bytes }))
    }
}

impl<R: Read> Iterator for PcapReader<R> {
    type Item = Result<Record, ReadPcapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.read_record();
        self.ended = !matches!(record, Ok(Some(_)));
        record.transpose()
    }
}

/// Writes frames to a capture.
#[derive(Debug)]
pub struct PcapWriter<W> {
    output: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// When the output refuses.
    pub fn new(mut output: W) -> io::Result<Self> {
        let version = [2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat();
        output.write_all(&MAGIC_NANOSECONDS.to_ne_bytes())?;
        output.write_all(&version)?;
        for word in [0, 0, MAX_RECORD_BYTES, LINKTYPE_ETHERNET] {
            output.write_all(&word.to_ne_bytes())?;
        }
        Ok(Self { output })
    }

    /// Writes one frame, cut where the format's limit is.
    ///
    /// # Errors
    /// When the output refuses.
    pub fn write(&mut self, time: Duration, frame: &[u8]) -> io::Result<()> {
        let captured = frame.len().min(MAX_RECORD_BYTES as usize);
        // The format's clock ends in 2106.
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for word in [seconds, time.subsec_nanos(), captured as u32, length] {
            self.output.write_all(&word.to_ne_bytes())?;
        }
        self.output.write_all(&frame[..captured])
    }

    /// # Errors
    /// When the output refuses.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    pub fn into_inner(self) -> W {
        self.output
    }
}

fn read_words<const N: usize>(input: &mut impl Read) -> io::Result<[[u8; 4]; N]> {
    let mut words = [[0; 4]; N];
    for word in &mut words {
        input.read_exact(word)?;
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
