//! Connections that live while something happens to a node, and what became of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::balancer::Transport;
use super::stage::{AllLive, Stage};
use super::traffic::{Ending, Errand, Mix, State};
use crate::lab::report::{Findings, percentile};

/// How many of what lives.
#[derive(Debug, Clone)]
pub(super) struct Population {
    pub(super) connections: u32,
    pub(super) per_second: f64,
    /// Between two questions of a connection.
    pub(super) pace: Duration,
    pub(super) mix: Mix,
}

impl Population {
    fn datagrams(&self) -> u32 {
        (self.connections / 10).max(8)
    }

    /// How many live, of whatever transport.
    pub(super) fn flows(&self) -> u64 {
        u64::from(self.connections + self.datagrams())
    }
}

/// TCP connections, and a tenth as many flows of UDP and echoes.
#[derive(Debug)]
pub(super) struct Alive {
    tcp: AllLive,
    datagrams: AllLive,
}

/// What became of them.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) tcp: Vec<Fate>,
    pub(super) datagrams: Vec<Fate>,
}

/// What became of one, and through which nodes it went before.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) state: State,
    pub(super) ways: Option<[usize; 2]>,
}

/// How much a node has had of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Its beginner's packets came there: it is the owner.
    Owner,
    /// The answers came there: it forwarded them.
    Forwarder,
    None,
}

impl Alive {
    /// Opens them all and waits until each has been answered.
    ///
    /// # Errors
    /// If one does not open.
    pub(super) fn open(stage: &Stage, population: &Population) -> Result<Self> {
        let Population { connections, per_second, pace, mix } = population;
        let of = |transports: &[Transport], count| {
            let mix = Mix { transports: transports.to_vec(), ..mix.clone() };
            stage.open_live(mix.errands(count), *per_second, *pace)
        };
        let tcp = of(&[Transport::Tcp], *connections)?;
        let datagrams = of(&[Transport::Udp, Transport::Echo], population.datagrams())?;
        Ok(Self { tcp, datagrams })
    }

    /// Forgets the silences so far, and notes through which nodes each goes.
    pub(super) fn mark(&self, stage: &Stage) -> [Vec<Option<[usize; 2]>>; 2] {
        let ways = |live: &AllLive| {
            let way = |one: &State| stage.ways(&one.errand, one.local, one.seen_as);
            live.look().iter().map(way).collect()
        };
        let ways = [ways(&self.tcp), ways(&self.datagrams)];
        self.tcp.mark();
        self.datagrams.mark();
        ways
    }

    /// All TCP connections as they are now.
    pub(super) fn look(&self) -> Vec<State> {
        self.tcp.look()
    }

    /// Ends them and says what became of each.
    ///
    /// # Errors
    /// If a thread failed.
    pub(super) fn end(self, ways: [Vec<Option<[usize; 2]>>; 2]) -> Result<Survey> {
        let [tcp, datagrams] = ways;
        let fates = |states: Vec<State>, ways: Vec<_>| {
            states.into_iter().zip(ways).map(|(state, ways)| Fate { state, ways }).collect()
        };
        let (of_tcp, of_datagrams) = (self.tcp, self.datagrams);
        let of_datagrams = std::thread::spawn(move || of_datagrams.end());
        let states = of_tcp.end()?;
        let others = of_datagrams.join().map_err(|_| anyhow::anyhow!("live flows panicked"))??;
        Ok(Survey { tcp: fates(states, tcp), datagrams: fates(others, datagrams) })
    }
}

impl Fate {
    pub(super) fn part_of(&self, node: usize) -> Part {
        match self.ways {
            Some([there, _]) if there == node => Part::Owner,
            Some([_, back]) if back == node => Part::Forwarder,
            Some(_) | None => Part::None,
        }
    }

    pub(super) fn survived(&self) -> bool {
        self.state.ending.is_none()
    }

