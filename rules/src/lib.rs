//! Policy text to [`RuleSet`] to [`Decision`]. Pure: no clock, socket, thread or file.
//!
//! The modules stand in the order in which a policy meets them: it is written, checked, compiled,
//! and then asked what becomes of a packet.

mod decision;
mod nat;
mod ruleset;
mod settings;

pub use decision::{Action, Decision, LogMode, Query, RuleId, Transport, ZoneId};
pub use nat::{DestinationNat, Filtering, Mapping, NatId, NatQuery, SourceAddress, SourceNat};
pub use ruleset::{Rule, RuleSet, Zone};
pub use settings::{FloodLimits, Settings, Timeouts};
