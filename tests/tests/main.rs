//! One binary for all integration tests.

mod invariants;
mod lab;
mod scenarios;
mod tidy;
