//! The userspace datapath and the network watch against a real kernel, in network namespaces.
//!
//! These tests want root and `GABION_NETNS=1`; without the variable they say so and pass.
#![allow(clippy::unwrap_used)]

mod between;
mod frames;
mod lab;
mod links;
mod network;
mod pins;
mod translated;
