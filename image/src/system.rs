//! The system: Debian's packages, our programs and their units, and nothing that a running node does not need.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::packages::{self, Package, Wanted};
use crate::program::{self, command, text};
use crate::sbom::{self, Origin, Part};
use crate::version::Version;

const SUITE: &str = "bookworm";
const BACKPORTS: &str = "bookworm-backports";
const WANTED: &str = include_str!("../packages.txt");
/// What is not installed in the first place. Licences are.
pub(crate) const LEFT_OUT: [&str; 7] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bash-completion/*",
];
/// What packages leave behind, or what only their removed neighbours would use.
const TAKEN_OUT: [&str; 23] = [
    "etc/apt",
    "etc/cron.d",
    "etc/cron.daily",
    "etc/machine-id",
    "etc/resolv.conf",
    "fetched",
    "root/.ssh",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/systemd/catalog",
    // Its compiled form, hwdb.bin, stays.
    "usr/lib/udev/hwdb.d",
    "usr/share/keyrings",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/zoneinfo/right",
    "usr/share/zoneinfo/posix",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt",
    "var/lib/dpkg/info",
    "var/lib/systemd",
    "var/log",
];
const ENABLED: [&str; 7] = [
    "chrony.service",
    "gabion-failures.service",
    "gabion-give-up.timer",
    "gabion-ssh-keys.service",
    "gabiond.service",
    "ssh.service",
    "systemd-networkd.service",
];
/// What would wait for a network that is gabiond's to bring, or look after what is not here.
const MASKED: [&str; 8] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-boot-update.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
];

/// What is taken out of our programs. Names stay, for backtraces, but for those of LLVM's making, which hash paths of the
/// build as the build's identifier does.
const STRIPPED: [&str; 4] = [
    "--strip-debug",
    "--wildcard",
    "--strip-symbol=*.llvm.*",
    "--remove-section=.note.gnu.build-id",
];

/// Where Debian's packages are from.
#[derive(Debug, PartialEq, Eq)]
pub struct Sources {
    lines: Vec<String>,
    kernel_suite: &'static str,
}

impl Sources {
    /// What this machine's apt is configured with, and backports beside it, for the kernel.
    ///
    /// # Errors
    /// apt knows no Debian 12.
    pub fn of_host(scratch: &Path) -> Result<Self> {
        let format = "$(REPO_URI) $(CODENAME) $(COMPONENT)";
        let told = program::read(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))?;
        let mut sources = Self::parse(&told)?;
        let uri = sources.lines[0].split(' ').nth(1).context("a line has an address")?;
        let probe = format!("{uri}dists/{BACKPORTS}/InRelease");
        let has_backports = Command::new("/usr/lib/apt/apt-helper")
            .args(["download-file", &probe, text(&scratch.join("InRelease"))?])
            .output()?
            .status
            .success();
        if has_backports {
            sources.lines.push(format!("deb {uri} {BACKPORTS} main"));
            sources.kernel_suite = BACKPORTS;
        }
        Ok(sources)
    }

    /// Of one place that has everything, such as a snapshot.
    pub fn of_mirror(uri: &str) -> Self {
        let line = |suite: &str| format!("deb {uri} {suite} main");
        Self { lines: vec![line(SUITE), line(BACKPORTS)], kernel_suite: BACKPORTS }
    }

    fn parse(told: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for words in told.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
            let [uri, suite, "main"] = words[..] else { continue };
            let is_ours = [SUITE, "bookworm-updates", "bookworm-security"].contains(&suite);
            let line = format!("deb {uri} {suite} main");
            if is_ours && !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.sort_by_key(|line| !line.ends_with(&format!(" {SUITE} main")));
        ensure!(
            lines.first().is_some_and(|line| line.ends_with(&format!(" {SUITE} main"))),
            "apt knows no Debian 12 ({SUITE}): run `apt-get update`, or name a --mirror"
        );
        Ok(Self { lines, kernel_suite: SUITE })
    }

    /// Whether the kernel is new enough for the datapath `ebpf`.
    pub fn has_new_kernel(&self) -> bool {
        self.kernel_suite == BACKPORTS
    }
}

/// Where the build's inputs are.
#[derive(Debug)]
pub struct Inputs {
    /// The checkout.
    pub checkout: PathBuf,
    /// The folder of `gabiond`, `gabion` and the others.
    pub binaries: PathBuf,
}

/// Installs Debian's packages into a folder of their own, and packs it.
///
/// # Errors
/// mmdebstrap fails; it has to run as root.
pub fn install_packages(
    inputs: &Inputs,
    sources: &Sources,
    into: &Path,
    epoch_s: u64,
) -> Result<()> {
    let wanted = Wanted::parse(WANTED)?;
    let mut mmdebstrap = command("mmdebstrap", epoch_s);
    mmdebstrap.args(["--mode=root", "--variant=essential", "--format=tar", "--quiet"]);
    mmdebstrap.args(["--aptopt=Acquire::Languages \"none\""]);
    mmdebstrap.args(["--aptopt=APT::Install-Recommends \"false\""]);
    mmdebstrap.args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")));
    mmdebstrap.arg(format!("--include={}", wanted.install.join(",")));
    let fetch = inputs.checkout.join("image/fetch");
    mmdebstrap.arg(format!("--customize-hook={} \"$1\"", text(&fetch)?));
    mmdebstrap.env("KERNEL_SUITE", sources.kernel_suite);
    mmdebstrap.env("FETCH", wanted.fetch.join(" "));
    mmdebstrap.arg(SUITE).arg(into).args(&sources.lines);
    program::run(&mut mmdebstrap)
}

/// Unpacks one of the packages that were fetched, and tells what it is.
///
/// # Errors
/// It is not there, or cannot be unpacked.
pub fn unpack_fetched(root: &Path, begin: &str, into: &Path) -> Result<Package> {
    let mut found = None;
    for entry in fs::read_dir(root.join("fetched"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin)) {
            found = Some(path);
        }
    }
    let path = found.with_context(|| format!("{begin} was not fetched"))?;
    program::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
    let control = program::read(Command::new("dpkg-deb").arg("-f").arg(&path))?;
    Package::parse(&control).with_context(|| format!("{} has no name", path.display()))
}

/// Puts our programs, units and settings into the system and takes out what is not needed.
///
/// # Errors
/// A file is missing or cannot be written, or a program fails.
pub fn finish(inputs: &Inputs, root: &Path, version: &Version) -> Result<()> {
    copy_tree(&inputs.checkout.join("image/files"), root)?;
    install_programs(inputs, root, version.epoch_s)?;
    fs::write(root.join("usr/lib/gabion/version"), format!("{}\n", version.name))?;
    fs::write(root.join("usr/lib/os-release"), os_release(version))?;
    for (what, units) in [("enable", &ENABLED[..]), ("mask", &MASKED[..])] {
        chroot(root, &[&["systemctl", "-q", what], units].concat())?;
    }
    if root.join("usr/lib/systemd/system/gabion-provision.service").exists() {
        chroot(root, &["systemctl", "-q", "enable", "gabion-provision.service"])?;
    }
    take_out(root)?;
    for folder in ["boot", "home", "var/log/journal", "var/lib/gabion", "var/lib/systemd"] {
        fs::create_dir_all(root.join(folder))?;
    }
    no_secrets(root)
}

/// After everything is set up: what takes part in that goes too.
fn take_out(root: &Path) -> Result<()> {
    for name in Wanted::parse(WANTED)?.remove {
        packages::remove(root, &name)?;
    }
    for path in TAKEN_OUT {
        remove_all(&root.join(path))?;
    }
    for entry in fs::read_dir(root.join("etc/ssh"))? {
        let path = entry?.path();
        if text(&path)?.contains("ssh_host_") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn chroot(root: &Path, words: &[&str]) -> Result<()> {
    program::run(Command::new("chroot").arg(root).args(words))
}

fn remove_all(path: &Path) -> Result<()> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Copies files with one of two modes, whatever the checkout's are.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let (source, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if source.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&source, &target)?;
        } else {
            install(&source, &target, source.metadata()?.permissions().mode() & 0o100 != 0)?;
        }
    }
    Ok(())
}

fn install(from: &Path, to: &Path, is_program: bool) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    remove_all(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    let mode = if is_program { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn install_programs(inputs: &Inputs, root: &Path, epoch_s: u64) -> Result<()> {
    // The agent of first boot is there once the workspace has it.
    let has_agent = inputs.checkout.join("appliance/provision").exists();
    let agent = has_agent.then_some(("gabion-provision", "usr/sbin"));
    let programs =
        [("gabiond", "usr/sbin"), ("gabion-guard", "usr/libexec/gabion"), ("gabion", "usr/bin")];
    for (name, folder) in programs.into_iter().chain(agent) {
        let target = root.join(folder).join(name);
        install(&inputs.binaries.join(name), &target, true)?;
        program::run(command("strip", epoch_s).args(STRIPPED).arg(&target))?;
    }
    for entry in fs::read_dir(inputs.checkout.join("packaging"))? {
        let path = entry?.path();
        if let Some(folder) = packaged(&path) {
            let name = path.file_name().context("it has a name")?;
            install(&path, &root.join(folder).join(name), false)?;
        }
    }
    Ok(())
}

/// Where a file of packaging/ belongs. Configuration is first boot's to write.
fn packaged(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "service" => Some("usr/lib/systemd/system"),
        "conf" => Some("etc/sysctl.d"),
        _ => None,
    }
}

fn os_release(version: &Version) -> String {
    format!(
        "NAME=Gabion\nID=gabion\nID_LIKE=debian\nPRETTY_NAME=\"Gabion {0}\"\nVERSION_ID={0}\n\
         IMAGE_ID=gabion\nIMAGE_VERSION={0}\nBUILD_ID={1}\n",
        version.name, version.commit
    )
}

/// Nobody may have a password or a key in a published image.
fn no_secrets(root: &Path) -> Result<()> {
    let shadow = fs::read_to_string(root.join("etc/shadow"))?;
    for line in shadow.lines() {
        let mut fields = line.split(':');
        let (user, password) = (fields.next(), fields.next().unwrap_or_default());
        ensure!(password.starts_with(['*', '!']), "{user:?} has a password");
    }
    for home in ["root/.ssh", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key"] {
        ensure!(!root.join(home).exists(), "{home} is left in the system");
    }
    Ok(())
}

/// What is in the system, for the SBOM: of dpkg's status, and `fetched` beside it.
///
/// # Errors
/// Files cannot be read.
pub fn parts(root: &Path, fetched: Vec<Package>) -> Result<Vec<Part>> {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status"))?;
    let mut parts = Vec::new();
    for package in Package::of_status(&status).into_iter().chain(fetched) {
        let copyright = root.join("usr/share/doc").join(&package.name).join("copyright");
        let licence = fs::read(copyright)
            .ok()
            .and_then(|text| sbom::licences(&String::from_utf8_lossy(&text)));
        let source = (package.source != package.name).then_some(package.source);
        let (name, version) = (package.name, package.version);
        parts.push(Part { origin: Origin::Debian, name, version, licence, source });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_sources_are_taken_and_debian_12_comes_first() {
        let told = "https://a.example/x/ nodistro main\nhttp://b.example/sec/ bookworm-security main\n\
            http://b.example/deb/ bookworm main\nhttp://b.example/deb/ bookworm main\n\
            http://b.example/deb/ bookworm contrib\n";
        let sources = Sources::parse(told).unwrap();
        assert_eq!(
            sources.lines,
            [
                "deb http://b.example/deb/ bookworm main",
                "deb http://b.example/sec/ bookworm-security main"
            ]
        );
        assert!(!sources.has_new_kernel());
        assert!(Sources::parse("http://b.example/deb/ trixie main\n").is_err());
    }

    #[test]
    fn passwords_and_keys_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/shadow"), "root:*:1::\nsshd:!:1::\n").unwrap();
        no_secrets(root).unwrap();
        fs::create_dir_all(root.join("root/.ssh")).unwrap();
        assert!(no_secrets(root).is_err());
        fs::remove_dir(root.join("root/.ssh")).unwrap();
        fs::write(root.join("etc/shadow"), "root::1::\n").unwrap();
        assert!(no_secrets(root).is_err());
    }

    #[test]
    fn units_and_kernel_settings_are_those_of_packaging() {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
        let folders: Vec<_> = fs::read_dir(packaging)
            .unwrap()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                packaged(&path).map(|folder| (folder, fs::read_to_string(&path).unwrap()))
            })
            .collect();
        let settings = folders.iter().filter(|(folder, _)| *folder == "etc/sysctl.d");
        let probes = "net.ipv4.tcp_timestamps = 0";
        assert_eq!(settings.filter(|(_, text)| text.contains(probes)).count(), 1);
        assert!(folders.iter().any(|(folder, _)| *folder == "usr/lib/systemd/system"));
        let own = include_str!("../files/etc/sysctl.d/50-gabion.conf");
        assert!(!own.contains("tcp_timestamps"), "it is said in packaging/ alone");
    }

    #[test]
    fn nothing_blacklists_what_custom_data_is_read_with() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(!checkout.join("files/etc/modprobe.d").exists());
    }
}
