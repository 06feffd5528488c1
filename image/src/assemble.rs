//! From packages and programs to the files that are published, in order.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::kernel::{self, Kernel, Unified};
use crate::layout::{DISK_MIB, MIB, ROOT_A, ROOT_B};
use crate::packages::Package;
use crate::program::{self, command, text};
use crate::qemu::Direct;
use crate::system::{self, Inputs, Sources};
use crate::version::{Label, Version};
use crate::{disk, sbom, vhd};

/// Installed packages are kept for so long, unless fresh ones are asked for.
const PACKAGES_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// Of the machines that run the image, as `uname -m` has it.
const ARCHITECTURE: &str = "x86_64";

/// What is asked for.
#[derive(Debug)]
pub struct Order {
    pub inputs: Inputs,
    pub out: PathBuf,
    /// One place that has all of Debian's packages; absent: where apt has them from.
    pub mirror: Option<String>,
    /// Packages are installed anew, whatever is there.
    pub is_fresh: bool,
    pub label: Option<Label>,
    pub scope: Scope,
}

/// How much is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    All,
    /// What an upgrade takes, and nothing else; the last build stays what it is.
    Bundle,
}

/// What `image build` makes, by the version's name.
#[derive(Debug, Clone)]
pub struct Products {
    pub raw: PathBuf,
    pub vhd: PathBuf,
    pub qcow2: PathBuf,
    pub bundle: PathBuf,
    pub sbom: PathBuf,
    /// For QEMU's direct boot.
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub line: PathBuf,
}

impl Products {
    pub fn named(out: &Path, version: &str) -> Self {
        let file = |end: &str| out.join(format!("gabion-{version}.{end}"));
        Self {
            raw: file("raw"),
            vhd: file("vhd"),
            qcow2: file("qcow2"),
            bundle: file("bundle.tar"),
            sbom: file("spdx.json"),
            kernel: file("vmlinuz"),
            initramfs: file("initramfs"),
            line: file("line"),
        }
    }

    /// Those of the last build in `out`.
    ///
    /// # Errors
    /// There was none.
    pub fn last(out: &Path) -> Result<Self> {
        let path = out.join("VERSION");
        let version = fs::read_to_string(&path)
            .with_context(|| format!("{} is not there: run `make image`", path.display()))?;
        Ok(Self::named(out, version.trim()))
    }

    /// What QEMU's direct boot takes.
    ///
    /// # Errors
    /// The command line cannot be read.
    pub fn direct(&self) -> Result<Direct> {
        let line = fs::read_to_string(&self.line)
            .with_context(|| format!("cannot read {}", self.line.display()))?;
        Ok(Direct { kernel: self.kernel.clone(), initramfs: self.initramfs.clone(), line })
    }
}

/// Says how far the build is.
#[derive(Debug)]
struct Progress {
    begin: Instant,
}

impl Progress {
    fn say(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.begin.elapsed().as_secs_f64());
    }
}

