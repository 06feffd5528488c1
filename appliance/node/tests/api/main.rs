//! The API of a whole node, over its sockets. The node moves no packets (`node.datapath = "null"`), so
//! that these tests need no privilege; everything else is as in production.
#![allow(clippy::unwrap_used)]

mod azure;
mod cluster;
mod held;
mod identity;
mod partition;
mod policy;
mod process;
mod rig;
