//! One daemon for one state directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Why the state directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockStateError {
    #[error("node.state_dir {}: another gabiond uses it; stop that one first", .0.display())]
    Taken(PathBuf),
    #[error("node.state_dir {}: {source}; check the directory and its owner", path.display())]
    Other { path: PathBuf, source: io::Error },
}

/// Held as long as the daemon lives; the kernel lets go of it whatever happens.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held for the lock alone")] File);

impl StateLock {
    /// Makes the directory if need be and takes it.
    ///
    /// # Errors
    /// [`LockStateError`].
    pub fn take(directory: &Path) -> Result<Self, LockStateError> {
        let error = |source| LockStateError::Other { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(error)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(directory.join("lock")).map_err(error)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(LockStateError::Taken(directory.to_owned())),
            Err(TryLockError::Error(source)) => Err(error(source)),
        }
    }
}
