//! `gabiond`: the wiring between the engine, the datapath and the operator.
#![forbid(unsafe_code)]

pub mod config;
pub mod guard;
pub mod health;
mod http;
pub mod readiness;
pub mod store;
