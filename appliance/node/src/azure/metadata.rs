//! The metadata service's client: one request, one connection, with limits on time and size.
//!
//! It speaks to one address and nothing else: no name is resolved, no proxy is asked, no redirect is followed.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, DATE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::document::{Document, ReadDocumentError, read_date, read_name};

/// Bytes of an answer; a document with ten events has five thousand.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// For the connection alone, which never leaves the host machine.
const CONNECT: Duration = Duration::from_secs(5);
/// Azure's longest wish for patience that is followed: notice of a Preempt is 30 s.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const INSTANCE: &str = "/metadata/instance?api-version=2021-02-01";

/// The service, by its address.
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    pub address: SocketAddr,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum AskMetadataError {
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the connection failed: {0}")]
    Transport(#[from] hyper::Error),
    #[error("the answer could not be read: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {status}")]
    Refused { status: StatusCode, retry_after: Option<Duration> },
    #[error("its answer is {0}")]
    Unreadable(#[from] ReadDocumentError),
}

impl AskMetadataError {
    /// The name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Late(_) | Self::Transport(_) => Self::LABELS[0],
            Self::Refused { .. } => Self::LABELS[1],
            Self::Body(_) | Self::Unreadable(_) => Self::LABELS[2],
        }
    }

    /// Every label.
    pub const LABELS: [&'static str; 3] = ["unreachable", "refused", "unreadable"];

    /// How long the service wants to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Connect(_)
            | Self::Late(_)
            | Self::Transport(_)
            | Self::Body(_)
            | Self::Unreadable(_) => None,
        }
    }
}

impl Metadata {
    /// What is planned for this VM and those of its set.
    ///
    /// # Errors
    /// [`AskMetadataError`].
    pub async fn events(self, patience: Duration) -> Result<Document, AskMetadataError> {
        let (body, written) = self.ask(Method::GET, EVENTS, String::new(), patience).await?;
        Ok(Document::read(&body, written)?)
    }

    /// This VM's name.
    ///
    /// # Errors
    /// [`AskMetadataError`].
    pub async fn name(self, patience: Duration) -> Result<String, AskMetadataError> {
        let (body, _) = self.ask(Method::GET, INSTANCE, String::new(), patience).await?;
        Ok(read_name(&body)?)
    }

    /// Lets an event begin.
    ///
    /// # Errors
    /// [`AskMetadataError`].
    pub async fn start(self, id: &str, patience: Duration) -> Result<(), AskMetadataError> {
        let request = json!({ "StartRequests": [{ "EventId": id }] }).to_string();
        self.ask(Method::POST, EVENTS, request, patience).await.map(|_| ())
    }

    /// The answer's body, and what its author's clock showed: this machine's, where it does not say.
    async fn ask(
        self,
        method: Method,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<(Bytes, OffsetDateTime), AskMetadataError> {
        let exchange = self.exchange(method, path, body);
        timeout(patience, exchange).await.map_err(|_| AskMetadataError::Late(patience))?
    }

    async fn exchange(
        self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(Bytes, OffsetDateTime), AskMetadataError> {
        let stream = timeout(CONNECT, TcpStream::connect(self.address))
            .await
            .map_err(|_| AskMetadataError::Late(CONNECT))?
            .map_err(AskMetadataError::Connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("the paths above are right");
        let host = self.address.to_string().parse().expect("an address has no odd characters");
        request.headers_mut().extend(
            [
                (HOST, host),
                (CONNECTION, "close".parse().expect("a word")),
                ("metadata".parse().expect("a word"), "true".parse().expect("a word")),
            ]
            .map(|(name, value)| (Some(name), value)),
        );
        let answer = async move { read(sender.send_request(request).await?).await };
        // Both go on together; the connection ends with the answer.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => {
                ended?;
                answer.await
            }
        }
    }
}

async fn read(answer: Response<Incoming>) -> Result<(Bytes, OffsetDateTime), AskMetadataError> {
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let written = header(DATE).and_then(read_date).unwrap_or_else(OffsetDateTime::now_utc);
    let status = answer.status();
    if status != StatusCode::OK {
        let seconds = header(RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        return Err(AskMetadataError::Refused { status, retry_after });
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(limit) => AskMetadataError::Body(limit),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => AskMetadataError::Transport(*error),
            Err(error) => AskMetadataError::Body(error),
        },
    })?;
    Ok((body.to_bytes(), written))
}
