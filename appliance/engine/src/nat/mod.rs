//! Source NAT's memory: which external endpoint stands for which internal one.

mod mappings;
mod ports;

pub(crate) use mappings::{Mapped, MappingId, Mappings};
pub(crate) use ports::PortAllocator;
