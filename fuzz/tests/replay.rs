//! Every file of every corpus, through its target.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gabion_fuzz::{TARGETS, Target};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn replay(target: &Target) {
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

macro_rules! replays {
    ($($(#[$covers:meta])* $name:ident,)*) => {
        $($(#[$covers])*
        #[test]
        fn $name() {
            replay(gabion_fuzz::named(stringify!($name)).unwrap());
        })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($name)),*]);
            let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(replayed, targets);
            for folder in fs::read_dir(corpus()).unwrap() {
                let name = folder.unwrap().file_name().into_string().unwrap();
                assert!(targets.contains(name.as_str()), "corpus/{name} belongs to no target");
            }
        }
    };
}

replays! {
    frame,
    fragments,
    quote,
    walk,
    netlink,
    api,
    policy,
    packet,
    config,
    guard,
    http,
    pcap,
    store,
    vnet,
}
