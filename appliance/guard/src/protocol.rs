//! The conversation with the daemon: one JSON object per line, either way.

use serde::{Deserialize, Serialize};

use crate::configuration::{Configuration, ConfigurationError, WrittenConfiguration};

/// What the daemon says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Put the rules for this in place, instead of those that are there.
    Configure(Configuration),
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// [`RequestError`]; nothing has been changed then.
    pub(crate) fn parse(line: &str) -> Result<Self, RequestError> {
        match serde_json::from_str(line)? {
            Written::Configure(configuration) => Ok(Self::Configure(configuration.try_into()?)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Configure(WrittenConfiguration),
}

/// What the guard says.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event {
    /// The rules are in place: they were read back and are the ones that were asked for.
    Installed,
    /// Somebody changed the rules or took them away. `Installed` follows when they are back.
    Lost,
    /// What was asked for was not done; the rules that were in place before still are, unless
    /// `Lost` came first.
    Error { message: String },
}

/// A line that is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the request is not understood: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn configure() {
        let line = r#"{"configure":{"data_devices":["eth1","eth2"],"tcp_ports":[4480,4481]}}"#;
        let expected = Configuration::new(["eth1", "eth2"], [4480, 4481]).unwrap();
        assert_eq!(Request::parse(line).unwrap(), Request::Configure(expected));
    }

    #[test]
    fn requests_that_are_refused_say_why() {
        for (line, why) in [
            ("", "EOF"),
            ("{}", "expected value"),
            (r#"{"remove":{}}"#, "unknown variant `remove`"),
            (r#"{"configure":{"data_devices":["eth1"]}}"#, "missing field `tcp_ports`"),
            (
                r#"{"configure":{"data_devices":["eth1"],"tcp_ports":[],"x":1}}"#,
                "unknown field `x`",
            ),
            (r#"{"configure":{"data_devices":["eth1"],"tcp_ports":[65536]}}"#, "65536"),
            (r#"{"configure":{"data_devices":["a/b"],"tcp_ports":[]}}"#, "a/b"),
            (r#"{"configure":{"data_devices":[],"tcp_ports":[1]}}"#, "nothing to guard"),
        ] {
            let message = Request::parse(line).unwrap_err().to_string();
            assert!(message.contains(why), "{line}: {message}");
        }
    }

    #[test]
    fn events() {
        let error = Event::Error { message: "a \"b\"".to_owned() };
        for (event, line) in [
            (Event::Installed, r#"{"event":"installed"}"#),
            (Event::Lost, r#"{"event":"lost"}"#),
            (error, r#"{"event":"error","message":"a \"b\""}"#),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
    }
}