/// Builds everything.
///
/// # Errors
/// Whatever stands in the way; the message says what to do.
pub fn build(order: &Order) -> Result<Products> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the build needs root: packages are installed with chroot"
    );
    let progress = Progress { begin: Instant::now() };
    let version = Version::of(&order.inputs.checkout, order.label.as_ref())?;
    progress.say(&format!("version {}", version.name));
    fs::create_dir_all(&order.out)?;
    let work = order.out.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let base = packages(order, &work, &version, &progress)?;
    let root = work.join("root");
    fs::create_dir_all(&root)?;
    program::run(
        Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(&base).arg("-C").arg(&root),
    )?;

    let mut products = Products::named(&order.out, &version.name);
    if order.scope == Scope::Bundle {
        products = Products { bundle: products.bundle, ..Products::named(&work, &version.name) };
    }
    let mut fetched = Vec::new();
    let mut unpack = |begin: &str, into: &str| -> Result<PathBuf> {
        fetched.push(system::unpack_fetched(&root, begin, &work.join(into))?);
        Ok(work.join(into))
    };
    let (kernel, loader) =
        (unpack("linux-image-", "kernel")?, unpack("systemd-boot-efi_", "loader")?);
    let busybox = unpack("busybox-static_", "busybox")?.join("bin/busybox");
    let kernel = Kernel::find(&kernel, version.epoch_s)?;
    progress.say(&format!("kernel {}", kernel.release));
    // Their licences go along with the system's.
    for name in ["kernel", "loader", "busybox"] {
        let from = work.join(name).join("usr/share/doc");
        program::run(
            Command::new("cp")
                .args(["-r", "--no-target-directory"])
                .arg(from)
                .arg(root.join("usr/share/doc")),
        )?;
    }
    system::finish(&order.inputs, &root, &version)?;
    kernel.install_modules(&root, version.epoch_s)?;
    write_sbom(order, &root, fetched, &version, &products)?;
    let squashfs = work.join("root.squashfs");
    disk::squash(&root, &squashfs, version.epoch_s)?;
    progress.say(&format!("root: {} MiB", fs::metadata(&squashfs)?.len() / MIB));

    kernel.initramfs(&busybox, &products.initramfs, version.epoch_s)?;
    fs::copy(&kernel.image, &products.kernel)?;
    fs::write(&products.line, kernel::line(&version, &ROOT_A))?;
    let efi = loader.join("usr/lib/systemd/boot/efi");
    let kernels = unify(&work, &efi, &kernel, &version, &products)?;
    progress.say(&format!("unified kernel image: {} MiB", fs::metadata(&kernels[0])?.len() / MIB));
    write_bundle(&work, &version, &products)?;
    if order.scope == Scope::All {
        write_disks(&work, &efi, &kernels[0], &version, &products)?;
        progress.say("disks: raw, vhd, qcow2");
        write_sums(&order.out, &products)?;
        fs::write(order.out.join("VERSION"), format!("{}\n", version.name))?;
    }
    fs::remove_dir_all(&work)?;
    progress.say(&format!("done: {}", products.bundle.display()));
    Ok(products)
}

/// The unified kernel images of both roots.
fn unify(
    work: &Path,
    efi: &Path,
    kernel: &Kernel,
    version: &Version,
    products: &Products,
) -> Result<[PathBuf; 2]> {
    let paths = ["a", "b"].map(|slot| work.join(format!("kernel-{slot}.efi")));
    for (path, partition) in paths.iter().zip([ROOT_A, ROOT_B]) {
        let unified = Unified {
            stub: &efi.join("linuxx64.efi.stub"),
            os_release: &work.join("root/usr/lib/os-release"),
            line: &kernel::line(version, &partition),
            kernel: &kernel.image,
            initramfs: &products.initramfs,
        };
        unified.write(path, version.epoch_s)?;
    }
    Ok(paths)
}

/// The installed packages, of a build before if that is not long ago and asked for the same.
fn packages(order: &Order, work: &Path, version: &Version, progress: &Progress) -> Result<PathBuf> {
    let sources = match &order.mirror {
        Some(uri) => Sources::of_mirror(uri),
        None => Sources::of_host(work)?,
    };
    if !sources.has_new_kernel() {
        println!(
            "Backports cannot be had: the kernel is Debian 12's own, without the datapath `ebpf`."
        );
    }
    let mut inputs = Sha256::new();
    inputs.update(format!("{sources:?} {:?} {}", system::LEFT_OUT, version.epoch_s));
    for file in ["image/packages.txt", "image/fetch"] {
        inputs.update(fs::read(order.inputs.checkout.join(file))?);
    }
    let name: String = hex(&inputs.finalize()).chars().take(16).collect();
    let base = order.out.join(format!("packages-{name}.tar"));
    let is_young = |path: &Path| -> Option<bool> {
        let age = SystemTime::now().duration_since(path.metadata().ok()?.modified().ok()?).ok()?;
        Some(age < PACKAGES_KEPT)
    };
    if order.is_fresh || is_young(&base) != Some(true) {
        progress.say("installing Debian's packages");
        let new = work.join("packages.tar");
        system::install_packages(&order.inputs, &sources, &new, version.epoch_s)?;
        forget_packages(&order.out)?;
        fs::rename(new, &base)?;
    }
    progress.say("Debian's packages are there");
    Ok(base)
}

