//! Subjects for benchmarks: an engine with a policy and a network, and established flows in it.
//!
//! What is timed, and what must not allocate, is decided by `benches/` and `tests/`; the comparison
//! with the kernel's firewall is the program `peer`.

mod flows;
mod pair;
mod policy;
pub mod programs;
pub mod rulesets;
mod subject;

pub use flows::{Established, Kind};
pub use pair::Pair;
pub use policy::{NETWORKS, policy};
pub use subject::{EXTERNAL, INTERNAL, START, Subject, network};
