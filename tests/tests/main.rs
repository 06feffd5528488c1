//! One binary for all integration tests.

mod lab;
mod scenarios;
mod tidy;
mod walks;
