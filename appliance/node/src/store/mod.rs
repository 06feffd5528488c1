//! Policy revisions on disk.
//!
//! ```text
//! STATE_DIR/current                 which revision is in force, and the SHA-256 of its text
//! STATE_DIR/revisions/000007.yaml   the policy as it was committed
//! STATE_DIR/revisions/000007.json   who committed it, when, and the SHA-256 of its text
//! ```
//!
//! Every file is written beside its name, synced, renamed into place, and its directory synced.
//! `current` comes last: its rename is the moment at which the new policy is in force. Whoever dies
//! before it leaves the old policy, whoever dies after it the new one. A failed commit is undone
//! and changes nothing.

mod files;
mod lock;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

pub use files::{Disk, Files};
pub use lock::{LockStateError, StateLock};

/// What is known of a revision besides its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub number: u64,
    /// SHA-256 of the canonical text, hexadecimal.
    pub digest: String,
    /// SHA-256 of the text as it was committed, hexadecimal.
    pub text_sha256: String,
    #[serde(with = "rfc3339")]
    pub committed_at: OffsetDateTime,
    pub author: String,
    pub comment: String,
    pub rules: u32,
}

/// A revision that is about to be.
#[derive(Debug, Clone, Copy)]
pub struct NewRevision<'a> {
    pub policy: &'a str,
    pub digest: &'a str,
    pub author: &'a str,
    pub comment: &'a str,
    pub rules: u32,
    pub committed_at: OffsetDateTime,
}

/// A revision with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub revision: Revision,
    pub policy: String,
}

/// Something about the state directory that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    #[error(
        "{path} is damaged ({why}): revision {used} is in force instead; look at it and commit again"
    )]
    FellBack { path: String, why: String, used: u64 },
    #[error("{path} is damaged ({why}) and no revision is left whole: commit a policy")]
    NothingLeft { path: String, why: String },
    #[error("revision {number} is damaged ({why}) and is left out")]
    Damaged { number: u64, why: String },
}

/// Why the state directory cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the state directory {}: {source}; check node.state_dir and its owner", path.display())]
pub struct OpenStoreError {
    path: PathBuf,
    source: io::Error,
}

/// Why a revision was not written. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteRevisionError {
    #[error("no space left for {}; nothing was changed: free some and commit again", .0.display())]
    Full(PathBuf),
    #[error("{} is on a read-only file system; nothing was changed", .0.display())]
    ReadOnly(PathBuf),
    #[error("cannot write {}: {source}; nothing was changed", path.display())]
    Other { path: PathBuf, source: io::Error },
}

