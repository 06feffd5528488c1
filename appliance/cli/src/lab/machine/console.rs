//! A machine's serial port.

use std::fs;
use std::path::PathBuf;

/// What the serial port has said, all boots of this machine together.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    path: PathBuf,
}

impl Console {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Without what terminals make of it.
    pub(crate) fn text(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// The first line that has all these words.
    pub(crate) fn find(&self, words: &[&str]) -> Option<String> {
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        self.text().lines().find(has_all).map(|line| line.trim().to_owned())
    }

    /// In how many lines this stands.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.text().lines().filter(|line| line.contains(words)).count()
    }

    /// The end of it.
    pub(crate) fn last_words(&self) -> String {
        const LINES: usize = 15;
        let text = self.text();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
