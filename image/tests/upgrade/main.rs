//! `gabion-upgrade`, on a machine of files: its ESP is a folder, its roots are files, its kernel line too.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/files/usr/sbin/gabion-upgrade");
/// A root is larger than what an upgrade writes.
const ROOT_BYTES: u64 = 64 << 10;

struct Machine {
    folder: TempDir,
}

impl Machine {
    /// Version `running` runs from root a, and is good.
    fn new(running: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(machine.path("kernels")).unwrap();
        fs::create_dir_all(machine.path("devices")).unwrap();
        for slot in ["a", "b"] {
            let root = fs::File::create(machine.root(slot)).unwrap();
            root.set_len(ROOT_BYTES).unwrap();
        }
        machine.runs(running, "a");
        fs::write(machine.path(&format!("kernels/gabion_{running}.efi")), "kernel").unwrap();
        let script = fs::read_to_string(SCRIPT)
            .unwrap()
            .replace("=/proc/cmdline", &format!("={}", machine.path("line").display()))
            .replace("=/boot/EFI/Linux", &format!("={}", machine.path("kernels").display()))
            .replace("=/dev/disk/by-partlabel", &format!("={}", machine.path("devices").display()));
        fs::write(machine.path("script"), script).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self, slot: &str) -> PathBuf {
        self.path(&format!("devices/gabion-root-{slot}"))
    }

    fn runs(&self, version: &str, slot: &str) {
        let line = format!("gabion.root=gabion-root-{slot} gabion.version={version} ro\n");
        fs::write(self.path("line"), line).unwrap();
    }

    fn call(&self, arguments: &[&str]) -> Output {
        Command::new("sh").arg(self.path("script")).args(arguments).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it refuses.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    fn kernels(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("kernels")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A bundle of `version`; `damage` changes its files after their sums were made.
    fn bundle(&self, version: &str, damage: impl Fn(&Path)) -> String {
        let parts = ["VERSION", "kernel-a.efi", "kernel-b.efi", "root.squashfs"];
        let folder = self.path("parts");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("VERSION"), format!("{version}\n")).unwrap();
        for name in &parts[1..] {
            fs::write(folder.join(name), format!("{name} of {version}")).unwrap();
        }
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

#[test]
fn an_upgrade_writes_the_other_root_and_puts_its_kernel_on_trial() {
    let machine = Machine::new("1.0");
    let bundle = machine.bundle("1.1", |_| ());
    machine.succeeds(&["install", &bundle]);
    assert_eq!(machine.kernels(), ["gabion_1.0.efi", "gabion_1.1+3.efi"]);
    let kernel = fs::read_to_string(machine.path("kernels/gabion_1.1+3.efi")).unwrap();
    assert_eq!(kernel, "kernel-b.efi of 1.1");
    assert!(fs::read(machine.root("b")).unwrap().starts_with(b"root.squashfs of 1.1\0"));
    assert_eq!(fs::metadata(machine.root("b")).unwrap().len(), ROOT_BYTES);
    assert!(fs::read(machine.root("a")).unwrap().iter().all(|byte| *byte == 0), "a runs");
}

#[test]
fn the_next_upgrade_goes_back_to_the_first_root_and_takes_its_kernel_away() {
    let machine = Machine::new("1.0");
    machine.runs("1.1", "b");
    fs::write(machine.path("kernels/gabion_1.1.efi"), "kernel").unwrap();
    let bundle = machine.bundle("1.2", |_| ());
    machine.succeeds(&["install", &bundle]);
    assert_eq!(machine.kernels(), ["gabion_1.1.efi", "gabion_1.2+3.efi"]);
    assert!(fs::read(machine.root("a")).unwrap().starts_with(b"root.squashfs of 1.2\0"));
}

#[test]
fn a_lower_version_comes_before_the_one_that_runs() {
    let machine = Machine::new("1.10");
    let bundle = machine.bundle("1.9", |_| ());
    machine.succeeds(&["install", &bundle]);
    assert_eq!(machine.kernels(), ["gabion_1.10+0.efi", "gabion_1.9+3.efi"]);
}

#[test]
fn rolling_back_and_forth_puts_the_other_version_on_trial() {
    let machine = Machine::new("1.0");
    machine.runs("1.1", "b");
    fs::write(machine.path("kernels/gabion_1.1.efi"), "kernel").unwrap();
    machine.succeeds(&["rollback"]);
    assert_eq!(machine.kernels(), ["gabion_1.0+3.efi", "gabion_1.1+0.efi"]);
    // It has become good.
    machine.runs("1.0", "a");
    let good = machine.path("kernels/gabion_1.0.efi");
    fs::rename(machine.path("kernels/gabion_1.0+3.efi"), good).unwrap();
    machine.succeeds(&["rollback"]);
    assert_eq!(machine.kernels(), ["gabion_1.0.efi", "gabion_1.1+3.efi"]);
}

#[test]
fn a_damaged_bundle_changes_nothing() {
    for name in ["root.squashfs", "kernel-b.efi", "VERSION"] {
        let machine = Machine::new("1.0");
        let damage = |folder: &Path| fs::write(folder.join(name), "9").unwrap();
        let bundle = machine.bundle("1.1", damage);
        let said = machine.fails(&["install", &bundle]);
        assert!(said.contains(&format!("{name} is damaged")), "{said}");
        assert_eq!(machine.kernels(), ["gabion_1.0.efi"]);
        assert!(fs::read(machine.root("b")).unwrap().iter().all(|byte| *byte == 0));
    }
    let machine = Machine::new("1.0");
    let bundle = machine.bundle("1.1", |folder| fs::write(folder.join("SHA256SUMS"), "").unwrap());
    machine.fails(&["install", &bundle]);
    assert_eq!(machine.kernels(), ["gabion_1.0.efi"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let machine = Machine::new("1.0");
    let bundle = machine.bundle("1.0", |_| ());
    assert!(machine.fails(&["install", &bundle]).contains("runs already"));
    assert!(machine.fails(&["install"]).contains("bundle"));
    assert!(machine.fails(&["install", "/nowhere"]).contains("/nowhere"));
    assert!(machine.fails(&["rollback"]).contains("no other version"));
    let (good, trial) = ("kernels/gabion_1.0.efi", "kernels/gabion_1.0+2-1.efi");
    fs::rename(machine.path(good), machine.path(trial)).unwrap();
    let bundle = machine.bundle("1.1", |_| ());
    assert!(machine.fails(&["install", &bundle]).contains("on trial"));
    assert!(machine.succeeds(&["status"]).contains("there: 1.0, on trial"));
}
