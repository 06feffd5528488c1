//! Connections to the API, of which there are only so many places.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::serve::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

/// Bytes with which each client begins: the HTTP/2 preface (RFC 9113 section 3.4); of TLS more.
const GREETING: usize = 24;
/// By when they have come.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// A client that lives answers a keep-alive before that.
const SILENCE: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT.saturating_mul(2));

/// Either kind of listener.
pub(super) trait Accept: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Io> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for tokio::net::TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Io> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A connection that has one of the places, and gives it back when it ends. One that stays silent ends
/// with an error: hyper waits for a client's first bytes for ever.
#[derive(Debug)]
pub(super) struct Admitted<I> {
    io: I,
    /// Of what has been read, as far as it counts towards `GREETING`.
    greeted: usize,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<I> Admitted<I> {
    pub(super) fn new(io: I, place: OwnedSemaphorePermit) -> Self {
        let silence = Box::pin(tokio::time::sleep(FIRST_WORD));
        Self { io, greeted: 0, silence, _place: place }
    }

    /// Bytes before the greeting is complete buy no time.
    fn heard(&mut self, bytes: usize) {
        self.greeted = (self.greeted + bytes).min(GREETING);
        if self.greeted == GREETING {
            self.silence.as_mut().reset(Instant::now() + SILENCE);
        }
    }
}

impl<I: Connected> Connected for Admitted<I> {
    type ConnectInfo = I::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Admitted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.io).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                self.heard(buffer.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.silence.as_mut().poll(context).map(|()| {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing"))
                })
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Admitted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::Semaphore;

    use super::*;

    /// Gives `sent` every four seconds; how long it took until the connection was given up.
    async fn until_given_up(sent: &'static [u8], times: usize) -> Duration {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let (mut client, server): (DuplexStream, DuplexStream) = tokio::io::duplex(64);
        let begin = Instant::now();
        let talk = tokio::spawn(async move {
            for _ in 0..times {
                if client.write_all(sent).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            std::future::pending::<()>().await;
        });
        let mut admitted = Admitted::new(server, place);
        let error = loop {
            match admitted.read(&mut [0; 64]).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(places.available_permits(), 0);
        drop(admitted);
        assert_eq!(places.available_permits(), 1);
        talk.abort();
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_do_not_keep_others_out() {
        assert_eq!(until_given_up(b"", 0).await, FIRST_WORD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_greeting_byte_by_byte_buys_no_time() {
        assert_eq!(until_given_up(b"P", 20).await, FIRST_WORD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_greeted_is_heard_as_long_as_it_speaks() {
        let spoke = Duration::from_secs(4) * 9;
        assert_eq!(until_given_up(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 10).await, spoke + SILENCE);
    }
}
