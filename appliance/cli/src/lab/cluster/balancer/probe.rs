//! Health probes: the state of one node's, and the asking.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How a load balancer finds out whether a node is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probing {
    pub(crate) by: By,
    pub(crate) interval: Duration,
    /// So many probes in a row without an answer are a node that is down.
    pub(crate) threshold: u32,
}

/// The probe's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// GET: 200 is up, anything else is down at once
    Http,
    /// A connection that is accepted is up, one that is refused is down at once
    Tcp,
}

/// What one probe has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    /// A reset, or a status other than 200.
    Bad,
    Silence,
}

/// What the probes of one node have shown so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Health {
    is_up: bool,
    misses: u32,
}

impl Health {
    /// Takes an answer; says so if the node is up or down now and was not before. One good answer is
    /// enough to be up, a bad one to be down.
    pub(crate) fn observe(&mut self, answer: Answer, threshold: u32) -> Option<bool> {
        self.misses = if answer == Answer::Silence { self.misses + 1 } else { 0 };
        let is_up = match answer {
            Answer::Good => true,
            Answer::Bad => false,
            Answer::Silence => self.is_up && self.misses < threshold,
        };
        let changed = is_up != self.is_up;
        self.is_up = is_up;
        changed.then_some(is_up)
    }
}

/// Probes one node for ever and says each change of its state.
pub(crate) async fn watch(
    target: SocketAddr,
    probing: Probing,
    mut tell: impl FnMut(Instant, bool),
) {
    let mut health = Health::default();
    let mut ticks = tokio::time::interval(probing.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = match timeout(probing.interval, ask(target, probing.by)).await {
            Ok(Ok(answer)) => answer,
            // Refused or reset. That no route leads there is silence.
            Ok(Err(error)) if is_refusal(&error) => Answer::Bad,
            Ok(Err(_)) | Err(_) => Answer::Silence,
        };
        if let Some(is_up) = health.observe(answer, probing.threshold) {
            tell(Instant::now(), is_up);
        }
    }
}

fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

async fn ask(target: SocketAddr, by: By) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(target).await?;
    if by == By::Tcp {
        return Ok(Answer::Good);
    }
    stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let is_good = line.starts_with(b"HTTP/1.") && line.ends_with(b" 200");
    Ok(if is_good { Answer::Good } else { Answer::Bad })
}

#[cfg(test)]
mod tests {
    use super::{Answer, Health};

    /// Each answer with the change that it makes.
    fn hold(threshold: u32, steps: &[(Answer, Option<bool>)]) {
        let mut health = Health::default();
        for (number, (answer, change)) in steps.iter().enumerate() {
            assert_eq!(health.observe(*answer, threshold), *change, "step {number}");
        }
    }

    #[test]
    fn one_good_answer_is_up_and_the_threshold_of_silence_is_down() {
        use Answer::{Good, Silence};
        let steps = [
            (Silence, None),
            (Good, Some(true)),
            (Silence, None),
            (Silence, None),
            (Good, None),
            (Silence, None),
            (Silence, None),
            (Silence, Some(false)),
            (Silence, None),
            (Good, Some(true)),
        ];
        hold(3, &steps);
    }

    #[test]
    fn a_bad_answer_is_down_at_once() {
        use Answer::{Bad, Good};
        hold(3, &[(Bad, None), (Good, Some(true)), (Bad, Some(false)), (Good, Some(true))]);
    }
}