/// Why a revision cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadRevisionError {
    #[error("there is no revision {0}; `gabion show revisions` lists those that are kept")]
    Unknown(u64),
    #[error("revision {number} is damaged: {why}")]
    Damaged { number: u64, why: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Pointer {
    number: u64,
    sha256: String,
}

/// The revisions in one state directory. One owner: commits are serialised by `&mut self`.
#[derive(Debug)]
pub struct Store<F: Files = Disk> {
    files: F,
    directory: PathBuf,
    kept: usize,
    /// Without gaps in meaning: every revision here had a readable description at start.
    revisions: BTreeMap<u64, Revision>,
    /// The highest number of what was damaged at start: not used again either.
    damaged: u64,
    current: Option<u64>,
}

impl<F: Files> Store<F> {
    /// Opens a state directory and finds the revision in force. Leftovers of a commit that did not
    /// end are removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read. Damaged files are no error but notices.
    pub fn open(
        mut files: F,
        directory: &Path,
        kept: usize,
    ) -> Result<(Self, Option<Stored>, Vec<Notice>), OpenStoreError> {
        let revisions = directory.join("revisions");
        let error = |source| OpenStoreError { path: revisions.clone(), source };
        files.create_directory(&revisions).map_err(error)?;
        let names = files.list(&revisions).map_err(error)?;
        let mut store = Self {
            files,
            directory: directory.to_owned(),
            kept,
            revisions: BTreeMap::new(),
            damaged: 0,
            current: None,
        };
        let mut notices = Vec::new();
        for number in names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()) {
            match store.read_description(number) {
                Ok(revision) => drop(store.revisions.insert(number, revision)),
                Err(why) => {
                    store.damaged = store.damaged.max(number);
                    notices.push(Notice::Damaged { number, why });
                }
            }
        }
        let said = notices.len();
        let in_force = store.find_current(&mut notices);
        store.current = in_force.as_ref().map(|stored| stored.revision.number);
        if notices.len() > said {
            store.set_newer_aside();
        }
        store.remove_leftovers(&names);
        Ok((store, in_force, notices))
    }

    /// The number of the revision in force, 0 before the first.
    pub fn current(&self) -> u64 {
        self.current.unwrap_or(0)
    }

    /// Newest first.
    pub fn list(&self, limit: usize) -> impl Iterator<Item = &Revision> {
        self.revisions.values().rev().take(limit)
    }

    /// Reads a revision's text.
    ///
    /// # Errors
    /// When it is not kept, or was changed behind our back.
    pub fn get(&self, number: u64) -> Result<Stored, ReadRevisionError> {
        let revision = self.revisions.get(&number).ok_or(ReadRevisionError::Unknown(number))?;
        self.read_text(revision).map_err(|why| ReadRevisionError::Damaged { number, why })
    }

    /// Makes a policy the revision in force; when this returns it is on the disk.
    ///
    /// # Errors
    /// When the disk is full or refuses. The old revision is then still the one in force.
    pub fn commit(&mut self, new: NewRevision<'_>) -> Result<Revision, WriteRevisionError> {
        let newest = self.revisions.last_key_value().map_or(0, |(number, _)| *number);
        let number = newest.max(self.current()).max(self.damaged) + 1;
        let revision = Revision {
            number,
            digest: new.digest.to_owned(),
            text_sha256: sha256(new.policy.as_bytes()),
            committed_at: new.committed_at,
            author: new.author.to_owned(),
            comment: new.comment.to_owned(),
            rules: new.rules,
        };
        if let Err((path, source)) = self.write_revision(&revision, new.policy) {
            self.remove_files(number);
            return Err(WriteRevisionError::new(path, source));
        }
        if let Err((path, source)) = self.switch(&revision) {
            self.undo_switch();
            self.remove_files(number);
            return Err(WriteRevisionError::new(path, source));
        }
        self.current = Some(number);
        self.revisions.insert(number, revision.clone());
        self.forget_oldest();
        Ok(revision)
    }

    fn write_revision(
        &mut self,
        revision: &Revision,
        policy: &str,
    ) -> Result<(), (PathBuf, io::Error)> {
        let description =
            serde_json::to_vec_pretty(revision).expect("a revision has text keys only");
        self.replace(&self.policy_path(revision.number), policy.as_bytes())?;
        self.replace(&self.description_path(revision.number), &description)
    }

    fn switch(&mut self, revision: &Revision) -> Result<(), (PathBuf, io::Error)> {
        let pointer = Pointer { number: revision.number, sha256: revision.text_sha256.clone() };
        let bytes = serde_json::to_vec(&pointer).expect("a pointer has text keys only");
        self.replace(&self.pointer_path(), &bytes)
    }

    /// A rename whose directory could not be synced may or may not last: point back to the
    /// revision that stays in force.
    fn undo_switch(&mut self) {
        let old = self.current.and_then(|number| self.revisions.get(&number).cloned());
        let undone = match old {
            Some(old) => self.switch(&old).map_err(|(_, error)| error),
            None => match self.files.remove(&self.pointer_path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        };
        if let Err(error) = undone {
            tracing::error!(%error, "the pointer to the revision in force could not be restored");
        }
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), (PathBuf, io::Error)> {
        let temporary = path.with_extension("new");
        let parent = path.parent().expect("every path of the store has a directory");
        let written = self
            .files
            .write(&temporary, bytes)
            .and_then(|()| self.files.rename(&temporary, path))
            .and_then(|()| self.files.sync_directory(parent));
        written.map_err(|error| {
            let _ = self.files.remove(&temporary);
            (path.to_owned(), error)
        })
    }

    fn find_current(&self, notices: &mut Vec<Notice>) -> Option<Stored> {
        let path = self.pointer_path();
        let why = match self.files.read(&path) {
            Ok(bytes) => match self.follow_pointer(&bytes) {
                Ok(stored) => return Some(stored),
                Err(why) => why,
            },
            Err(_) if self.revisions.is_empty() => return None,
            Err(error) => error.to_string(),
        };
        let path = path.display().to_string();
        let whole =
            self.revisions.values().rev().find_map(|revision| self.read_text(revision).ok());
        notices.push(match &whole {
            Some(stored) => Notice::FellBack { path, why, used: stored.revision.number },
            None => Notice::NothingLeft { path, why },
        });
        whole
    }

    fn follow_pointer(&self, bytes: &[u8]) -> Result<Stored, String> {
        let pointer: Pointer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let number = pointer.number;
        let revision = self
            .revisions
            .get(&number)
            .ok_or_else(|| format!("revision {number}, which it names, is missing or damaged"))?;
        if revision.text_sha256 != pointer.sha256 {
            return Err(format!("it names another text than revision {number} has"));
        }
        self.read_text(revision).map_err(|why| format!("revision {number}: {why}"))
    }

    fn read_description(&self, number: u64) -> Result<Revision, String> {
        let path = self.description_path(number);
        let bytes = self.files.read(&path).map_err(|error| error.to_string())?;
        let revision: Revision =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if revision.number == number {
            Ok(revision)
        } else {
            Err(format!("{} describes revision {}", path.display(), revision.number))
        }
    }

    fn read_text(&self, revision: &Revision) -> Result<Stored, String> {
        let path = self.policy_path(revision.number);
        let bytes = self.files.read(&path).map_err(|error| error.to_string())?;
        if sha256(&bytes) != revision.text_sha256 {
            return Err(format!("{} is not what was committed", path.display()));
        }
        let policy = String::from_utf8(bytes).map_err(|error| error.to_string())?;
        Ok(Stored { revision: revision.clone(), policy })
    }

    /// After a fall back the damaged revision is among the newer ones: its files stay for whoever wants
    /// to save what is in them.
    fn set_newer_aside(&mut self) {
        let newer = self.revisions.split_off(&(self.current() + 1));
        let newest = newer.last_key_value().map_or(0, |(number, _)| *number);
        self.damaged = self.damaged.max(newest);
    }

    /// Best effort: what stays is found again at the next start.
    fn remove_leftovers(&mut self, names: &[String]) {
        for name in names.iter().filter(|name| name.ends_with(".new")) {
            let _ = self.files.remove(&self.directory.join("revisions").join(name));
        }
        let current = self.current();
        let never_in_force: Vec<u64> =
            self.revisions.range(current + 1..).map(|(n, _)| *n).collect();
        for number in never_in_force {
            self.revisions.remove(&number);
            self.remove_files(number);
        }
    }

    fn forget_oldest(&mut self) {
        while self.revisions.len() > self.kept {
            let Some((number, _)) = self.revisions.pop_first() else { return };
            self.remove_files(number);
        }
    }

    fn remove_files(&mut self, number: u64) {
        // The description goes first: a text without one is not a revision.
        let _ = self.files.remove(&self.description_path(number));
        let _ = self.files.remove(&self.policy_path(number));
    }

    fn pointer_path(&self) -> PathBuf {
        self.directory.join("current")
    }

    fn policy_path(&self, number: u64) -> PathBuf {
        self.directory.join("revisions").join(format!("{number:06}.yaml"))
    }

    fn description_path(&self, number: u64) -> PathBuf {
        self.directory.join("revisions").join(format!("{number:06}.json"))
    }
}

impl WriteRevisionError {
    fn new(path: PathBuf, source: io::Error) -> Self {
        let is = |kinds: &[io::ErrorKind]| kinds.contains(&source.kind());
        let full =
            [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        if is(&full) {
            Self::Full(path)
        } else if is(&[io::ErrorKind::ReadOnlyFilesystem]) {
            Self::ReadOnly(path)
        } else {
            Self::Other { path, source }
        }
    }
}

mod rfc3339 {
    use serde::{Deserialize as _, Deserializer, Serializer, de, ser};
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    pub(super) fn serialize<S: Serializer>(
        at: &OffsetDateTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&at.format(&Rfc3339).map_err(ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<OffsetDateTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339).map_err(de::Error::custom)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
