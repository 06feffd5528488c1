//! Policy text to [`RuleSet`] to [`Decision`]. Pure: no clock, socket, thread or file.
//!
//! The modules stand in the order in which a policy meets them: it is written, checked, compiled,
//! and then asked what becomes of a packet.

mod diagnostic;
mod load;

pub mod limits;
mod yaml;

mod document;
mod read;
mod schema;

mod address;
mod duration;
mod service;
mod term;

mod check;
mod lint;
mod object;
mod policy;
mod print;
mod resolve;
mod settings;

mod classifier;
mod compile;
mod decision;
mod nat;
mod ruleset;
mod timeouts;

mod embedded;
mod explain;
mod notation;

pub use decision::{Action, Decision, LogMode, Query, RuleId, Transport, ZoneId};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use embedded::TestOutcome;
pub use explain::{ExplainError, Explanation, Stage, Step, StepOutcome, Translated};
pub use lint::{Lint, LintGroup};
pub use load::{Loaded, Refused, load, load_and_lint, load_and_test};
pub use nat::{
    DestinationNat, Filtering, Mapping, NatId, NatQuery, NatRule, Published, SourceAddress,
    SourceNat,
};
pub use notation::{PacketText, ParsePacketError};
pub use policy::{Expiry, Policy};
pub use ruleset::{Rule, RuleSet, Zone, ZoneLookup};
pub use schema::json_schema;
pub use settings::{FloodLimits, Profile, Settings, Timeouts};
#[doc(hidden)]
pub use yaml::both_readings;
