//! The daemon's own messages: to the journal where it is asked for, to standard error otherwise.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Log;

/// Begins them.
///
/// # Errors
/// If the journal is asked for and is not there.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry().with(LevelFilter::from_level(log.level));
    if log.journald {
        let journal = tracing_journald::layer()
            .context("log.journald: the journal is not there; set log.journald = false")?;
        registry.with(journal).init();
        return Ok(());
    }
    let messages = tracing_subscriber::fmt::layer();
    if is_read_by_systemd() {
        // The journal has the time.
        registry.with(messages.with_ansi(false).without_time().with_writer(Levelled)).init();
    } else {
        let messages = messages.with_ansi(io::stderr().is_terminal());
        registry.with(messages.with_writer(io::stderr)).init();
    }
    Ok(())
}

/// Says why the daemon ends.
pub fn fail(why: &str) {
    let level = if is_read_by_systemd() { prefix(Level::ERROR) } else { "" };
    for line in why.lines() {
        eprintln!("{level}gabiond: {line}");
    }
}

/// Whether the journal reads standard error, and levels at the beginning of lines (systemd.exec(5), sd-daemon(3)):
/// by them it shows what is wrong on the console, and nothing else.
fn is_read_by_systemd() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    // What inherits the variable may write elsewhere.
    rustix::fs::fstat(io::stderr()).is_ok_and(|at| told == format!("{}:{}", at.st_dev, at.st_ino))
}

const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Standard error, with each message's level before it.
struct Levelled;

impl<'a> MakeWriter<'a> for Levelled {
    type Writer = Line<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { to: io::stderr(), level: Level::INFO }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Self::Writer {
        Line { to: io::stderr(), level: *about.level() }
    }
}

/// Takes one message in one write, and hands it on in one, as others write between two.
struct Line<W> {
    to: W,
    level: Level,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let whole = [prefix(self.level).as_bytes(), message].concat();
        self.to.write_all(&whole)?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_level_before_it() {
        for (level, expected) in
            [(Level::ERROR, "<3>lost\n"), (Level::WARN, "<4>lost\n"), (Level::INFO, "<6>lost\n")]
        {
            let mut line = Line { to: Vec::new(), level };
            line.write_all(b"lost\n").unwrap();
            assert_eq!(line.to, expected.as_bytes());
        }
    }
}
