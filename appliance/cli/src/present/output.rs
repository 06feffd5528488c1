//! Writing to standard output, which may be a pipe whose reader has seen enough.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line.
///
/// # Errors
/// If nobody reads it: the command ends quietly then.
pub(crate) fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints a text as it is.
///
/// # Errors
/// If nobody reads it: the command ends quietly then.
pub(crate) fn write_out(text: impl Display) -> io::Result<()> {
    write!(io::stdout(), "{text}")
}
