//! File systems and the disk that they are on.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::layout::{self, DATA, DISK_MIB, ESP, MIB, ROOT_A, ROOT_B};
use crate::program::{self, command, text};
use crate::sparse;

/// The root, compressed; block size and compression are the same on every machine.
///
/// # Errors
/// mksquashfs fails, or the result is larger than a slot.
pub fn squash(root: &Path, into: &Path, epoch_s: u64) -> Result<()> {
    remove(into)?;
    let mut mksquashfs = command("mksquashfs", epoch_s);
    mksquashfs.arg(root).arg(into).args(["-quiet", "-no-progress", "-noappend", "-no-exports"]);
    mksquashfs.args(["-comp", "zstd", "-Xcompression-level", "19", "-b", "256K", "-no-xattrs"]);
    mksquashfs.args(["-reproducible"]);
    program::run(&mut mksquashfs)?;
    let bytes = fs::metadata(into)?.len();
    ensure!(bytes <= ROOT_A.bytes(), "the root has {bytes} bytes, more than a slot");
    Ok(())
}

/// The ESP: boot loader, its settings, and one kernel.
///
/// # Errors
/// A program fails.
pub fn esp(
    loader: &Path,
    kernel: &Path,
    kernel_name: &str,
    into: &Path,
    epoch_s: u64,
) -> Result<()> {
    let settings = into.with_extension("conf");
    fs::write(
        &settings,
        "# The highest version that has tries left is booted.\ntimeout 0\neditor no\n",
    )?;
    make(into, ESP.bytes())?;
    program::run(
        command("mkfs.vfat", epoch_s)
            .args(["-F", "32", "-n", "GABION-ESP", "-i", "6AB10001", "--invariant"])
            .arg(into),
    )?;
    let image = text(into)?;
    let folders = ["::/EFI", "::/EFI/BOOT", "::/EFI/Linux", "::/loader"];
    program::run(command("mmd", epoch_s).args(["-i", image]).args(folders))?;
    for (from, to) in [
        (loader, "::/EFI/BOOT/BOOTX64.EFI".to_owned()),
        (kernel, format!("::/EFI/Linux/{kernel_name}")),
        (&*settings, "::/loader/loader.conf".to_owned()),
    ] {
        program::run(command("touch", epoch_s).arg(format!("--date=@{epoch_s}")).arg(from))?;
        program::run(command("mcopy", epoch_s).args(["-m", "-i", image]).arg(from).arg(to))?;
    }
    fs::remove_file(settings)?;
    Ok(())
}

/// The data partition: empty but for the folders that others are bound to.
///
/// # Errors
/// mke2fs fails.
pub fn data(into: &Path, epoch_s: u64) -> Result<()> {
    let skeleton = into.with_extension("skeleton");
    for folder in ["home", "journal"] {
        fs::create_dir_all(skeleton.join(folder))?;
    }
    let touched = [skeleton.clone(), skeleton.join("home"), skeleton.join("journal")];
    program::run(command("touch", epoch_s).arg(format!("--date=@{epoch_s}")).args(touched))?;
    make(into, DATA.bytes())?;
    let mut mke2fs = command("mkfs.ext4", epoch_s);
    mke2fs.args(["-q", "-F", "-L", "gabion-data", "-m", "1", "-U", &DATA.id()]);
    // The name's hash has a seed of its own, which would be random.
    mke2fs.args(["-E", &format!("hash_seed={},root_owner=0:0", DATA.id())]);
    program::run(mke2fs.args(["-d", text(&skeleton)?]).arg(into))?;
    fs::remove_dir_all(skeleton)?;
    // The times at which the folders above were made, which nothing else can change.
    let changed = format!("sif /home ctime @{epoch_s}\nsif /journal ctime @{epoch_s}\n");
    let orders = format!("set_current_time @{epoch_s}\n{changed}");
    program::feed(command("debugfs", epoch_s).args(["-w", "-f", "-"]).arg(into), orders.as_bytes())
}

/// The whole disk, sparse: the second root is empty.
///
/// # Errors
/// sfdisk fails, or a file cannot be read or written.
pub fn assemble(esp: &Path, root: &Path, data: &Path, into: &Path, epoch_s: u64) -> Result<()> {
    make(into, DISK_MIB * MIB)?;
    let mut sfdisk = command("sfdisk", epoch_s);
    program::feed(
        sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(into),
        layout::sfdisk_script().as_bytes(),
    )?;
    let disk = File::options().read(true).write(true).open(into)?;
    for (file, partition) in [(esp, ESP), (root, ROOT_A), (data, DATA)] {
        let bytes = sparse::copy(file, &disk, partition.first_byte())?;
        ensure!(
            bytes <= partition.bytes(),
            "{} does not fit into {}",
            file.display(),
            partition.label
        );
    }
    debug_assert_eq!(ROOT_A.size_mib, ROOT_B.size_mib);
    Ok(())
}

/// A new file of zeros that take no room.
fn make(path: &Path, bytes: u64) -> Result<()> {
    remove(path)?;
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(file.set_len(bytes)?)
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}
