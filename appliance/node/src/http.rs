//! HTTP/1.1 for machines that ask one thing: one request, one answer, `Connection: close`.
//!
//! Probes and Prometheus need no more, and this side of the node is open to anybody: what is not
//! here can not be attacked. Bodies of requests are not read, nothing is kept alive, and the whole
//! exchange has one deadline.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Request line and header fields together.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// What a client may still send after its request before it is cut off.
const REST_BYTES_MAX: usize = 64 << 10;

/// The request line, as far as anybody here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Without the query.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: Status,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    HeadTooLarge,
    ServiceUnavailable,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::ServiceUnavailable => "503 Service Unavailable",
        }
    }
}

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// Reads a request, answers it and closes, all within `deadline`.
pub(crate) async fn answer(
    mut stream: TcpStream,
    deadline: Duration,
    respond: impl AsyncFnOnce(&Request) -> Response,
) {
    // A client that is slow or gone gets nothing: there is nobody to tell.
    let _ = timeout(deadline, exchange(&mut stream, respond)).await;
}

async fn exchange(
    stream: &mut TcpStream,
    respond: impl AsyncFnOnce(&Request) -> Response,
) -> io::Result<()> {
    let request = read_head(stream).await?;
    let (response, with_body) = match &request {
        Ok(request) => (respond(request).await, request.method == Method::Get),
        Err(status) => {
            let body = format!("{}\n", status.line());
            (Response { status: *status, content_type: TEXT, body }, true)
        }
    };
    stream.write_all(response.encode(with_body).as_bytes()).await?;
    linger(stream).await
}

/// Closes our side and reads what the client still says: closing with unread bytes would send a RST,
/// which probes take for a failure.
pub(crate) async fn linger(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let mut total = 0;
    while total < REST_BYTES_MAX {
        match stream.read(&mut rest).await? {
            0 => break,
            bytes => total += bytes,
        }
    }
    Ok(())
}

async fn read_head(stream: &mut TcpStream) -> io::Result<Result<Request, Status>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(Err(Status::HeadTooLarge));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(parse_head(&head))
}

/// Reads a request's head, from the request line to the empty line.
///
/// # Errors
/// The status to answer with.
pub fn parse_head(head: &[u8]) -> Result<Request, Status> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| Status::BadRequest)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Status::BadRequest);
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(Status::BadRequest);
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Err(Status::MethodNotAllowed),
    };
    let path = target.split('?').next().unwrap_or(target).to_owned();
    Ok(Request { method, path })
}

impl Response {
    fn encode(&self, with_body: bool) -> String {
        let mut text = String::with_capacity(self.body.len() + 256);
        let _ = write!(
            text,
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
            self.status.line(),
            self.content_type,
            self.body.len()
        );
        if with_body {
            text.push_str(&self.body);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines() {
        let get = |path: &str| Ok(Request { method: Method::Get, path: path.into() });
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", get("/")),
            ("GET /metrics?x=1 HTTP/1.0\r\nHost: a\r\n\r\n", get("/metrics")),
            ("HEAD / HTTP/1.1\r\n\r\n", Ok(Request { method: Method::Head, path: "/".into() })),
            ("POST / HTTP/1.1\r\n\r\n", Err(Status::MethodNotAllowed)),
            ("GET / HTTP/2\r\n\r\n", Err(Status::BadRequest)),
            ("GET http://a/ HTTP/1.1\r\n\r\n", Err(Status::BadRequest)),
            ("GET  / HTTP/1.1\r\n\r\n", Err(Status::BadRequest)),
            ("\r\n\r\n", Err(Status::BadRequest)),
        ] {
            assert_eq!(parse_head(head.as_bytes()), expected, "{head:?}");
        }
        assert_eq!(parse_head(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Status::BadRequest));
    }
}
