//! First boot: from what the cloud hands to an instance to the files that gabiond and the host run with.
//!
//! The modules stand in the order in which first-boot data meets them: it is found, read, turned into files,
//! written, and the outcome is told. Pure are `document`, `plan`, `network`, `ovf` and the texts of `wireserver`; the
//! rest reads and writes. docs/first-boot.md is for who writes such data.
#![forbid(unsafe_code)]

pub mod limits;

pub mod instance;
pub mod media;
pub mod ovf;
pub mod source;

pub mod document;
pub mod network;
pub mod plan;

pub mod files;
pub mod host;

pub mod boot;
pub mod enrol;
pub mod report;
pub mod wireserver;
