#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

/// A disk in memory that dies or fails at a chosen operation. What was not synced may be lost.
#[derive(Debug, Clone, Default)]
struct Crashing {
    /// What is on the disk for certain.
    durable: BTreeMap<PathBuf, Vec<u8>>,
    /// Directory entries changed since their directory was synced, in order.
    pending: Vec<Change>,
    /// Writing operations until the end.
    left: Option<usize>,
    end: End,
    /// After a crash nothing works any more.
    dead: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    /// The process dies half-way through the operation.
    #[default]
    Crash,
    /// This operation and all later writes find the disk full; removing still works.
    Full,
}

#[derive(Debug, Clone)]
enum Change {
    Set(PathBuf, Vec<u8>),
    Rename(PathBuf, PathBuf, Vec<u8>),
    Remove(PathBuf),
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<PathBuf, Vec<u8>>) {
        match self {
            Self::Set(path, bytes) => drop(entries.insert(path.clone(), bytes.clone())),
            Self::Rename(from, to, bytes) => {
                entries.remove(from);
                entries.insert(to.clone(), bytes.clone());
            }
            Self::Remove(path) => drop(entries.remove(path)),
        }
    }
}

impl Crashing {
    fn now(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut entries = self.durable.clone();
        self.pending.iter().for_each(|change| change.apply(&mut entries));
        entries
    }

    /// Every disk that may be found after a power failure at this moment.
    fn after_power_failure(&self) -> Vec<Self> {
        assert!(self.pending.len() < 12, "{:?}", self.pending);
        (0..1_u32 << self.pending.len())
            .map(|kept| {
                let mut durable = self.durable.clone();
                for (index, change) in self.pending.iter().enumerate() {
                    if kept & (1 << index) != 0 {
                        change.apply(&mut durable);
                    }
                }
                Self { durable, ..Self::default() }
            })
            .collect()
    }

