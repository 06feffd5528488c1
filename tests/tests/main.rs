//! One binary for all integration tests.

mod floods;
mod lab;
mod scenarios;
mod tidy;
mod walks;
