//! One binary for all integration tests.

mod cluster;
mod cluster_model;
mod equality;
mod floods;
mod lab;
mod scenarios;
mod tidy;
mod walks;
