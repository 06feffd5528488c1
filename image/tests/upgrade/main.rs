//! `gabion-upgrade`, on a machine of files.

#![allow(clippy::unwrap_used)]

mod machine;
mod power_cut;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use machine::{Machine, ROOT_BYTES};

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
    let machine = Machine::upgraded("1.0", "1.1");
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
    let machine = Machine::upgraded("1.0", "1.1");
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

#[test]
fn a_label_makes_a_version_higher() {
    let machine = Machine::new("0.1.0-20261122202400");
    let bundle = machine.bundle("0.1.0-20261122202400.next", |_| ());
    machine.succeeds(&["install", &bundle]);
    let there = ["gabion_0.1.0-20261122202400.efi", "gabion_0.1.0-20261122202400.next+3.efi"];
    assert_eq!(machine.kernels(), there);
}

#[test]
fn a_pending_downgrade_gives_way_to_another_version() {
    let machine = Machine::new("1.10");
    let lower = machine.bundle("1.9", |_| ());
    machine.succeeds(&["install", &lower]);
    assert_eq!(machine.kernels(), ["gabion_1.10+0.efi", "gabion_1.9+3.efi"]);
    let higher = machine.bundle("1.11", |_| ());
    machine.succeeds(&["install", &higher]);
    assert_eq!(machine.kernels(), ["gabion_1.10.efi", "gabion_1.11+3.efi"]);
}

#[test]
fn what_does_not_belong_here_changes_nothing() {
    type Change = fn(&Path);
    let cases: [(&str, Change, &str); 3] = [
        ("1.1", |folder| fs::write(folder.join("ARCHITECTURE"), "s390x\n").unwrap(), "s390x"),
        (
            "1.1",
            |folder| {
                let root = vec![7; usize::try_from(ROOT_BYTES).unwrap() + 1];
                fs::write(folder.join("root.squashfs"), root).unwrap();
            },
            "nothing was changed",
        ),
        ("../1.1", |_| (), "cannot be the name"),
    ];
    for (version, change, reason) in cases {
        let machine = Machine::new("1.0");
        let bundle = machine.bundle_of(version, change, |_| ());
        let said = machine.fails(&["install", &bundle]);
        assert!(said.contains(reason), "{said}");
        assert_eq!(machine.kernels(), ["gabion_1.0.efi"]);
        assert!(fs::read(machine.root("b")).unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_full_esp_changes_nothing() {
    let machine = Machine::new("1.0");
    let bundle = machine.bundle("1.1", |_| ());
    let programs = machine.path("programs");
    fs::create_dir(&programs).unwrap();
    let df = programs.join("df");
    fs::write(&df, "#!/bin/sh\necho Avail; echo 4\n").unwrap();
    fs::set_permissions(&df, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = machine.command(&["install", &bundle]).env("PATH", &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the ESP has room for 4: nothing was changed"), "{said}");
    assert_eq!(machine.kernels(), ["gabion_1.0.efi"]);
    // The kernel that it takes the place of makes room.
    fs::write(machine.path("kernels/gabion_0.9.efi"), [7; 64]).unwrap();
    let output = machine.command(&["install", &bundle]).env("PATH", &path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn two_at_once_do_not_write_into_one_root() {
    let machine = Machine::new("1.0");
    let bundle = machine.bundle("1.1", |_| ());
    let lock = fs::File::create(machine.path("lock")).unwrap();
    lock.lock().unwrap();
    assert!(machine.fails(&["install", &bundle]).contains("another gabion-upgrade is at work"));
    assert!(machine.fails(&["rollback"]).contains("another gabion-upgrade is at work"));
    lock.unlock().unwrap();
    machine.succeeds(&["install", &bundle]);
}

#[test]
fn a_version_that_was_given_up_is_told_of() {
    let machine = Machine::new("1.0");
    assert_eq!(machine.succeeds(&["failures"]), "");
    fs::write(machine.path("kernels/gabion_1.1+0-3.efi"), "kernel").unwrap();
    let told = "gabion: version 1.1 has not become good in 3 tries; 1.0 runs\n";
    assert_eq!(machine.succeeds(&["failures"]), told);
    assert!(machine.succeeds(&["status"]).contains("there: 1.1, has used up its tries"));
    // Put behind by its owner: no failure.
    let behind = machine.path("kernels/gabion_1.1+0.efi");
    fs::rename(machine.path("kernels/gabion_1.1+0-3.efi"), behind).unwrap();
    assert_eq!(machine.succeeds(&["failures"]), "");
}
