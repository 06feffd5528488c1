//! A machine of files: its ESP is a folder, its roots are files, its kernel line too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/files/usr/sbin/gabion-upgrade");
/// A root is larger than what an upgrade writes.
pub(crate) const ROOT_BYTES: u64 = 64 << 10;

pub(crate) struct Machine {
    folder: TempDir,
}

impl Machine {
    /// Version `running` runs from root a, and is good.
    pub(crate) fn new(running: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(machine.path("kernels")).unwrap();
        fs::create_dir_all(machine.path("devices")).unwrap();
        for slot in ["a", "b"] {
            let root = fs::File::create(machine.root(slot)).unwrap();
            root.set_len(ROOT_BYTES).unwrap();
        }
        machine.runs(running, "a");
        fs::write(
            machine.path(&format!("kernels/gabion_{running}.efi")),
            format!("kernel-a.efi of {running}"),
        )
        .unwrap();
        let script = fs::read_to_string(SCRIPT)
            .unwrap()
            .replace("=/proc/cmdline", &format!("={}", machine.path("line").display()))
            .replace("=/boot/EFI/Linux", &format!("={}", machine.path("kernels").display()))
            .replace("=/dev/disk/by-partlabel", &format!("={}", machine.path("devices").display()))
            .replace("=/run/gabion-upgrade.lock", &format!("={}", machine.path("lock").display()));
        fs::write(machine.path("script"), script).unwrap();
        machine
    }

    /// The same after an upgrade: version `running` runs from root b, and is good.
    pub(crate) fn upgraded(before: &str, running: &str) -> Self {
        let machine = Self::new(before);
        machine.runs(running, "b");
        fs::write(machine.path(&format!("kernels/gabion_{running}.efi")), "kernel").unwrap();
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self, slot: &str) -> PathBuf {
        self.path(&format!("devices/gabion-root-{slot}"))
    }

    pub(crate) fn runs(&self, version: &str, slot: &str) {
        let line = format!("gabion.root=gabion-root-{slot} gabion.version={version} ro\n");
        fs::write(self.path("line"), line).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg(self.path("script")).args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it refuses.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn kernels(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("kernels")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A bundle of `version`; `damage` changes its files after their sums were made.
    pub(crate) fn bundle(&self, version: &str, damage: impl Fn(&Path)) -> String {
        self.bundle_of(version, |_| (), damage)
    }

    /// The same; `change` changes its files before.
    pub(crate) fn bundle_of(
        &self,
        version: &str,
        change: impl Fn(&Path),
        damage: impl Fn(&Path),
    ) -> String {
        let parts = ["VERSION", "ARCHITECTURE", "kernel-a.efi", "kernel-b.efi", "root.squashfs"];
        let folder = self.path("parts");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("VERSION"), format!("{version}\n")).unwrap();
        fs::write(folder.join("ARCHITECTURE"), architecture()).unwrap();
        for name in &parts[2..] {
            fs::write(folder.join(name), format!("{name} of {version}")).unwrap();
        }
        change(&folder);
        let mut sum = Command::new("sha256sum");
        let sums = sum.args(parts).current_dir(&folder).output().unwrap().stdout;
        fs::write(folder.join("SHA256SUMS"), sums).unwrap();
        damage(&folder);
        let bundle = self.path("bundle.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).arg("-cf").arg(&bundle).arg("SHA256SUMS").args(parts);
        assert!(tar.status().unwrap().success());
        bundle.into_os_string().into_string().unwrap()
    }
}

/// What this machine runs.
fn architecture() -> Vec<u8> {
    Command::new("uname").arg("-m").output().unwrap().stdout
}
