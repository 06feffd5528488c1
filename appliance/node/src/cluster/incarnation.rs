//! The number that every start of this node makes larger.
//!
//! It is kept in the state directory and on the disk before anybody hears of it, so that no crash brings an old one
//! back. It is no clock: those jump.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::Files;

const FILE: &str = "incarnation";

/// Why the node has no number.
#[derive(Debug, thiserror::Error)]
pub enum IncarnationError {
    #[error("cannot keep {}: {source}; check node.state_dir and its owner", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged: write a number into it that is larger than this node's in `gabion cluster status` of another",
        .0.display()
    )]
    Damaged(PathBuf),
}

/// This start's number, and where it is kept.
#[derive(Debug)]
pub struct Incarnation<F> {
    files: F,
    path: PathBuf,
    number: u64,
}

impl<F: Files> Incarnation<F> {
    /// Takes the next number.
    ///
    /// # Errors
    /// When it cannot be read, or does not reach the disk.
    pub fn next(files: F, directory: &Path) -> Result<Self, IncarnationError> {
        let path = directory.join(FILE);
        let last = match files.read(&path) {
            Ok(bytes) => {
                let text = std::str::from_utf8(&bytes).ok().map(str::trim);
                let number = text.and_then(|text| text.parse::<u64>().ok());
                let usable = number.filter(|number| *number < u64::MAX);
                usable.ok_or_else(|| IncarnationError::Damaged(path.clone()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(IncarnationError::Disk { path, source }),
        };
        let mut incarnation = Self { files, path, number: last + 1 };
        incarnation.write(last + 1)?;
        Ok(incarnation)
    }

    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Has the next start take a larger number than one that a peer has seen: this node's state was lost.
    ///
    /// # Errors
    /// When it does not reach the disk.
    pub fn outgrow(&mut self, seen: u64) -> Result<(), IncarnationError> {
        if seen > self.number { self.write(seen.min(u64::MAX - 1)) } else { Ok(()) }
    }

    fn write(&mut self, number: u64) -> Result<(), IncarnationError> {
        let temporary = self.path.with_extension("new");
        let directory = self.path.parent().expect("the file lies in the state directory");
        self.files
            .write(&temporary, format!("{number}\n").as_bytes())
            .and_then(|()| self.files.rename(&temporary, &self.path))
            .and_then(|()| self.files.sync_directory(directory))
            .map_err(|source| IncarnationError::Disk { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Disk;

    #[test]
    fn each_start_has_a_larger_number_than_any_that_was_seen() {
        let directory = tempfile::tempdir().unwrap();
        let next = || Incarnation::next(Disk, directory.path()).unwrap();
        assert_eq!((next().number(), next().number()), (1, 2));
        let mut third = next();
        third.outgrow(2).unwrap();
        assert_eq!(next().number(), 4);
        third.outgrow(70).unwrap();
        assert_eq!((third.number(), next().number()), (3, 71));
    }

    #[test]
    fn a_number_that_does_not_reach_the_disk_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        let error = Incarnation::next(Disk, &gone).unwrap_err();
        assert!(error.to_string().contains("check node.state_dir"), "{error}");
    }

    #[test]
    fn a_damaged_number_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for text in ["", "-1", "seven", "18446744073709551615"] {
            std::fs::write(&path, text).unwrap();
            let error = Incarnation::next(Disk, directory.path()).unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
