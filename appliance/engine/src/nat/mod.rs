//! Source NAT's memory: which external endpoint stands for which internal one.

mod bitmap;
mod blocks;
mod holders;
mod mappings;
mod names;
mod order;
mod pools;
mod ports;
mod reserved;
mod shared;

pub(crate) use blocks::Blocks;
pub(crate) use holders::Holders;
pub(crate) use mappings::{Mapped, MappingId, Mappings};
pub(crate) use names::RuleNames;
pub(crate) use order::Reuse;
pub(crate) use pools::{candidates, permits};
pub(crate) use ports::{PortAllocator, Wanted, class};
pub(crate) use reserved::{reserved, used_addresses};
pub(crate) use shared::{Pairing, SharedPorts, free_port};
