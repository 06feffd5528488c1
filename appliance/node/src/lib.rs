//! `gabiond`: the wiring between the engine, the datapath and the operator.
#![forbid(unsafe_code)]

mod clock;
pub mod config;
mod flow;
mod generations;
pub mod guard;
pub mod health;
mod http;
mod network;
mod offload;
pub mod readiness;
mod record;
pub mod store;
mod worker;
