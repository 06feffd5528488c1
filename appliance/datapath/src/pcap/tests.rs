#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::{Datapath, Port, PortCounters};

fn write(records: &[Record]) -> Vec<u8> {
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    for record in records {
        writer.write(record.time, &record.bytes).unwrap();
    }
    writer.into_inner()
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, ReadPcapError> {
    PcapReader::new(bytes)?.collect()
}

fn record(seconds: u64, bytes: &[u8]) -> Record {
    Record { time: Duration::from_secs(seconds), bytes: bytes.to_vec() }
}

proptest! {
    #[test]
    fn reading_gives_what_was_written(
        frames in proptest::collection::vec(
            (any::<u32>(), 0..1_000_000_000_u32, proptest::collection::vec(any::<u8>(), 0..200)),
            0..8,
        )
    ) {
        let records: Vec<Record> = frames
            .into_iter()
            .map(|(seconds, nanos, bytes)| Record { time: Duration::new(seconds.into(), nanos), bytes })
            .collect();
        prop_assert_eq!(read(&write(&records)).unwrap(), records);
    }

    #[test]
    fn reading_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), whole: bool) {
        if whole {
            bytes.splice(0..0, write(&[]));
        }
        let _ = read(&bytes);
    }
}

#[test]
fn the_other_byte_order_and_microseconds_are_read() {
    let words: [u32; 10] =
        [MAGIC_MICROSECONDS, 0x0002_0004, 0, 0, 65535, 1, /* record */ 5, 7, 4, 60];
    let mut bytes: Vec<u8> =
        words.iter().flat_map(|word| word.swap_bytes().to_ne_bytes()).collect();
    bytes.extend(b"cut!");
    let expected = Record { time: Duration::new(5, 7000), bytes: b"cut!".to_vec() };
    assert_eq!(read(&bytes).unwrap(), [expected]);
}

#[test]
fn what_is_no_ethernet_capture_is_refused_by_name() {
    assert!(matches!(read(&[0xff; 24]), Err(ReadPcapError::Magic(0xffff_ffff))));
    assert!(matches!(read(b"short"), Err(ReadPcapError::Read(_))));
    let mut bytes = write(&[]);
    bytes[20..24].copy_from_slice(&113_u32.to_ne_bytes());
    assert!(matches!(read(&bytes), Err(ReadPcapError::LinkType(113))));
}

#[test]
fn a_cut_file_ends_with_an_error_after_its_whole_records() {
    let bytes = write(&[record(1, b"one"), record(2, b"two")]);
    let mut reader = PcapReader::new(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(reader.next().unwrap().unwrap(), record(1, b"one"));
    assert!(matches!(reader.next(), Some(Err(ReadPcapError::Read(_)))));
    assert!(reader.next().is_none());
}

#[test]
fn a_record_beyond_the_limit_is_refused_before_memory_is_taken() {
    let mut bytes = write(&[]);
    for word in [0, 0, u32::MAX, u32::MAX] {
        bytes.extend(word.to_ne_bytes());
    }
    assert!(matches!(read(&bytes), Err(ReadPcapError::RecordTooLarge { bytes: u32::MAX })));
}

#[test]
fn the_device_plays_by_time_and_writes_what_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    std::fs::write(path("a.pcap"), write(&[record(1, b"a1"), record(3, b"a3")])).unwrap();
    std::fs::write(path("b.pcap"), write(&[record(2, b"b2")])).unwrap();
    let mut datapath = PcapDatapath::open(&[
        (Some(&path("a.pcap")), &path("a.out")),
        (Some(&path("b.pcap")), &path("b.out")),
    ])
    .unwrap();

    let mut seen = Vec::new();
    while !datapath.is_finished() {
        datapath.wait(None).unwrap();
        let turn = datapath.receive(1, &mut |frames| {
            for frame in frames {
                seen.push(frame.bytes.to_vec());
                frame.out = Some(Port(1 - frame.from.0));
            }
        });
        assert_eq!(turn.unwrap(), 1);
    }
    assert!(datapath.transmit(Port(0), b"own", crate::VnetHeader::default()));
    datapath.flush().unwrap();

    assert_eq!(seen, [b"a1", b"b2", b"a3"]);
    let written = |name| read(&std::fs::read(path(name)).unwrap()).unwrap();
    assert_eq!(written("b.out"), [record(1, b"a1"), record(3, b"a3")]);
    assert_eq!(written("a.out"), [record(2, b"b2"), record(3, b"own")]);
    assert_eq!(
        datapath.counters(Port(0)),
        PortCounters { received: 2, sent: 2, ..PortCounters::default() }
    );
}

#[test]
fn the_device_names_the_file_that_does_not_open() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.pcap");
    let output = directory.path().join("out.pcap");
    let error = PcapDatapath::open(&[(Some(&missing), &output)]).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}", missing.display()));
}
