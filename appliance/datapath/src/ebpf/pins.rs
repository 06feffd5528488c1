//! Tables and links in a file system of the kernel's (bpffs): they stay when the process goes.
//!
//! A directory belongs to one process at a time. What another build has left there, or one with other limits, is not
//! looked at but taken away, and with it the programs at the interfaces.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::SchedClassifier;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use rustix::fs::FlockOperation;
use rustix::mount::MountFlags;

use super::hook::Hook;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: u64 = 0xcafe_4a11;

/// Why nothing can be kept for a later process.
#[derive(Debug, thiserror::Error)]
pub enum OpenPinsError {
    #[error("cannot mount a bpf file system at {}: {source}; mount one there before: mount -t bpf bpf {}", .at.display(), .at.display())]
    Mount { at: PathBuf, source: io::Error },
    #[error("cannot make {}: {source}", .directory.display())]
    Make { directory: PathBuf, source: io::Error },
    #[error("{} is another gabiond's; give each node a node.pin_dir of its own", .0.display())]
    Taken(PathBuf),
}

/// A directory in bpffs, this process's alone.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    lock: File,
}

impl Drop for Pins {
    /// A child between fork and exec has the file open too, and would keep it locked.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// A table by its name in `bpf/layout.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableSize {
    pub(super) name: &'static str,
    pub(super) entries: u32,
    pub(super) bytes: u32,
}

impl Pins {
    /// Opens the directory, makes it where it is not there, and mounts a bpf file system above it where there is none.
    ///
    /// # Errors
    /// When the system refuses, or another process has it.
    pub fn open(directory: &Path) -> Result<Self, OpenPinsError> {
        let refused = |source| OpenPinsError::Make { directory: directory.to_owned(), source };
        let above = directory.parent().unwrap_or(directory);
        if !is_bpffs(above) {
            let _ = std::fs::create_dir_all(above);
            let options = c"mode=0700";
            rustix::mount::mount("bpf", above, "bpf", MountFlags::empty(), options).map_err(
                |errno| OpenPinsError::Mount { at: above.to_owned(), source: errno.into() },
            )?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(refused(error));
            }
            Ok(()) | Err(_) => {}
        }
        let lock = File::open(directory).map_err(refused)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| OpenPinsError::Taken(directory.to_owned()))?;
        Ok(Self { directory: directory.to_owned(), lock })
    }

    /// Whether no earlier process has left anything.
    pub(super) fn is_empty(&self) -> bool {
        self.files().next().is_none()
    }

    /// Where a table is.
    pub(super) fn table(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A table of just this size, if it is there.
    pub(super) fn existing(&self, size: TableSize) -> Option<MapData> {
        let map = MapData::from_pin(self.table(size.name)).ok()?;
        let info = map.info().ok()?;
        let fits = info.max_entries() == size.entries && info.value_size() == size.bytes;
        fits.then_some(map)
    }

    /// The link that keeps a program at an interface.
    pub(super) fn existing_link<L: TryFrom<FdLink>>(
        &self,
        hook: Hook,
        interface: u32,
    ) -> Option<L> {
        let pinned = PinnedLink::from_pin(self.link(hook, interface)).ok()?;
        L::try_from(FdLink::from(pinned)).ok()
    }

    /// Keeps a link for a later process, in the place of any other of its interface.
    pub(super) fn keep_link<L>(&self, hook: Hook, link: L, interface: u32) -> io::Result<L>
    where
        L: TryFrom<FdLink, Error = LinkError>,
        FdLink: TryFrom<L, Error = LinkError>,
    {
        self.forget_link(hook, interface);
        let link = FdLink::try_from(link).map_err(io::Error::other)?;
        let pinned = link.pin(self.link(hook, interface)).map_err(io::Error::other)?;
        L::try_from(FdLink::from(pinned)).map_err(io::Error::other)
    }

    pub(super) fn forget_link(&self, hook: Hook, interface: u32) {
        let _ = std::fs::remove_file(self.link(hook, interface));
    }

    /// Lets go of links to all other interfaces.
    pub(super) fn keep_links_of(&self, interfaces: &[u32]) {
        let links = |&interface: &u32| Hook::ALL.map(|hook| self.link(hook, interface));
        let kept: Vec<PathBuf> = interfaces.iter().flat_map(links).collect();
        for path in self.files().filter(|path| is_link(path) && !kept.contains(path)) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes everything away: programs leave their interfaces.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn clear(&self) -> io::Result<()> {
        // Programs first: none is to run on tables that nobody keeps.
        let (links, tables): (Vec<_>, Vec<_>) = self.files().partition(|path| is_link(path));
        links.iter().chain(&tables).try_for_each(std::fs::remove_file)
    }

    fn link(&self, hook: Hook, interface: u32) -> PathBuf {
        self.directory.join(format!("{LINK}{}-{interface}", hook.label()))
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    }
}

/// Before a hook and an interface's number. Names of interfaces may have a dot, which bpffs does not take.
const LINK: &str = "link-";

fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK))
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == BPF_FS)
}

/// Takes away what an earlier process has left in the directory, and returns whether there was anything: programs leave
/// their interfaces, and nothing moves any more that a process does not move itself.
///
/// # Errors
/// When the system refuses, or a process that runs has the directory.
pub fn detach(directory: &Path) -> Result<bool, OpenPinsError> {
    if !is_bpffs(directory) {
        return Ok(false);
    }
    match take_away(directory) {
        // Another process has just done so.
        Err(OpenPinsError::Make { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(false)
        }
        result => result,
    }
}

fn take_away(directory: &Path) -> Result<bool, OpenPinsError> {
    let pins = Pins::open(directory)?;
    let had_any = !pins.is_empty();
    let refused = |source| OpenPinsError::Make { directory: directory.to_owned(), source };
    pins.clear().map_err(refused)?;
    // A unit's sandbox has it mounted, and keeps it. Empty, it says nothing.
    let _ = std::fs::remove_dir(directory);
    Ok(had_any)
}

/// The names of other programs at an interface's ingress.
pub(super) fn others(interface: &str) -> Vec<String> {
    let programs = SchedClassifier::query_tcx(interface, aya::programs::TcAttachType::Ingress);
    let names = programs.map(|(_, programs)| {
        programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect()
    });
    names.unwrap_or_default()
}
