//! Connections that are opened, used once and closed, many at a time: an open loop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::datagrams::Asker;
use super::words::{Direction, Hello, Sight, Wish, content};
use super::{Errand, bound};
use crate::lab::cluster::balancer::Transport;
use crate::lab::cluster::dice::Dice;

/// How long a connection may take to be made: a SYN and three repetitions.
const CONNECT: Duration = Duration::from_secs(8);
/// How long all of it may take.
const ALL: Duration = Duration::from_secs(20);
/// After that a datagram is sent again, and how often.
const AGAIN: Duration = Duration::from_millis(300);
const TRIES: u64 = 5;

/// What became of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) errand: Errand,
    pub(crate) local: Option<SocketAddr>,
    /// The initiator as the other side sees it.
    pub(crate) seen_as: Option<SocketAddr>,
    /// TCP: how long connecting took. Others: until the answer.
    pub(crate) took: Option<Duration>,
    /// Datagrams that had to be sent again.
    pub(crate) repeated: u64,
    pub(crate) failure: Option<String>,
}

/// Runs errands at a rate, whatever becomes of the earlier ones.
pub(super) async fn run(errands: Vec<Errand>, per_second: f64, stop: &AtomicBool) -> Vec<Told> {
    let begin = Instant::now();
    let mut under_way = JoinSet::new();
    let mut told = Vec::new();
    for errand in errands {
        let at = begin + Duration::from_secs_f64(f64::from(errand.number) / per_second);
        sleep_until(at).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        under_way.spawn(go(errand));
        while let Some(Ok(one)) = under_way.try_join_next() {
            told.push(one);
        }
    }
    while let Some(Ok(one)) = under_way.join_next().await {
        told.push(one);
    }
    told
}

async fn go(errand: Errand) -> Told {
    let mut told =
        Told { errand, local: None, seen_as: None, took: None, repeated: 0, failure: None };
    let work = async {
        match errand.transport {
            Transport::Tcp => exchange(&mut told).await,
            Transport::Udp | Transport::Echo => ask(&mut told).await,
        }
    };
    let failure = match timeout(ALL, work).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("nothing came any more within {ALL:?}")),
    };
    told.failure = failure;
    told
}

async fn exchange(told: &mut Told) -> Result<()> {
    let errand = told.errand;
    let socket = bound(&errand)?;
    told.local = Some(socket.local_addr()?);
    let begin = Instant::now();
    let connecting = socket.connect(errand.destination);
    let mut stream = timeout(CONNECT, connecting).await.context("no connection")??;
    told.took = Some(begin.elapsed());
    let mut dice = Dice::new(errand.seed);
    let [up, down] = [0; 2].map(|_| dice.within(&(1..=40_000)) as u32);
    let seed = errand.seed;
    stream.write_all(&Hello { seed, wish: Wish::Exchange { up, down } }.write()).await?;
    stream.write_all(&content(seed, Direction::Up, 0, up as usize)).await?;
    told.seen_as = Some(sight(&mut stream).await?);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    ensure!(bytes == content(seed, Direction::Down, 0, down as usize), "other bytes came back");
    Ok(())
}

/// The server's first words.
pub(super) async fn sight(stream: &mut TcpStream) -> Result<SocketAddr> {
    let mut sight = [0; Sight::BYTES];
    stream.read_exact(&mut sight).await.context("no answer")?;
    Ok(Sight::read(sight).0)
}

async fn ask(told: &mut Told) -> Result<()> {
    let asker = Asker::open(told.errand).await?;
    told.local = Some(asker.local()?);
    let begin = Instant::now();
    for part in 0..TRIES {
        told.repeated = part;
        asker.ask(part).await;
        if let Ok(answer) = timeout(AGAIN, asker.answer()).await {
            told.took = Some(begin.elapsed());
            told.seen_as = answer.sight;
            return Ok(());
        }
    }
    bail!("no answer to {TRIES} questions")
}
