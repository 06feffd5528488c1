//! Questions and answers in single datagrams: UDP and ICMP echo.

use std::net::SocketAddr;

use gabion_engine::build;

use super::conversation::{Endpoints, Transport, byte};

/// Number, question, and bytes of one's own.
const HEADER: usize = 8;
const LENGTH: usize = HEADER + 24;

/// A client's question, or the answer to it.
pub(super) fn frame(
    transport: Transport,
    from: SocketAddr,
    to: SocketAddr,
    conversation: usize,
    question: u32,
    is_answer: bool,
) -> Vec<u8> {
    let mut payload = Vec::with_capacity(LENGTH);
    payload.extend((conversation as u32).to_be_bytes());
    payload.extend(question.to_be_bytes());
    payload.extend((0..LENGTH - HEADER).map(|place| byte(conversation, is_answer, place)));
    match transport {
        Transport::Echo => {
            let echo = if is_answer { build::icmp_echo_reply() } else { build::icmp_echo() };
            // An answer keeps the identifier of the question.
            let id = if is_answer { to.port() } else { from.port() };
            let echo = echo.from(&from.ip().to_string()).to(&to.ip().to_string());
            // What is sent back is what was asked.
            let echoed: Vec<u8> = payload[..HEADER].to_vec();
            echo.id(id).echo_seq(question as u16).payload(&echoed).frame()
        }
        Transport::Udp | Transport::Tcp => {
            build::udp().from(&from.to_string()).to(&to.to_string()).payload(&payload).frame()
        }
    }
}

/// The conversation and the question of a payload, if it is one of ours and whole.
///
/// # Errors
/// Where bytes are not those that were sent.
pub(super) fn read(
    transport: Transport,
    payload: &[u8],
    is_answer: bool,
) -> Result<(usize, u32), String> {
    let word = |at: usize| {
        payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
    };
    let (Some(conversation), Some(question)) = (word(0), word(4)) else {
        return Err(format!("a datagram of {} bytes", payload.len()));
    };
    let number = conversation as usize;
    let rest = &payload[HEADER..];
    let is_whole = transport == Transport::Echo && rest.is_empty()
        || rest.len() == LENGTH - HEADER
            && rest.iter().enumerate().all(|(place, got)| *got == byte(number, is_answer, place));
    if is_whole { Ok((number, question)) } else { Err(format!("datagram {question} of {number}")) }
}

/// From whom an answer must come, and where it must go.
pub(super) fn answer_of(endpoints: &Endpoints) -> (SocketAddr, SocketAddr) {
    (endpoints.called, endpoints.client)
}
