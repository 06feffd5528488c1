//! The kernel with what it needs before there is a root: modules, initramfs, and both in one EFI program.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cpio::Archive;
use crate::layout::Partition;
use crate::modules::{Modules, Wanted};
use crate::program::{self, command, text};
use crate::version::Version;

const INIT: &str = include_str!("../initramfs/init");
const WANTED: &str = include_str!("../modules.txt");

/// A kernel package of Debian's, unpacked.
#[derive(Debug)]
pub struct Kernel {
    pub release: String,
    pub image: PathBuf,
    folder: PathBuf,
}

impl Kernel {
    /// Finds the kernel in `unpacked`, makes its modules plain files and lists what needs what.
    ///
    /// # Errors
    /// There is none, or a program fails.
    pub fn find(unpacked: &Path, epoch_s: u64) -> Result<Self> {
        let mut folders = fs::read_dir(unpacked.join("lib/modules"))?;
        let folder = folders.next().context("the kernel's package has no modules")??.path();
        let release = folder.file_name().context("it has a name")?.to_string_lossy().into_owned();
        // A root that is compressed itself wants them plain, and so does insmod.
        program::run(
            command("find", epoch_s)
                .arg(&folder)
                .args(["-name", "*.ko.xz", "-exec", "xz", "-d"])
                .args(["{}", "+"]),
        )?;
        program::run(command("depmod", epoch_s).args(["-b", text(unpacked)?, &release]))?;
        let image = unpacked.join(format!("boot/vmlinuz-{release}"));
        Ok(Self { release, image, folder })
    }

    /// Puts the modules of image/modules.txt into `root`.
    ///
    /// # Errors
    /// One is not there, or a file cannot be copied.
    pub fn install_modules(&self, root: &Path, epoch_s: u64) -> Result<()> {
        let into = root.join("usr/lib/modules").join(&self.release);
        let wanted = self.modules()?.closure(&Wanted::parse(WANTED)?.all)?;
        for file in &wanted {
            let target = into.join(file);
            fs::create_dir_all(target.parent().context("it has a folder")?)?;
            fs::copy(self.folder.join(file), target)?;
        }
        for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            fs::copy(self.folder.join(list), into.join(list))?;
        }
        program::run(command("depmod", epoch_s).args(["-b", text(root)?, &self.release]))
    }

    /// What the kernel unpacks as its first root, compressed.
    ///
    /// # Errors
    /// A module is not there, or a program fails.
    pub fn initramfs(&self, busybox: &Path, into: &Path, epoch_s: u64) -> Result<()> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "modules"] {
            archive.folder(folder);
        }
        // The first process prints there before it has mounted anything.
        archive.device("dev/console", 5, 1);
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
        let mut order = String::new();
        for file in self.modules()?.closure(&Wanted::parse(WANTED)?.early)? {
            let name = file.rsplit('/').next().context("it has a name")?;
            archive.file(&format!("modules/{name}"), 0o644, &fs::read(self.folder.join(&file))?);
            order.push_str(name);
            order.push('\n');
        }
        archive.file("modules/order", 0o644, order.as_bytes());
        let plain = into.with_extension("cpio");
        fs::write(&plain, archive.finish())?;
        program::run(command("zstd", epoch_s).args([
            "-q",
            "-f",
            "-19",
            "-T1",
            text(&plain)?,
            "-o",
            text(into)?,
        ]))?;
        fs::remove_file(plain)?;
        Ok(())
    }

    fn modules(&self) -> Result<Modules> {
        let list = |name: &str| {
            let path = self.folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Modules::parse(&list("modules.dep")?, &list("modules.builtin")?))
    }
}

/// The kernel line of a version on one of the roots.
///
/// Azure asks for the serial console, a root that may come late, and interfaces that are called eth0 and so on.
pub fn line(version: &Version, root: &Partition) -> String {
    format!(
        "gabion.root={} gabion.version={} ro rootdelay=300 console=tty1 console=ttyS0 earlyprintk=ttyS0 \
         net.ifnames=0 panic=10 systemd.gpt_auto=0",
        root.label, version.name
    )
}

/// The parts of a unified kernel image.
#[derive(Debug)]
pub struct Unified<'a> {
    pub stub: &'a Path,
    pub os_release: &'a Path,
    pub line: &'a str,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
}

