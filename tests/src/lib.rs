//! What the integration tests and the fuzz targets share: a network, frames in words, and the walks
//! with their model of what must hold.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

pub mod cluster;
pub mod fast_path;
pub mod network;
pub mod random;
pub mod walk;
pub mod words;
