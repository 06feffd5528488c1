//! The serial console of a machine: what it has said, and when.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// One line, without colours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Since the machine was started.
    pub at: Duration,
    pub text: String,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<Line>,
    has_ended: bool,
}

/// Follows the console on a thread of its own, which ends with it.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<(Mutex<Said>, Condvar)>,
}

impl Console {
    pub(super) fn follow(
        output: impl Read + Send + 'static,
        log: &Path,
        began: Instant,
        is_shown: bool,
    ) -> Result<Self> {
        let mut log =
            File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let console = Self { shared: Arc::default() };
        let shared = Arc::clone(&console.shared);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut bytes = Vec::new();
            while matches!(output.read_until(b'\n', &mut bytes), Ok(1..)) {
                let (at, text) = (began.elapsed(), plain(&String::from_utf8_lossy(&bytes)));
                bytes.clear();
                // A full disk must not stop the machine.
                let _ = writeln!(log, "{:9.3} {text}", at.as_secs_f64());
                if is_shown {
                    println!("{:9.3} {text}", at.as_secs_f64());
                }
                lock(&shared.0).lines.push(Line { at, text });
                shared.1.notify_all();
            }
            lock(&shared.0).has_ended = true;
            shared.1.notify_all();
        });
        Ok(console)
    }

    /// How many lines there are: what comes later can be waited for from here.
    pub fn lines(&self) -> usize {
        lock(&self.shared.0).lines.len()
    }

    /// Waits for a line that contains `text`, among those from line `from` on.
    ///
    /// # Errors
    /// It has not come in time, or the machine has ended.
    pub fn wait_for(&self, text: &str, from: usize, within: Duration) -> Result<Line> {
        let end = Instant::now() + within;
        let mut said = lock(&self.shared.0);
        let mut seen = from;
        loop {
            let news = said.lines.get(seen..).unwrap_or_default();
            if let Some(line) = news.iter().find(|line| line.text.contains(text)) {
                return Ok(line.clone());
            }
            seen = seen.max(said.lines.len());
            let left = end.saturating_duration_since(Instant::now());
            let last = said.lines.last().map_or("nothing", |line| &line.text);
            if said.has_ended {
                bail!("the machine has ended before it has said {text:?}; last: {last}");
            }
            if left.is_zero() {
                bail!("the machine has not said {text:?} in {} s; last: {last}", within.as_secs());
            }
            said = self.shared.1.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the machine has ended, and tells whether it has.
    pub fn wait_for_end(&self, within: Duration) -> bool {
        let said = lock(&self.shared.0);
        let waited = self.shared.1.wait_timeout_while(said, within, |said| !said.has_ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }
}

/// Nothing that a panic could leave behind makes lines wrong.
fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without the terminal's control sequences.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    rest.by_ref().find(char::is_ascii_alphabetic);
                }
            }
            c if c.is_control() && c != '\t' => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_waited_for_and_lose_their_colours() {
        let folder = tempfile::tempdir().unwrap();
        let output = &b"one\r\n[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mgabiond\x1b[0m\n"[..];
        let log = folder.path().join("log");
        let console = Console::follow(output, &log, Instant::now(), false).unwrap();
        let minute = Duration::from_secs(60);
        assert_eq!(
            console.wait_for("gabiond", 0, minute).unwrap().text,
            "[  OK  ] Started gabiond"
        );
        assert!(console.wait_for_end(minute));
        assert!(console.wait_for("one", 1, minute).is_err(), "that was before");
        assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 2);
    }
}
