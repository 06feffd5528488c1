//! Files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Writes a file in place of the one that is there; its directory is made if it is missing.
///
/// # Errors
/// As writing a file, with its path.
pub fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    write_whole(path, mode, text).map_err(|error| with_path(path, &error))
}

fn write_whole(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let staged = path.with_added_extension("new");
    remove(&staged)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(directory)?.sync_all()
}

/// Removes a file or a directory with all that is in it; what is not there is removed.
///
/// # Errors
/// As removing it, with its path.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(with_path(path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes all that is in a directory, which stays; one that is not there is empty.
///
/// # Errors
/// As removing it, with its path.
pub fn empty(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(with_path(directory, &error)),
    };
    for entry in entries {
        remove(&entry?.path())?;
    }
    Ok(())
}

/// The text of a file, `None` where there is none.
///
/// # Errors
/// As reading it, with its path.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(with_path(path, &error)),
    }
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
