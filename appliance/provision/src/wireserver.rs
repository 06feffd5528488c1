//! Azure's wire server, as far as a report of readiness takes it: ask which container this is, and say how it went.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use roxmltree::{Document, ParsingOptions};

use crate::limits::{ANSWER_BYTES_MAX, DESCRIPTION_CHARACTERS_MAX, REQUEST_TIMEOUT};
use crate::report::Outcome;

/// The one address and port in every virtual network.
pub const ADDRESS: ([u8; 4], u16) = ([168, 63, 129, 16], 80);
const NODES_MAX: u32 = 10_000;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the wire server {address} does not answer: {source}")]
    NoAnswer { address: SocketAddr, source: io::Error },
    #[error("the wire server's answer is not understood: {0}")]
    NotUnderstood(String),
    #[error("the wire server has no time: status {0}")]
    Busy(u16),
    #[error("the wire server refuses: status {0}")]
    Refused(u16),
}

/// Which container the instance is, by the wire server's goal state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub incarnation: String,
    pub container: String,
    pub instance: String,
}

#[derive(Debug)]
pub struct WireServer {
    address: SocketAddr,
}

impl WireServer {
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Tells how provisioning has ended.
    ///
    /// # Errors
    /// [`ReportError`]: all but a refusal may pass.
    pub fn report(&self, outcome: &Outcome) -> Result<(), ReportError> {
        let goal = self.request("GET", "goalstate", "")?;
        let goal = read_goal(&goal)?;
        self.request("POST", "health", &health(&goal, outcome)).map(drop)
    }

    fn request(&self, method: &str, what: &str, body: &str) -> Result<String, ReportError> {
        let mut text = format!(
            "{method} /machine?comp={what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             x-ms-agent-name: gabion-provision\r\nx-ms-version: 2012-11-30\r\n",
            self.address.ip()
        );
        if !body.is_empty() {
            let length = body.len();
            text +=
                &format!("Content-Type: text/xml; charset=utf-8\r\nContent-Length: {length}\r\n");
        }
        text += "\r\n";
        text += body;
        let no_answer = |source| ReportError::NoAnswer { address: self.address, source };
        let answer = self.exchange(text.as_bytes()).map_err(no_answer)?;
        read_answer(&answer)
    }

    fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let until = Instant::now() + REQUEST_TIMEOUT;
        let left = || {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                Err(io::Error::from(io::ErrorKind::TimedOut))
            } else {
                Ok(Some(left))
            }
        };
        let mut stream = TcpStream::connect_timeout(&self.address, REQUEST_TIMEOUT)?;
        stream.set_write_timeout(left()?)?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        let mut some = [0; 4_096];
        // Each read has what is left of the whole: a server that trickles ends too.
        while answer.len() as u64 <= ANSWER_BYTES_MAX {
            stream.set_read_timeout(left()?)?;
            match stream.read(&mut some)? {
                0 => return Ok(answer),
                count => answer.extend_from_slice(some.get(..count).unwrap_or_default()),
            }
        }
        Err(io::Error::other(format!("more than {ANSWER_BYTES_MAX} bytes")))
    }
}

/// The body of an answer (RFC 9112).
///
/// # Errors
/// When it is none, or says that the request has failed.
pub fn read_answer(answer: &[u8]) -> Result<String, ReportError> {
    let not_understood = |why: &str| ReportError::NotUnderstood(why.to_owned());
    let text = std::str::from_utf8(answer).map_err(|_| not_understood("no text"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| not_understood("no header"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1));
    let status = status.and_then(|status| status.parse::<u16>().ok());
    match status.ok_or_else(|| not_understood("no status"))? {
        200..=299 => {}
        // Too many requests, and everything that is the server's own fault.
        status @ (408 | 410 | 429 | 500..=599) => return Err(ReportError::Busy(status)),
        status => return Err(ReportError::Refused(status)),
    }
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding")
            && value.trim().eq_ignore_ascii_case("chunked")
        {
            return unchunk(body).ok_or_else(|| not_understood("its chunks"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        }
    }
    match length {
        Some(length) if body.len() < length => Err(not_understood("it is cut off")),
        Some(_) | None => Ok(body.to_owned()),
    }
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (head, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(head.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..length)?);
        body = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// Reads a goal state.
///
/// # Errors
/// When it names no container.
pub fn read_goal(text: &str) -> Result<Goal, ReportError> {
    let not_understood = |why: String| ReportError::NotUnderstood(why);
    let options = ParsingOptions { nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim_start_matches('\u{feff}'), options)
        .map_err(|error| not_understood(error.to_string()))?;
    let find = |name: &str| {
        let node = document.descendants().find(|node| node.tag_name().name() == name);
        let text = node.and_then(|node| node.text()).map(str::trim).unwrap_or_default();
        match text {
            "" => Err(not_understood(format!("a goal state without {name}"))),
            text => Ok(text.to_owned()),
        }
    };
    Ok(Goal {
        incarnation: find("Incarnation")?,
        container: find("ContainerId")?,
        instance: find("InstanceId")?,
    })
}

/// The report itself.
pub fn health(goal: &Goal, outcome: &Outcome) -> String {
    let (state, details) = match outcome {
        Outcome::Ready => ("Ready", String::new()),
        Outcome::Failed(reason) => {
            let reason: String = reason.chars().take(DESCRIPTION_CHARACTERS_MAX).collect();
            let details = format!(
                "<Details><SubStatus>ProvisioningFailed</SubStatus><Description>{}</Description></Details>",
                escape(&reason)
            );
            ("NotReady", details)
        }
    };
    let Goal { incarnation, container, instance } = goal;
    let [incarnation, container, instance] = [incarnation, container, instance].map(|t| escape(t));
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <Health xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\
         <GoalStateIncarnation>{incarnation}</GoalStateIncarnation>\
         <Container><ContainerId>{container}</ContainerId><RoleInstanceList><Role>\
         <InstanceId>{instance}</InstanceId>\
         <Health><State>{state}</State>{details}</Health>\
         </Role></RoleInstanceList></Container></Health>\n"
    )
}

/// Text as XML 1.0 section 2.4 has it; what is no character there is left out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
