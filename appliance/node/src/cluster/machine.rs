//! Whether a silent member's machine is still there.
//!
//! Silence on the link between members says nothing of a machine: the link may be cut, or the daemon may have ended, and both
//! ends of a connection may still reach each other or soon will. So the machine is asked on every link that it has: TCP to its
//! addresses on data interfaces, at a port where nobody listens, and to the port of sessions. Its kernel accepts or refuses, either of which
//! is a sign of life; only silence of all is the machine's end. What never answered while the member was heard says nothing then.
//!
//! Tasks: one for each peer. They share [`Known`], which tells them what the packet thread hears, and own nothing else: all may be
//! cancelled at any time.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gabion_engine::NodeId;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::hello::Reach;
use super::known::Known;
use super::sessions::{SessionChange, Told};

/// How long a machine has for an answer, and how often it is asked in that time: half of what connections may hang beyond the
/// detection of a death.
const PATIENCE: Duration = Duration::from_millis(200);
const TRIES: u32 = 2;
/// A machine that is silent is asked again so often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the machine of a member that is heard could be asked, and how often where it could not.
const REHEARSE_EVERY: Duration = Duration::from_secs(30);
const REHEARSE_AGAIN: Duration = Duration::from_secs(2);

/// What is known of a member's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Machine {
    /// It cannot be asked: none of its addresses on data interfaces is known, or none has answered while it was heard.
    #[default]
    Unknown,
    /// The member is heard, or its machine answers where members speak.
    Alive,
    /// It answers on data interfaces alone.
    CutOff,
    /// It answers nowhere, while some machine may be frozen: soon it is as if nothing had been.
    Frozen,
    /// It answers nowhere.
    Gone,
}

impl Machine {
    /// Every label, for metrics.
    pub const LABELS: [&'static str; 5] = ["unknown", "alive", "cut off", "frozen", "gone"];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => Self::LABELS[0],
            Self::Alive => Self::LABELS[1],
            Self::CutOff => Self::LABELS[2],
            Self::Frozen => Self::LABELS[3],
            Self::Gone => Self::LABELS[4],
        }
    }
}

/// What the packet thread hears of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hearing {
    Well,
    /// For half of the time after which it is lost.
    Silent,
    /// It is not among those that are taken for alive.
    #[default]
    Lost,
}

/// Asks the machines of members.
#[derive(Debug)]
pub(super) struct Machines<T> {
    /// Where this machine can be asked itself.
    pub(super) own: watch::Receiver<Reach>,
    pub(super) session_port: u16,
    pub(super) known: Arc<Known>,
    pub(super) told: T,
}

/// What became of asking at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The machine accepted or refused.
    Some,
    None,
    /// This machine could not ask.
    NotAsked(String),
}

impl<T: Told> Machines<T> {
    /// Watches all peers until cancelled.
    pub(super) async fn run(self) {
        let machines = Arc::new(self);
        let mut tasks = JoinSet::new();
        for (peer, address) in machines.known.addresses() {
            tasks.spawn(Arc::clone(&machines).watch(peer, address));
        }
        // None of them ends.
        while tasks.join_next().await.is_some() {}
    }

    async fn watch(self: Arc<Self>, peer: NodeId, sync: IpAddr) {
        let Some(mut hearing) = self.known.hearing(peer) else { return };
        loop {
            // The sender lives as long as `self`.
            let _ = hearing.wait_for(|hearing| *hearing == Hearing::Well).await;
            let answering = self.rehearse(peer, &mut hearing).await;
            self.ask_while_silent(peer, sync, &answering, &mut hearing).await;
        }
    }

    /// Finds out at which addresses the machine of a member that is heard answers; returns them when it is no longer heard.
    async fn rehearse(
        &self,
        peer: NodeId,
        hearing: &mut watch::Receiver<Hearing>,
    ) -> BTreeSet<IpAddr> {
        let mut answering = BTreeSet::new();
        let Some(mut reach) = self.known.reach(peer) else { return answering };
        loop {
            let told = reach.borrow_and_update().clone();
            // What has answered once still may, even where the answer is late this time.
            answering.retain(|address| told.addresses.contains(address));
            let (answers, is_heard) = tokio::select! {
                answers = self.ask(peer, &told) => (answers, true),
                _ = hearing.wait_for(|hearing| *hearing != Hearing::Well) => (Vec::new(), false),
            };
            if !is_heard {
                return answering;
            }
            let failed = answers.iter().find_map(|(_, answer)| match answer {
                Answer::NotAsked(why) => Some(why.clone()),
                Answer::Some | Answer::None => None,
            });
            let some = answers.into_iter().filter(|(_, answer)| *answer == Answer::Some);
            answering.extend(some.map(|(address, _)| address));
            self.known.machine(peer, Machine::Alive);
            self.known.asked(peer, answering.len(), failed);
            let pause = if answering.is_empty() { REHEARSE_AGAIN } else { REHEARSE_EVERY };
            tokio::select! {
                () = sleep(pause) => {}
                _ = reach.changed() => {}
                _ = hearing.wait_for(|hearing| *hearing != Hearing::Well) => return answering,
            }
        }
    }