    fn step(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("dead"));
        }
        match &mut self.left {
            None => Ok(()),
            Some(0) if self.end == End::Full => Err(io::ErrorKind::StorageFull.into()),
            Some(0) => {
                self.dead = true;
                Err(io::Error::other("dead"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Files for Crashing {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.now().get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(self.now().keys().filter(|path| path.parent() == Some(directory)).map(name).collect())
    }

    fn create_directory(&mut self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let result = self.step();
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.pending.push(Change::Set(path.to_owned(), written.to_owned()));
        result
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let bytes = self.read(from)?;
        self.pending.push(Change::Rename(from.to_owned(), to.to_owned(), bytes));
        Ok(())
    }

    fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        self.step()?;
        for change in std::mem::take(&mut self.pending) {
            let (Change::Set(path, _) | Change::Rename(_, path, _) | Change::Remove(path)) =
                &change;
            if path.parent() == Some(directory) {
                change.apply(&mut self.durable);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("dead"));
        }
        self.pending.push(Change::Remove(path.to_owned()));
        Ok(())
    }
}

const DIRECTORY: &str = "/state";

fn new(policy: &str) -> NewRevision<'_> {
    NewRevision {
        policy,
        digest: "d",
        author: "local:0",
        comment: "",
        rules: 1,
        committed_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn open<F: Files>(files: F, kept: usize) -> (Store<F>, Option<Stored>, Vec<Notice>) {
    Store::open(files, Path::new(DIRECTORY), kept).unwrap()
}

/// A store with `count` revisions, whose texts are "policy 1" and so on.
fn filled(count: u64, kept: usize) -> Store<Crashing> {
    let mut store = open(Crashing::default(), kept).0;
    for number in 1..=count {
        assert_eq!(store.commit(new(&format!("policy {number}"))).unwrap().number, number);
    }
    store
}

/// The disk after the last commit, with every entry on it.
fn settled(store: &Store<Crashing>) -> Crashing {
    Crashing { durable: store.files.now(), ..Crashing::default() }
}

fn in_force(files: Crashing) -> Option<String> {
    let (mut store, stored, _) = open(files, 3);
    // What is found can be committed upon, whatever was left lying about.
    let next = store.commit(new("next")).unwrap();
    assert_eq!(store.get(next.number).unwrap().policy, "next");
    stored.map(|stored| stored.policy)
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_policy_or_the_new() {
    for count in [0, 1, 3] {
        let before = settled(&filled(count, 3));
        let old = (count > 0).then(|| format!("policy {count}"));
        let mut seen = std::collections::BTreeSet::new();
        for operations in 0.. {
            let files = Crashing { left: Some(operations), ..before.clone() };
            let mut store = open(files, 3).0;
            let result = store.commit(new("fresh"));
            let mut disks = store.files.after_power_failure();
            disks.push(settled(&store));
            for disk in disks {
                let found = in_force(disk.clone());
                if result.is_ok() {
                    assert_eq!(found.as_deref(), Some("fresh"), "committed, then lost: {disk:?}");
                }
                assert!(found == old || found.as_deref() == Some("fresh"), "{found:?} {disk:?}");
                seen.insert(found);
            }
            if result.is_ok() {
                break;
            }
        }
        assert_eq!(seen.len(), 2, "both outcomes occur: {seen:?}");
    }
}

#[test]
fn a_full_disk_changes_nothing_wherever_it_strikes() {
    for count in [0, 2] {
        let before = settled(&filled(count, 3));
        let mut failures = 0;
        for operations in 0.. {
            let files = Crashing { left: Some(operations), end: End::Full, ..before.clone() };
            let (mut store, old, _) = open(files, 3);
            match store.commit(new("fresh")) {
                Ok(_) => break,
                Err(error) => {
                    failures += 1;
                    assert!(matches!(error, WriteRevisionError::Full(_)), "{error}");
                    assert_eq!(store.current(), count);
                    // The last operation, the sync after the rename, cannot be undone on a disk
                    // that takes no more writes: old or new is then what a crash leaves.
                    if operations < 8 {
                        let (_, found, notices) = open(settled(&store), 3);
                        assert_eq!(found, old);
                        assert_eq!(notices, []);
                        assert_eq!(settled(&store).durable, before.durable);
                    }
                }
            }
        }
        assert_eq!(failures, 9, "three files, three operations each");
    }
}

#[test]
fn a_damaged_pointer_or_text_falls_back_to_the_last_whole_revision_and_says_so() {
    let whole = settled(&filled(3, 10));
    let damage = |path: &str, bytes: &[u8]| {
        let mut disk = whole.clone();
        disk.durable.insert(Path::new(DIRECTORY).join(path), bytes.to_vec());
        disk
    };
    for (path, bytes, expected) in [
        ("current", &b"\0\0\0"[..], 3),
        ("current", b"{\"number\":9,\"sha256\":\"\"}", 3),
        ("current", b"", 3),
        ("revisions/000003.yaml", b"policy 2", 2),
        ("revisions/000003.json", b"{", 2),
    ] {
        let (store, found, notices) = open(damage(path, bytes), 10);
        assert_eq!(found.unwrap().policy, format!("policy {expected}"), "{path}");
        assert_eq!(store.current(), expected);
        assert!(
            notices
                .iter()
                .any(|notice| matches!(notice, Notice::FellBack { used, .. } if *used == expected)),
            "{path}: {notices:?}"
        );
    }
}

#[test]
fn what_is_damaged_stays_on_the_disk_and_keeps_its_number() {
    let whole = settled(&filled(3, 10));
    for path in ["revisions/000003.yaml", "revisions/000003.json"] {
        let mut disk = whole.clone();
        let path = Path::new(DIRECTORY).join(path);
        disk.durable.insert(path.clone(), b"damaged".to_vec());
        let (mut store, _, _) = open(disk, 10);
        assert_eq!(store.list(9).map(|r| r.number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(store.commit(new("policy 4")).unwrap().number, 4);
        assert_eq!(settled(&store).durable.get(&path).unwrap(), b"damaged");
    }
}

#[test]
fn nothing_whole_is_said_and_is_no_policy() {
    let mut disk = settled(&filled(1, 10));
    disk.durable.insert(Path::new(DIRECTORY).join("revisions/000001.yaml"), b"other".to_vec());
    let (_, found, notices) = open(disk, 10);
    assert_eq!(found, None);
    assert!(matches!(notices[..], [Notice::NothingLeft { .. }]), "{notices:?}");
}

#[test]
fn the_oldest_revisions_go_and_numbers_are_never_used_again() {
    let mut store = filled(5, 3);
    assert_eq!(store.list(99).map(|r| r.number).collect::<Vec<_>>(), [5, 4, 3]);
    assert_eq!(store.list(1).map(|r| r.number).collect::<Vec<_>>(), [5]);
    assert!(matches!(store.get(2), Err(ReadRevisionError::Unknown(2))));
    assert_eq!(store.get(3).unwrap().policy, "policy 3");
    assert_eq!(store.commit(new("policy 6")).unwrap().number, 6);
    let files = settled(&store).durable;
    assert_eq!(files.len(), 1 + 2 * 3, "{:?}", files.keys());
}

#[test]
fn the_disk_itself_keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, none, _) = Store::open(Disk, directory.path(), 10).unwrap();
    assert_eq!(none, None);
    let revision = store.commit(new("policy 1")).unwrap();
    let (store, found, notices) = Store::open(Disk, directory.path(), 10).unwrap();
    assert_eq!(found, Some(Stored { revision, policy: "policy 1".into() }));
    assert_eq!((store.current(), notices), (1, vec![]));
}
