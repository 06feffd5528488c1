//! The few file operations that the store is made of, so that a test can stop between any two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// File operations, each of which may fail and after each of which the process may die.
pub trait Files {
    /// # Errors
    /// When the file is not there or cannot be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The names in a directory.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// # Errors
    /// When it cannot be made.
    fn create_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Makes or empties a file, writes it, and returns when its bytes are on the disk.
    ///
    /// # Errors
    /// When the disk is full or refuses; the file may then hold anything.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Puts a file in another's place, at once.
    ///
    /// # Errors
    /// When the disk refuses.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;

    /// Returns when the directory's entries are on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    fn sync_directory(&mut self, directory: &Path) -> io::Result<()>;

    /// # Errors
    /// When the disk refuses.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// The real thing.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}
