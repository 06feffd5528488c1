//! The policy language from outside: golden files and hostile texts.
#![allow(clippy::unwrap_used)]

mod docs;
mod golden;
mod hostile;
