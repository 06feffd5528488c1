//! The policy language from outside: golden files and hostile texts.
#![allow(clippy::unwrap_used)]

mod golden;
mod hostile;
