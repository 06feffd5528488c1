//! `gabiond`: the wiring between the engine, the datapath and the operator.
//!
//! The modules stand in the order in which the daemon meets them: settings and state, the packet
//! thread and what surrounds it, the policy, and those who ask. They are public for the tests alone.
#![forbid(unsafe_code)]

pub mod config;
pub mod privilege;
pub mod store;

pub mod clock;
pub mod generations;
pub mod fast_path;
pub mod offload;
pub mod worker;

pub mod guard;
pub mod network;
pub mod readiness;

pub mod flow;
pub mod record;

pub mod explain;
pub mod policy;

pub mod cluster;

pub mod drain;
pub mod azure;

pub mod control;
pub mod health;
pub mod http;
pub mod messages;
pub mod metrics;

pub mod node;
pub mod service;
