//! `gabiond`: the wiring between the engine, the datapath and the operator.
#![forbid(unsafe_code)]

pub mod config;
pub mod store;
