//! Messages of a session: type (1 byte), length (2), value.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::hello::{PolicyMark, Reach};
use super::refusal::Refusal;

/// The longest message that is read.
const BYTES_MAX: usize = 4_096;
/// The longest text of a refusal that is kept.
const TEXT_MAX: usize = 512;

const HELLO: u8 = 129;
const REFUSED: u8 = 130;
const POLICY: u8 = 1;
const REACH: u8 = 2;
/// Types from here on end the session where they are unknown.
const MUST_UNDERSTAND: u8 = 128;

/// What is said in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Its fields, not looked at yet.
    Hello(Vec<u8>),
    /// The highest incarnation that was seen of the one who is refused, and why it is.
    Refused { seen: u64, why: String },
    /// The sender's policy has changed.
    Policy(PolicyMark),
    /// The sender's addresses have.
    Reach(Reach),
}

impl Message {
    pub(super) async fn write<S: AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        let (kind, value) = match self {
            Self::Hello(fields) => (HELLO, fields.clone()),
            Self::Refused { seen, why } => {
                let mut value = seen.to_be_bytes().to_vec();
                value.extend(why.bytes().take(TEXT_MAX));
                (REFUSED, value)
            }
            Self::Policy(mark) => (POLICY, mark.encode().to_vec()),
            Self::Reach(reach) => (REACH, reach.encode()),
        };
        let mut bytes = vec![kind];
        bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend(value);
        stream.write_all(&bytes).await?;
        stream.flush().await
    }

    /// The next message that is understood; `None` at the end of the session. Cancelling it loses the session.
    pub(super) async fn read<S: AsyncRead + Unpin>(
        stream: &mut S,
    ) -> Result<Option<Self>, ReadMessageError> {
        loop {
            let mut head = [0; 3];
            if stream.read(&mut head[..1]).await? == 0 {
                return Ok(None);
            }
            stream.read_exact(&mut head[1..]).await?;
            let [kind, high, low] = head;
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > BYTES_MAX {
                return Err(Refusal::Malformed("a message that is too long").into());
            }
            let mut value = vec![0; length];
            stream.read_exact(&mut value).await?;
            match kind {
                HELLO => return Ok(Some(Self::Hello(value))),
                REFUSED => {
                    let seen = value.first_chunk().map_or(0, |seen| u64::from_be_bytes(*seen));
                    let why = value.get(8..).unwrap_or_default();
                    let why = String::from_utf8_lossy(&why[..why.len().min(TEXT_MAX)]).into_owned();
                    return Ok(Some(Self::Refused { seen, why }));
                }
                POLICY => {
                    let mark = PolicyMark::decode(&value);
                    let mark = mark.ok_or(Refusal::Malformed("a policy that is cut short"))?;
                    return Ok(Some(Self::Policy(mark)));
                }
                REACH => {
                    let reach = Reach::decode(&value);
                    let reach = reach.ok_or(Refusal::Malformed("addresses that are none"))?;
                    return Ok(Some(Self::Reach(reach)));
                }
                other if other < MUST_UNDERSTAND => {}
                _ => return Err(Refusal::Malformed("a message of an unknown kind").into()),
            }
        }
    }
}

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadMessageError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn messages_are_read_as_they_were_written_and_unknown_ones_are_skipped() {
        let messages = [
            Message::Hello(vec![1, 2, 3]),
            Message::Refused { seen: 9, why: "no".to_owned() },
            Message::Policy(PolicyMark { revision: 4, digest: [3; 32] }),
            Message::Reach(Reach { port: 6_084, addresses: vec![[192, 0, 2, 1].into()] }),
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            message.write(&mut bytes).await.unwrap();
            bytes.extend([100, 0, 2, 7, 7]);
        }
        let mut stream = bytes.as_slice();
        for message in messages {
            assert_eq!(Message::read(&mut stream).await.unwrap(), Some(message));
        }
        assert_eq!(Message::read(&mut stream).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_session() {
        for (bytes, word) in [
            (&[200, 0, 0][..], "unknown kind"),
            (&[1, 255, 255][..], "too long"),
            (&[1, 0, 1, 7][..], "cut short"),
            (&[2, 0, 3, 23, 196, 5][..], "addresses that are none"),
            (&[1, 0][..], "early eof"),
        ] {
            let error = Message::read(&mut &*bytes).await.unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
