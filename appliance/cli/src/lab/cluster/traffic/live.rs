//! Connections that live for as long as they are wanted, ask at a steady pace and note the longest silence.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::datagrams::Asker;
use super::once::sight;
use super::words::{CHUNK, Direction, Hello, Wish, content};
use super::{Errand, bound};
use crate::lab::cluster::balancer::{Transport, held};
use crate::lab::namespace::Namespace;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(8);
/// How long answers may still take after the last question.
const LAST_ANSWERS: Duration = Duration::from_secs(4);

/// What is known of one connection.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) errand: Errand,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) seen_as: Option<SocketAddr>,
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// When a question was asked while no other waited.
    pub(crate) waits_since: Instant,
    pub(crate) last: Instant,
    /// Between two answers, since the last [`Live::mark`].
    pub(crate) longest: Duration,
    pub(crate) ending: Option<Ending>,
    /// When it was reset.
    pub(crate) ended: Option<Instant>,
}

/// How a connection ended that was to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By the other side or somebody in between.
    Reset(String),
    /// The last question was never answered.
    Stuck,
}

/// Live connections of one side. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Live {
    states: Vec<Arc<Mutex<State>>>,
    opened: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Live {
    /// Opens them, `per_second` at a time.
    pub(crate) fn open(
        namespace: &Namespace,
        errands: Vec<Errand>,
        per_second: f64,
        pace: Duration,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let states: Vec<_> =
            errands.iter().map(|errand| Arc::new(Mutex::new(State::new(*errand)))).collect();
        let opened = Arc::<AtomicUsize>::default();
        let (all, count) = (states.clone(), Arc::clone(&opened));
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut connections = JoinSet::new();
                let mut ticks = interval(Duration::from_secs_f64(1.0 / per_second));
                for state in all {
                    ticks.tick().await;
                    let connection =
                        Connection { state, pace, stop: stopped.clone(), opened: count.clone() };
                    connections.spawn(connection.run());
                }
                while connections.join_next().await.is_some() {}
            });
            Ok(())
        });
        Self { states, opened, stop, thread: Some(thread) }
    }

    /// Waits until all are open and have been answered.
    ///
    /// # Errors
    /// If one is not, with the reason.
    pub(crate) fn wait_open(&self, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        while self.opened.load(Ordering::Relaxed) < self.states.len() {
            let ended = self.states.iter().find_map(|state| {
                let state = held(state);
                state.ending.clone().map(|ending| (state.errand, ending))
            });
            if let Some((errand, ending)) = ended {
                bail!("{errand} is not open: {ending:?}");
            }
            let open = self.opened.load(Ordering::Relaxed);
            ensure!(begin.elapsed() < patience, "{open} of {} are open", self.states.len());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Forgets the silences so far.
    pub(crate) fn mark(&self) {
        for state in &self.states {
            held(state).longest = Duration::ZERO;
        }
    }

    /// All connections as they are now.
    pub(crate) fn look(&self) -> Vec<State> {
        self.states.iter().map(|state| held(state).clone()).collect()
    }

    /// Asks no more, waits for the last answers and says how it ended.
    ///
    /// # Errors
    /// If the thread failed.
    pub(crate) fn end(mut self) -> Result<Vec<State>> {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("live connections panicked"))??;
        }
        Ok(self.look())
    }
}

/// Ends too when nobody can tell any more.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await.is_ok();
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

impl State {
    fn new(errand: Errand) -> Self {
        Self {
            errand,
            local: None,
            seen_as: None,
            asked: 0,
            waits_since: Instant::now(),
            answered: 0,
            last: Instant::now(),
            longest: Duration::ZERO,
            ending: None,
            ended: None,
        }
    }

    fn asks(&mut self) {
        if self.answered >= self.asked {
            self.waits_since = Instant::now();
        }
        self.asked += 1;
    }

    fn heard(&mut self) {
        let now = Instant::now();
        if self.answered > 0 {
            self.longest = self.longest.max(now - self.last);
        }
        self.last = now;
        self.answered += 1;
    }
}

/// One connection's task.
struct Connection {
    state: Arc<Mutex<State>>,
    pace: Duration,
    stop: watch::Receiver<bool>,
    opened: Arc<AtomicUsize>,
}

impl Connection {
    async fn run(self) {
        let errand = held(&self.state).errand;
        let result = match errand.transport {
            Transport::Tcp => self.talk(errand).await,
            Transport::Udp | Transport::Echo => self.ask(errand).await,
        };
        if let Err(error) = result {
            let mut state = held(&self.state);
            state.ending = Some(Ending::Reset(format!("{error:#}")));
            state.ended = Some(Instant::now());
        }
    }

    async fn talk(&self, errand: Errand) -> Result<()> {
        let connecting = bound(&errand)?.connect(errand.destination);
        let mut stream = timeout(CONNECT, connecting).await??;
        let hello = Hello { seed: errand.seed, wish: Wish::Live };
        stream.write_all(&hello.write()).await?;
        let seen_as = sight(&mut stream).await?;
        self.is_open(stream.local_addr()?, Some(seen_as));
        let (mut reader, mut writer) = stream.into_split();
        let asking = async {
            let mut ticks = self.ticks();
            let mut stop = self.stop.clone();
            for part in 0.. {
                tokio::select! {
                    () = told_to_stop(&mut stop) => break,
                    _ = ticks.tick() => {}
                }
                held(&self.state).asks();
                writer.write_all(&content(errand.seed, Direction::Up, part, CHUNK)).await?;
            }
            let begin = Instant::now();
            while !self.is_done() && begin.elapsed() < LAST_ANSWERS {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let hearing = async {
            let mut chunk = [0; CHUNK];
            for part in 0.. {
                reader.read_exact(&mut chunk).await?;
                let is_right = chunk[..] == content(errand.seed, Direction::Down, part, CHUNK);
                ensure!(is_right, "other bytes came back");
                held(&self.state).heard();
            }
            anyhow::Ok(())
        };
        tokio::select! {
            asked = asking => asked?,
            heard = hearing => heard?,
        }
        self.settle();
        Ok(())
    }

    /// Datagrams may be lost: only the last silence tells whether the flow lives.
    async fn ask(&self, errand: Errand) -> Result<()> {
        let asker = Asker::open(errand).await?;
        let mut ticks = self.ticks();
        let mut stop = self.stop.clone();
        let mut part = 0;
        loop {
            tokio::select! {
                () = told_to_stop(&mut stop) => break,
                _ = ticks.tick() => {
                    held(&self.state).asks();
                    asker.ask(part).await;
                    part += 1;
                }
                answer = asker.answer() => {
                    held(&self.state).heard();
                    if held(&self.state).local.is_none() {
                        self.is_open(asker.local()?, answer.sight);
                    }
                }
            }
        }
        let mut state = held(&self.state);
        if state.last.elapsed() > LAST_ANSWERS.min(self.pace * 20) {
            state.ending = Some(Ending::Stuck);
        }
        Ok(())
    }

    fn ticks(&self) -> tokio::time::Interval {
        let mut ticks = interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    fn is_open(&self, local: SocketAddr, seen_as: Option<SocketAddr>) {
        let mut state = held(&self.state);
        state.local = Some(local);
        state.seen_as = seen_as;
        state.last = Instant::now();
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        let state = held(&self.state);
        *self.stop.borrow() && state.answered >= state.asked
    }

    fn settle(&self) {
        let mut state = held(&self.state);
        if state.answered < state.asked {
            state.ending = Some(Ending::Stuck);
        }
    }
}
