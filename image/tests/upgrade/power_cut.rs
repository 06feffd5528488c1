//! Power that is cut at any step: the boot loader and the initramfs, as far as they decide what runs then.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::machine::Machine;

/// Whatever changes something on the disk. `tar` writes the new kernel, by the shell's own hand.
const WRITERS: [&str; 5] = ["dd", "mv", "rm", "sync", "tar"];

/// Stands in a writer's place. The one whose turn it is ends everything: half done, or not begun.
const STAND_IN: &str = r#"#!/bin/sh
name=${0##*/}
programs=${0%/*}
turn=$(($(cat "$programs/turn") + 1))
echo "$turn" >"$programs/turn"
PATH=${PATH#*:}
if [ "$turn" = "$CUT" ]; then
    case $name in
    tar) tar "$@" | head -c 5 ;;
    dd) for word in "$@"; do case $word in of=*) head -c 5 | dd "$word" conv=notrunc status=none ;; esac; done ;;
    esac
    kill -9 0
fi
exec "$name" "$@"
"#;

fn install_stand_ins(machine: &Machine) -> String {
    let programs = machine.path("programs");
    fs::create_dir_all(&programs).unwrap();
    for name in WRITERS {
        let path = programs.join(name);
        fs::write(&path, STAND_IN).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(programs.join("turn"), "0\n").unwrap();
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap())
}

/// A kernel on the ESP: version, and tries that are left if it is counted.
#[derive(Debug, Clone)]
struct Entry {
    version: String,
    left: Option<u32>,
    is_whole: bool,
}

/// All that the boot loader sees, with whether version and root belong together.
fn entries(machine: &Machine) -> Vec<Entry> {
    let seen = machine.kernels().into_iter();
    let kernels = seen.filter(|name| name.starts_with("gabion_") && name.ends_with(".efi"));
    kernels.map(|name| entry(machine, &name)).collect()
}

fn entry(machine: &Machine, name: &str) -> Entry {
    let stem = name.trim_start_matches("gabion_").trim_end_matches(".efi");
    let (version, count) = stem.split_once('+').map_or((stem, None), |(v, c)| (v, Some(c)));
    let left = count.map(|count| count.split('-').next().unwrap().parse().unwrap());
    let kernel = fs::read_to_string(machine.path(&format!("kernels/{name}"))).unwrap();
    let is_whole = ["a", "b"].into_iter().any(|slot| {
        let root = fs::read(machine.root(slot)).unwrap();
        kernel == format!("kernel-{slot}.efi of {version}")
            && root.starts_with(format!("root.squashfs of {version}\0").as_bytes())
    });
    Entry { version: version.to_owned(), left, is_whole }
}

/// Which version runs in the end. Each try of one that cannot run takes a counter; without one it is tried for ever.
fn boots(machine: &Machine) -> Option<String> {
    let mut entries = entries(machine);
    loop {
        // As systemd-boot orders them; the versions here sort as text.
        let order = |entry: &&mut Entry| (entry.left != Some(0), entry.version.clone());
        let first = entries.iter_mut().max_by_key(order)?;
        if first.is_whole {
            return Some(first.version.clone());
        }
        first.left = Some(first.left.filter(|left| *left > 0)? - 1);
    }
}

/// Cuts the power at each step of one call, and lets the machine boot after each.
fn cut_everywhere(prepare: impl Fn() -> Machine, call: &[&str], versions: [&str; 2]) {
    let mut seen = Vec::new();
    for cut in 1.. {
        let machine = prepare();
        let path = install_stand_ins(&machine);
        let bundle = machine.path("bundle.tar").into_os_string().into_string().unwrap();
        let words: Vec<_> =
            call.iter().map(|word| if *word == "BUNDLE" { &*bundle } else { word }).collect();
        let mut command = machine.command(&words);
        command.env("PATH", path).env("CUT", cut.to_string()).process_group(0);
        let is_done = command.output().unwrap().status.success();
        let runs = boots(&machine);
        let kernels = machine.kernels();
        assert!(
            runs.as_deref().is_some_and(|version| versions.contains(&version)),
            "step {cut}: {kernels:?}"
        );
        seen.extend(runs);
        if is_done {
            assert!(cut > 3, "nothing was cut");
            assert_eq!(seen.last().map(String::as_str), Some(versions[1]));
            return;
        }
    }
}

fn fill(machine: &Machine, slot: &str, version: &str) {
    let mut root = fs::read(machine.root(slot)).unwrap();
    let text = format!("root.squashfs of {version}");
    root[..text.len()].copy_from_slice(text.as_bytes());
    fs::write(machine.root(slot), root).unwrap();
}

fn with_bundle(running: &str, version: &str) -> Machine {
    let machine = Machine::new(running);
    fill(&machine, "a", running);
    machine.bundle(version, |_: &Path| ());
    machine
}

/// With a version before in the other root, and a bundle of the next.
fn upgraded_once() -> Machine {
    let machine = with_bundle("1.1", "1.2");
    fill(&machine, "b", "1.0");
    fs::write(machine.path("kernels/gabion_1.0.efi"), "kernel-b.efi of 1.0").unwrap();
    machine
}

#[test]
fn a_power_cut_at_any_step_of_an_upgrade_leaves_a_version_that_boots() {
    cut_everywhere(|| with_bundle("1.0", "1.1"), &["install", "BUNDLE"], ["1.0", "1.1"]);
}

#[test]
fn a_power_cut_at_any_step_of_a_second_upgrade_leaves_a_version_that_boots() {
    cut_everywhere(upgraded_once, &["install", "BUNDLE"], ["1.1", "1.2"]);
}

#[test]
fn a_power_cut_at_any_step_of_a_downgrade_leaves_a_version_that_boots() {
    cut_everywhere(|| with_bundle("1.1", "1.0"), &["install", "BUNDLE"], ["1.1", "1.0"]);
}

#[test]
fn a_power_cut_at_any_step_of_a_roll_back_leaves_a_version_that_boots() {
    cut_everywhere(upgraded_once, &["rollback"], ["1.1", "1.0"]);
}

#[test]
fn after_a_power_cut_the_upgrade_can_be_made_again() {
    let machine = with_bundle("1.0", "1.1");
    let path = install_stand_ins(&machine);
    let bundle = machine.path("bundle.tar").into_os_string().into_string().unwrap();
    // In the middle of the new kernel.
    let step = |cut: u32| {
        fs::write(machine.path("programs/turn"), "0\n").unwrap();
        let mut command = machine.command(&["install", &bundle]);
        command.env("PATH", &path).env("CUT", cut.to_string()).process_group(0).output().unwrap();
        machine.path("kernels/new.tmp").exists()
    };
    assert!((1..100).any(step), "no step leaves a part of the kernel");
    machine.succeeds(&["install", &bundle]);
    assert_eq!(machine.kernels(), ["gabion_1.0.efi", "gabion_1.1+3.efi"]);
}