    /// Whether a packet of it may have passed so near to a moment, if it is silent since.
    pub(super) fn was_in_the_midst(&self, moment: Instant, near: Duration) -> bool {
        let State { last, waits_since, .. } = self.state;
        last + near >= moment || (waits_since + near >= moment && waits_since <= moment + near)
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.state.ending == Some(Ending::Stuck)
    }
}

impl Survey {
    /// Nothing may have been lost.
    pub(super) fn must_all_live(&self, findings: &mut Findings) {
        self.must_live(findings, |_| true);
    }

    /// Nothing of what `must` names.
    pub(super) fn must_live(&self, findings: &mut Findings, must: impl Fn(&Fate) -> bool) {
        let judged = || self.tcp.iter().chain(&self.datagrams).filter(|fate| must(fate));
        let lost = || judged().filter(|fate| !fate.survived());
        let (all, sorts) = (judged().count(), sorts(lost()));
        let first = lost().next().map(Fate::told).unwrap_or_default();
        let seen = format!("{} of {all} survived{sorts}{first}", all - lost().count());
        findings.check("survived", "every connection goes on", lost().next().is_none(), seen);
    }

    /// The longest silences of those that survived and that `which` names.
    pub(super) fn gaps(&self, which: impl Fn(&Fate) -> bool) -> Vec<Duration> {
        let alive = self.tcp.iter().filter(|fate| fate.survived() && which(fate));
        alive.map(|fate| fate.state.longest).collect()
    }

    /// The figures that every scenario with live connections has.
    pub(super) fn figures(&self, findings: &mut Findings, affected: impl Fn(&Fate) -> bool) {
        let count = |which: &dyn Fn(&Fate) -> bool| {
            self.tcp.iter().filter(|fate| which(fate)).count() as u64
        };
        findings.count("connections", self.tcp.len() as u64);
        findings.count("survived", count(&Fate::survived));
        findings.count("reset", count(&|fate| matches!(fate.state.ending, Some(Ending::Reset(_)))));
        findings.count("stuck", count(&Fate::is_stuck));
        let is_reset = |fate: &&Fate| !fate.survived() && !fate.is_stuck();
        for (name, ended) in [
            ("reset_ways", sorts(self.tcp.iter().filter(is_reset))),
            ("stuck_ways", sorts(self.tcp.iter().filter(|fate| fate.is_stuck()))),
        ] {
            if !ended.is_empty() {
                findings.note(name, ended.trim_start_matches("; ").to_owned());
            }
        }
        findings.count("affected", count(&|fate| affected(fate)));
        let gaps = self.gaps(&affected);
        findings.time("gap_p50_ms", percentile(&gaps, 50.0));
        findings.time("gap_max_ms", percentile(&self.gaps(|_| true), 100.0));
        findings.count("datagram_flows", self.datagrams.len() as u64);
        let survived = self.datagrams.iter().filter(|fate| fate.survived()).count();
        findings.count("datagram_flows_survived", survived as u64);
    }
}

/// How many were lost of which sort: kind, family, and the nodes of both directions, from 1.
pub(super) fn sorts<'a>(lost: impl Iterator<Item = &'a Fate>) -> String {
    let mut sorts: BTreeMap<String, usize> = BTreeMap::new();
    for fate in lost {
        let Errand { transport, kind, source, .. } = fate.state.errand;
        let family = if source.is_ipv4() { 4 } else { 6 };
        let ways = fate.ways.map_or("?".to_owned(), |[a, b]| format!("{}, {}", a + 1, b + 1));
        *sorts.entry(format!("{transport:?} {kind:?} IPv{family} by {ways}")).or_default() += 1;
    }
    sorts.iter().map(|(sort, count)| format!("; {count} {sort}")).collect()
}

impl Fate {
    pub(super) fn told(&self) -> String {
        let Self { state, ways } = self;
        format!(
            "; lost: {} as {:?}, through {ways:?}: {:?} after {} answers",
            state.errand, state.local, state.ending, state.answered
        )
    }
}

/// Waits while something is to be seen; the lab's only clock of its own.
pub(super) fn pause(time: Duration) {
    let until = Instant::now() + time;
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
}
