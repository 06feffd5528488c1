//! Random walks: packets, time, policies, networks and neighbours, and after every step the same
//! questions. The steps come from proptest or from the bytes of a fuzzer.

mod bytes;
mod policies;
pub mod seen;
mod steps;
mod world;

pub use bytes::steps as read_steps;
pub use policies::POLICIES;
pub use seen::{Kind, Seen, packet as read_packet};
pub use steps::{NetworkChange, Step, any_step, told};
pub use world::World;
