//! The integration tests live in `tests/`; there is nothing here.
