//! Source NAT's memory: which external endpoint stands for which internal one.

mod bitmap;
mod mappings;
mod names;
mod ports;
mod shared;

pub(crate) use mappings::{Mapped, MappingId, Mappings};
pub(crate) use names::RuleNames;
pub(crate) use ports::PortAllocator;
pub(crate) use shared::{Pairing, SharedPorts, free_port};
