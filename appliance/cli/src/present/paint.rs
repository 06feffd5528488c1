//! Colours, on a terminal and unless NO_COLOR is set (no-color.org).

use std::io::IsTerminal;

/// What a text means; the colour follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Warning,
    /// Beside the point.
    Faint,
    Strong,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint {
    pub(crate) coloured: bool,
}

impl Paint {
    pub(crate) fn stdout() -> Self {
        Self::on(&std::io::stdout())
    }

    pub(crate) fn stderr() -> Self {
        Self::on(&std::io::stderr())
    }

    fn on(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { coloured: stream.is_terminal() && !refused }
    }

    pub(crate) fn apply(self, tone: Tone, text: &str) -> String {
        // SGR codes of ECMA-48 section 8.3.117.
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Warning => "33",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The tone of a rule's action or a packet's verdict.
impl From<&str> for Tone {
    fn from(action: &str) -> Self {
        match action {
            "allow" => Self::Good,
            "drop" | "reject" => Self::Bad,
            "monitor" => Self::Warning,
            _ => Self::Plain,
        }
    }
}
