//! Source NAT's memory: which external endpoint stands for which internal one.

mod mappings;
mod ports;

pub use mappings::{Mapped, MappingId, Mappings};
pub use ports::PortAllocator;