    /// Asks again and again until the member is heard.
    async fn ask_while_silent(
        &self,
        peer: NodeId,
        sync: IpAddr,
        answering: &BTreeSet<IpAddr>,
        hearing: &mut watch::Receiver<Hearing>,
    ) {
        let mut last = None;
        loop {
            let begun = Instant::now();
            let machine = self.look(peer, sync, answering).await;
            let is_silent = matches!(machine, Machine::Gone | Machine::Frozen);
            if is_silent && *hearing.borrow_and_update() == Hearing::Silent {
                // It may be late: its death is noticed when it is lost, soon.
                let _ = hearing.wait_for(|hearing| *hearing != Hearing::Silent).await;
            }
            let heard = *hearing.borrow_and_update();
            if heard == Hearing::Well {
                return;
            }
            if heard == Hearing::Lost && last != Some(machine) {
                last = Some(machine);
                self.tell(peer, machine).await;
            }
            tokio::select! {
                () = sleep_until(begun + ASK_EVERY) => {}
                _ = hearing.changed() => {}
            }
        }
    }

    async fn tell(&self, peer: NodeId, machine: Machine) {
        self.known.machine(peer, machine);
        let what = match machine {
            Machine::Gone => {
                self.told.session(SessionChange::Gone { peer }).await;
                "its machine answers on no link: it is taken for gone"
            }
            Machine::Frozen => {
                "its machine answers on no link and may be frozen: none of its connections is reset while that may be"
            }
            Machine::Unknown => {
                "its machine cannot be asked on data interfaces, so none of its connections is reset"
            }
            Machine::CutOff => "its machine answers on data interfaces: it is cut off",
            Machine::Alive => "its machine answers",
        };
        self.told.event(format!("node {peer} is lost: {what}"));
    }

    /// What is to be thought of a silent member's machine.
    async fn look(&self, peer: NodeId, sync: IpAddr, answering: &BTreeSet<IpAddr>) -> Machine {
        let reach = self.known.reach(peer).map(|reach| reach.borrow().clone()).unwrap_or_default();
        let session = ask_at(SocketAddr::new(sync, self.session_port), None);
        let (of_session, answers) = tokio::join!(session, self.ask(peer, &reach));
        let is_silent = |(address, answer): &(IpAddr, Answer)| {
            *answer == Answer::None && answering.contains(address)
        };
        if of_session == Answer::Some {
            Machine::Alive
        } else if answers.iter().any(|(_, answer)| *answer == Answer::Some) {
            Machine::CutOff
        } else if answers.iter().any(is_silent) && self.known.are_resets_held() {
            Machine::Frozen
        } else if answers.iter().any(is_silent) {
            Machine::Gone
        } else {
            Machine::Unknown
        }
    }

    /// Asks at all addresses that no other machine has said to have.
    async fn ask(&self, peer: NodeId, reach: &Reach) -> Vec<(IpAddr, Answer)> {
        let Reach { port: from, addresses: own } = self.own.borrow().clone();
        let mut asking = JoinSet::new();
        for address in reach.addresses.iter().copied() {
            if !own.contains(&address) && !self.known.is_of_another(peer, address) {
                let at = SocketAddr::new(address, reach.port);
                asking.spawn(async move { (address, ask_at(at, Some(from)).await) });
            }
        }
        asking.join_all().await
    }
}

/// Asks at an address, from a port of this machine's where the guard lets answers in.
async fn ask_at(at: SocketAddr, from: Option<u16>) -> Answer {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    let mut answer = Answer::None;
    for _ in 0..TRIES {
        let until = Instant::now() + PATIENCE / TRIES;
        answer = match timeout_at(until, dial(at, from)).await {
            Ok(Err(error)) if ![ConnectionRefused, ConnectionReset].contains(&error.kind()) => {
                let is_silence =
                    [HostUnreachable, NetworkUnreachable, TimedOut].contains(&error.kind());
                if is_silence { Answer::None } else { Answer::NotAsked(format!("{at}: {error}")) }
            }
            Ok(Ok(()) | Err(_)) => return Answer::Some,
            Err(_) => Answer::None,
        };
        sleep_until(until).await;
    }
    answer
}

async fn dial(at: SocketAddr, from: Option<u16>) -> io::Result<()> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(port) = from {
        let any = match at {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(any, port))?;
    }
    // Two machines that ask each other at one moment are connected; neither is to wait for what is left of that.
    socket.set_zero_linger()?;
    socket.connect(at).await.map(drop)
}

#[cfg(test)]
mod tests;