/// Those of builds before, 220 MB each: of another commit they are of no use.
fn forget_packages(out: &Path) -> Result<()> {
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("packages-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_sbom(
    order: &Order,
    root: &Path,
    fetched: Vec<Package>,
    version: &Version,
    products: &Products,
) -> Result<()> {
    let mut parts = system::parts(root, fetched)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&order.inputs.checkout);
    cargo.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--no-dedupe"]);
    cargo.args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}|{l}"]);
    cargo.args(["-p", "gabiond", "-p", "gabion", "-p", "gabion-guard"]);
    if order.inputs.checkout.join("appliance/provision").exists() {
        cargo.args(["-p", "gabion-provision"]);
    }
    parts.extend(sbom::crates(&program::read(&mut cargo)?)?);
    let document = sbom::document(version, parts);
    fs::write(&products.sbom, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(())
}

fn write_disks(
    work: &Path,
    efi: &Path,
    kernel: &Path,
    version: &Version,
    products: &Products,
) -> Result<()> {
    let (esp, data) = (work.join("esp"), work.join("data"));
    let name = format!("gabion_{}.efi", version.name);
    disk::esp(&efi.join("systemd-bootx64.efi"), kernel, &name, &esp, version.epoch_s)?;
    disk::data(&data, version.epoch_s)?;
    disk::assemble(&esp, &work.join("root.squashfs"), &data, &products.raw, version.epoch_s)?;
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(&version.name)[..16]);
    let disk = vhd::Disk { bytes: DISK_MIB * MIB, created_s: version.epoch_s, id };
    disk.write(&products.raw, &products.vhd)?;
    let mut convert = command("qemu-img", version.epoch_s);
    convert.args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"]);
    // One after another: clusters stand in the order in which they are written.
    convert.args(["-m", "1"]).arg(&products.raw).arg(&products.qcow2);
    program::run(&mut convert)
}

/// What `gabion-upgrade` takes: the root, its kernel for either slot, and their sums.
fn write_bundle(work: &Path, version: &Version, products: &Products) -> Result<()> {
    const PARTS: [&str; 5] =
        ["VERSION", "ARCHITECTURE", "kernel-a.efi", "kernel-b.efi", "root.squashfs"];
    fs::write(work.join("VERSION"), format!("{}\n", version.name))?;
    fs::write(work.join("ARCHITECTURE"), format!("{ARCHITECTURE}\n"))?;
    let mut sums = String::new();
    for name in PARTS {
        sums.push_str(&format!("{}  {name}\n", sum(&work.join(name))?));
    }
    fs::write(work.join("SHA256SUMS"), sums)?;
    let mut tar = command("tar", version.epoch_s);
    tar.args(["--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--mode=0644"]);
    tar.arg(format!("--mtime=@{}", version.epoch_s)).args(["-C", text(work)?, "-cf"]);
    program::run(tar.arg(&products.bundle).arg("SHA256SUMS").args(PARTS))
}

fn write_sums(out: &Path, products: &Products) -> Result<()> {
    let mut sums = String::new();
    for path in [
        &products.bundle,
        &products.initramfs,
        &products.qcow2,
        &products.raw,
        &products.sbom,
        &products.vhd,
        &products.kernel,
    ] {
        let name = path.file_name().context("it has a name")?.to_string_lossy();
        sums.push_str(&format!("{}  {name}\n", sum(path)?));
    }
    Ok(fs::write(out.join("SHA256SUMS"), sums)?)
}

fn sum(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut hash, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hash.finalize())),
            bytes => hash.update(&block[..bytes]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
