//! Every file of every corpus, through its target.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gabion_fuzz::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn replay(name: &str) {
    let target = gabion_fuzz::named(name).unwrap();
    let folder = corpus().join(target.name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        if let Err(panic) = std::panic::catch_unwind(|| (target.run)(&bytes)) {
            eprintln!("{} fails on {}", target.name, file.display());
            std::panic::resume_unwind(panic);
        }
    }
}

/// The folders of the corpus are the targets, and each has a test below.
#[test]
fn every_target_is_replayed() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let folders = fs::read_dir(corpus()).unwrap();
    let folders = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), targets);
    let tests = include_str!("replay.rs");
    for target in targets {
        assert!(tests.contains(&format!("replay(\"{target}\")")), "{target} is not replayed");
    }
}

/// Covers: 3.6, 3.7
#[test]
fn frames_are_survived_and_read_as_others_read_them() {
    replay("frame");
}

/// Covers: 3.5
#[test]
fn only_whole_datagrams_leave() {
    replay("fragments");
}

/// Covers: 3.1
#[test]
fn lying_icmp_errors_change_nothing_and_show_nothing() {
    replay("quote");
}

/// Covers: 3.9
#[test]
fn walks_lose_leak_and_permit_nothing() {
    replay("walk");
}

#[test]
fn a_member_that_says_anything_breaks_nothing() {
    replay("peers");
}

#[test]
fn messages_of_the_kernel_are_told_once() {
    replay("netlink");
}

#[test]
fn requests_become_values_or_are_refused() {
    replay("api");
}

/// Covers: 3.8
#[test]
fn policies_print_themselves_and_decide_the_same() {
    replay("policy");
}

#[test]
fn packets_print_themselves() {
    replay("packet");
}

#[test]
fn configurations_are_sound_or_refused() {
    replay("config");
}

#[test]
fn first_boot_data_holds_the_node_or_becomes_its_files() {
    replay("first-boot");
}

#[test]
fn only_the_guards_word_means_that_it_is_in_place() {
    replay("guard");
}

#[test]
fn heads_of_requests() {
    replay("http");
}

#[test]
fn captures_read_back() {
    replay("pcap");
}

#[test]
fn accidents_in_the_state_directory_invent_nothing() {
    replay("store");
}

#[test]
fn virtio_headers_come_back() {
    replay("vnet");
}
