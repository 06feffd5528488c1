//! Disks with first-boot data: found, mounted read-only, read, and let go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// UDF first: Azure's disk has both, and its file names in ISO 9660 are cut.
pub const OPTICAL: [&str; 2] = ["udf", "iso9660"];
pub const NO_CLOUD: [&str; 2] = ["vfat", "iso9660"];

/// A disk that is mounted until this is dropped.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts a device read-only, as the first of the file systems that it has.
    ///
    /// # Errors
    /// What the kernel says of the last one.
    pub fn new(device: &Path, file_systems: &[&str], at: &Path) -> io::Result<Self> {
        fs::create_dir_all(at)?;
        let flags =
            MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
        let mut last = io::Error::from(io::ErrorKind::InvalidInput);
        for file_system in file_systems {
            match mount(device, at, *file_system, flags, None::<&std::ffi::CStr>) {
                Ok(()) => return Ok(Self { at: at.to_owned() }),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    pub fn directory(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nobody holds a file of it; if somebody does, it goes with him.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// Reads a file whole, or as much of it as one byte more than is allowed: its reader then says so.
///
/// # Errors
/// As reading a file.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_open(File::open(path)?, limit)
}

/// The same of a disk that anybody may have made: what is no file of its own leads elsewhere (ISO 9660 can have links
/// to this machine's files) or has no end.
///
/// # Errors
/// As reading a file, or it is none.
pub fn read_of_disk(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // A pipe without a writer would be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let no_file = || io::Error::new(io::ErrorKind::InvalidData, "it is no plain file");
    let file = match file {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Err(no_file()),
        file => file,
    }?;
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    read_open(file, limit)
}

fn read_open(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Optical drives, by number. `devices` is `/dev`.
pub fn optical(devices: &Path) -> Vec<PathBuf> {
    (0..4).map(|number| devices.join(format!("sr{number}"))).filter(|path| path.exists()).collect()
}

/// The disk of a label, however it is written. `by_label` is `/dev/disk/by-label`.
pub fn labelled(by_label: &Path, label: &str) -> Option<PathBuf> {
    let paths = fs::read_dir(by_label).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(label));
    // Of two that are written differently always the same.
    paths.filter(is_it).min()
}