impl Unified<'_> {
    /// Writes the EFI program: systemd's stub, and the parts as its sections.
    ///
    /// # Errors
    /// A program fails.
    pub fn write(&self, into: &Path, epoch_s: u64) -> Result<()> {
        /// Sections begin on pages.
        const PAGE_BYTES: u64 = 4_096;
        let line = into.with_extension("line");
        fs::write(&line, self.line)?;
        let told = program::read(command("objdump", epoch_s).arg("-h").arg(self.stub))?;
        let mut at = end_of_sections(&told)?.next_multiple_of(PAGE_BYTES);
        let mut objcopy = command("objcopy", epoch_s);
        // The kernel last: the stub of systemd 252 unpacks it in place, beyond its end.
        let parts = [
            (".osrel", self.os_release),
            (".cmdline", &*line),
            (".initrd", self.initramfs),
            (".linux", self.kernel),
        ];
        for (name, file) in parts {
            objcopy.args(["--add-section", &format!("{name}={}", text(file)?)]);
            objcopy.args(["--change-section-vma", &format!("{name}={at:#x}")]);
            at = (at + fs::metadata(file)?.len()).next_multiple_of(PAGE_BYTES);
        }
        program::run(objcopy.arg(self.stub).arg(into))?;
        fs::remove_file(line)?;
        let mut program = fs::read(into)?;
        set_time(&mut program, epoch_s).context("the EFI program has no PE header")?;
        Ok(fs::write(into, program)?)
    }
}

/// Puts the version's time where objcopy has put that of the build, and clears the checksum, which firmware does not read.
fn set_time(program: &mut [u8], epoch_s: u64) -> Option<()> {
    // Offsets of the PE format: the header's place, the time in it, the checksum in the part behind.
    let place = program.get(0x3c..0x40)?.try_into().ok()?;
    let header = usize::try_from(u32::from_le_bytes(place)).ok()?;
    program.get(header..header + 4).filter(|magic| *magic == b"PE\0\0")?;
    let time = u32::try_from(epoch_s).unwrap_or(u32::MAX);
    program.get_mut(header + 8..header + 12)?.copy_from_slice(&time.to_le_bytes());
    program.get_mut(header + 88..header + 92)?.fill(0);
    Some(())
}

/// Where the last section ends, of the text of `objdump -h`.
fn end_of_sections(told: &str) -> Result<u64> {
    let mut end = None;
    for line in told.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [number, _, size, address, ..] = words[..] else { continue };
        let (Ok(_), Ok(size), Ok(address)) = (
            number.parse::<u32>(),
            u64::from_str_radix(size, 16),
            u64::from_str_radix(address, 16),
        ) else {
            continue;
        };
        end = end.max(Some(address + size));
    }
    match end {
        Some(end) => Ok(end),
        None => bail!("the EFI stub has no sections"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ROOT_B;

    #[test]
    fn the_kernel_line_has_what_azure_asks_for() {
        let version = Version { name: "1-2".into(), commit: String::new(), epoch_s: 0 };
        let line = line(&version, &ROOT_B);
        let words: Vec<_> = line.split(' ').collect();
        for word in [
            "console=ttyS0",
            "earlyprintk=ttyS0",
            "rootdelay=300",
            "net.ifnames=0",
            "gabion.root=gabion-root-b",
            "gabion.version=1-2",
        ] {
            assert!(words.contains(&word), "{word} is not in {line}");
        }
        assert_eq!(words.iter().rfind(|word| word.starts_with("console=")), Some(&"console=ttyS0"));
    }

    #[test]
    fn an_efi_program_has_the_versions_time() {
        let mut program = vec![0xee; 256];
        program[0x3c..0x40].copy_from_slice(&0x80_u32.to_le_bytes());
        assert_eq!(set_time(&mut program, 7), None, "no PE header");
        program[0x80..0x84].copy_from_slice(b"PE\0\0");
        set_time(&mut program, 7).unwrap();
        assert_eq!(program[0x88..0x8c], [7, 0, 0, 0]);
        assert_eq!(program[0xd8..0xdc], [0; 4]);
    }

    #[test]
    fn sections_end_where_the_last_does() {
        let told = "\nstub: file format pei-x86-64\n\nSections:\nIdx Name Size VMA LMA File off Algn\n  \
            0 .text 0000c0a0  0000000140001000  0000000140001000  00000400  2**4\n  CONTENTS, ALLOC\n  \
            1 .sbat 000000e8  0000000140010000  0000000140010000  0000c600  2**2\n";
        assert_eq!(end_of_sections(told).unwrap(), 0x1_4001_00e8);
        assert!(end_of_sections("nothing").is_err());
    }
}
