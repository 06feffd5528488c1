//! Files that somebody else may have written, or that an accident has damaged.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use gabion_datapath::{PcapReader, PcapWriter, Record};
use gabiond::store::{Files, NewRevision, Store};
use time::OffsetDateTime;

/// What is read of a capture is written and read again as the same; a record's length is not
/// believed before its bytes are there.
pub(crate) fn pcap(bytes: &[u8]) {
    let Ok(reader) = PcapReader::new(bytes) else { return };
    let records: Vec<Record> = reader.map_while(Result::ok).collect();
    let total: usize = records.iter().map(|record| record.bytes.len() + 16).sum();
    assert!(total <= bytes.len(), "more was read than is there");
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    // The format's clock has 32 bits, and the fraction of a hostile file is more than a second.
    let plain = |record: &&Record| record.time.as_secs() <= u64::from(u32::MAX);
    let plain: Vec<&Record> = records.iter().filter(plain).collect();
    for record in &plain {
        writer.write(record.time, &record.bytes).unwrap();
    }
    let written = writer.into_inner();
    let again: Vec<Record> =
        PcapReader::new(written.as_slice()).unwrap().map(Result::unwrap).collect();
    assert!(again.iter().eq(plain), "what was written is read as something else");
}

/// A state directory in memory.
#[derive(Debug, Clone, Default)]
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let here = self.0.keys().filter(|path| path.parent() == Some(directory));
        Ok(here.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn create_directory(&mut self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(path.to_owned(), bytes.to_owned());
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = self.0.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.0.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn sync_directory(&mut self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.0.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

const DIRECTORY: &str = "/state";
const TEXTS: [&str; 3] = ["first: policy\n", "second: policy\n", "third: policy\n"];

fn new_revision(policy: &str) -> NewRevision<'_> {
    NewRevision {
        policy,
        digest: "0123",
        author: "fuzz",
        comment: "",
        rules: 1,
        committed_at: OffsetDateTime::UNIX_EPOCH,
    }
}

/// Three revisions, then accidents: files changed, cut, gone, or put in each other's place. What
/// comes into force is one of the three texts, or nothing; numbers are not used twice, and the
/// next commit works.
pub(crate) fn store(bytes: &[u8]) {
    let directory = Path::new(DIRECTORY);
    let mut files = Memory::default();
    for text in TEXTS {
        let (mut store, ..) = Store::open(Borrowed(&mut files), directory, 10).unwrap();
        store.commit(new_revision(text)).unwrap();
    }
    let intact = files.clone();
    damage(&mut files, bytes);
    let touched = files.0 != intact.0;

    let (mut store, in_force, notices) =
        Store::open(Borrowed(&mut files), directory, 10).expect("damage is no error");
    if let Some(stored) = &in_force {
        assert!(TEXTS.contains(&stored.policy.as_str()), "{stored:?} was never committed");
        assert_eq!(store.current(), stored.revision.number);
    } else {
        assert!(touched, "nothing happened, and nothing is in force");
    }
    assert!(touched || notices.is_empty(), "{notices:?}");
    let before = store.list(10).map(|revision| revision.number).max().unwrap_or(0);
    let committed = store.commit(new_revision("fourth: policy\n")).unwrap();
    assert!(committed.number > before.max(in_force.map_or(0, |stored| stored.revision.number)));
    drop(store);
    let (_, in_force, _) = Store::open(Borrowed(&mut files), directory, 10).unwrap();
    assert_eq!(in_force.unwrap().policy, "fourth: policy\n");
}

fn damage(files: &mut Memory, mut bytes: &[u8]) {
    let mut take = || {
        let (first, rest) = bytes.split_first()?;
        bytes = rest;
        Some(usize::from(*first))
    };
    while let Some(kind) = take() {
        let paths: Vec<PathBuf> = files.0.keys().cloned().collect();
        let Some(path) = paths.get(take().unwrap_or(0) % paths.len().max(1)) else { return };
        let (place, value) = (take().unwrap_or(0), take().unwrap_or(0));
        let other = paths[place % paths.len()].clone();
        let content = files.0.get_mut(path).expect("it was listed");
        match kind % 7 {
            0 => content.truncate(place),
            1 => content.insert(place.min(content.len()), value as u8),
            2 | 3 if !content.is_empty() => {
                let place = place % content.len();
                content[place] = value as u8;
            }
            4 => drop(files.0.remove(path)),
            5 => {
                let content = content.clone();
                files.0.insert(other, content);
            }
            _ => {
                let name = ["current.new", "revisions/000009.json", "revisions/x.json", "x"];
                let content = content.clone();
                files.0.insert(Path::new(DIRECTORY).join(name[place % name.len()]), content);
            }
        }
    }
}

/// The store owns its files; the accident needs them afterwards.
#[derive(Debug)]
struct Borrowed<'a>(&'a mut Memory);

impl Files for Borrowed<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }

    fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        self.0.create_directory(path)
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.write(path, bytes)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        self.0.sync_directory(directory)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
}
