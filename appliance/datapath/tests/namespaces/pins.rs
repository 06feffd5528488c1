//! What processes leave in a bpf file system, and others take away.

use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use gabion_datapath::ebpf::{OpenPinsError, Pins, detach};

const DAEMONS: usize = 4;
const ROUNDS: usize = 1_000;
const OPENINGS: usize = 20_000;

/// A bpf file system that goes with this.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// All daemons that start together look for what an earlier one has left; one takes it away, and the others failed.
#[test]
fn daemons_that_start_together_take_away_what_was_left_once() {
    if std::env::var_os("GABION_NETNS").is_none() {
        eprintln!("skipped: wants root and GABION_NETNS=1");
        return;
    }
    let mounted = Mounted(tempfile::tempdir().unwrap());
    let directory = mounted.0.path().join("pins");
    let start = Barrier::new(DAEMONS);
    for _ in 0..ROUNDS {
        drop(Pins::open(&directory).unwrap());
        std::thread::scope(|scope| {
            let look = || {
                start.wait();
                goes_on(&directory)
            };
            let daemons: Vec<_> = (0..DAEMONS).map(|_| scope.spawn(look)).collect();
            assert!(daemons.into_iter().all(|daemon| daemon.join().unwrap()));
        });
        assert!(!directory.exists());
    }
}

/// A child has all files of its parent open until it is another program, and with them the lock of a parent that has let
/// go.
#[test]
fn a_directory_is_free_again_though_children_are_being_made() {
    if std::env::var_os("GABION_NETNS").is_none() {
        eprintln!("skipped: wants root and GABION_NETNS=1");
        return;
    }
    let mounted = Mounted(tempfile::tempdir().unwrap());
    let directory = mounted.0.path().join("pins");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let refused = (0..OPENINGS).find_map(|_| Pins::open(&directory).err());
        over.store(true, Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

/// Whether a daemon can go on.
fn goes_on(directory: &Path) -> bool {
    matches!(detach(directory), Ok(_) | Err(OpenPinsError::Taken(_)))
}
