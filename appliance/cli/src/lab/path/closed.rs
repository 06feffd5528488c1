//! Steady flows through a start, a crash, the guard's death and a burst that no ring holds: nothing
//! that rules deny passes at any time, and what they permit passes only while the node says so.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::network::{ISP, NODE};
use super::steady::{Steady, burst, wait};
use super::{POLICY, check, nothing, reason, refusal, succeed};
use crate::lab::scenario::{Check, Expect};
use crate::lab::stage::Stage;

const SECTION: &str = "Steady flows, permitted and denied, of both families";

pub(super) fn checks() -> Vec<Check> {
    vec![
        check(
            SECTION,
            ("steady-start", "a host's first start, and its first policy", "UDP"),
            Expect::Node("closed"),
            nothing(),
            start,
        ),
        check(
            SECTION,
            ("steady-crash", "kill -9 gabiond, started again", "UDP"),
            Expect::Node("closed"),
            nothing(),
            crash,
        ),
        check(
            SECTION,
            ("steady-guard-dies", "kill -9 gabion-guard", "UDP"),
            Expect::Node("closed"),
            reason("not-ready"),
            guard_dies,
        ),
        check(
            SECTION,
            ("steady-overload", "a denied burst, larger than the ring", "UDP"),
            Expect::Node("ring drops"),
            refusal("default:internet->spokes", "rule-drop"),
            overload,
        ),
    ]
}

/// Of a host that has never had a policy or a guard. Its network comes up behind the guard, as the
/// service's unit orders it.
fn start(stage: &mut Stage) -> Result<String> {
    stage.end_node(Signal::TERM)?;
    let guard = stage.place().guard().to_string_lossy().into_owned();
    succeed(stage, NODE, &[&guard, "remove"], 2)?;
    fs::remove_dir_all(stage.place().state()).context("cannot remove the node's state")?;
    let begun = plug(stage, false).and_then(|()| begin(stage));
    plug(stage, true)?;
    let (steady, from) = begun?;
    steady.send_some()?;
    let until = OffsetDateTime::now_utc();
    stage.push(POLICY)?;
    steady.wait_until_permitted()?;
    let tried = steady.end()?.must_be_closed(from, until)?;
    Ok(format!("nothing before the first policy, of {tried}"))
}

fn begin(stage: &mut Stage) -> Result<(Steady, OffsetDateTime)> {
    let steady = Steady::start(stage)?;
    let from = OffsetDateTime::now_utc();
    stage.start_node()?;
    Ok((steady, from))
}

/// Whether the router in front of the node has anything for it.
fn plug(stage: &Stage, is_plugged: bool) -> Result<()> {
    stage.lab.namespace(ISP).enter(move || {
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{key}"), if is_plugged { "1" } else { "0" })?;
        }
        Ok(())
    })
}

fn crash(stage: &mut Stage) -> Result<String> {
    let steady = Steady::start(stage)?;
    steady.wait_until_permitted()?;
    let said = guard_events(stage)?.len();
    stage.end_node(Signal::KILL)?;
    let from = OffsetDateTime::now_utc();
    steady.send_some()?;
    stage.start_node()?;
    steady.wait_until_permitted()?;
    wait("the log", || guard_events(stage).is_ok_and(|events| events.len() > said))?;
    let &(until, _) = guard_events(stage)?.get(said).context("the guard is not in the log")?;
    let tried = steady.end()?.must_be_closed(from, until)?;
    ensure!(tried > 0, "nothing was sent while the node was away");
    Ok(format!("nothing before the guard was in place, of {tried}"))
}

fn guard_dies(stage: &mut Stage) -> Result<String> {
    let steady = Steady::start(stage)?;
    steady.wait_until_permitted()?;
    let said = guard_events(stage)?.len();
    let node = stage.node_pid().context("no node is running")?;
    kill_process(child_of(node, "gabion-guard")?, Signal::KILL)?;
    wait("another guard", || guard_events(stage).is_ok_and(|events| events.len() > said + 1))?;
    steady.wait_until_permitted()?;
    let events = guard_events(stage)?;
    let [(from, false), (until, true), ..] = events[said..] else {
        anyhow::bail!("the log does not say that the guard went and came");
    };
    let tried = steady.end()?.must_be_closed(from, until)?;
    Ok(format!("nothing in the {} ms without, of {tried}", (until - from).whole_milliseconds()))
}

/// The node stands still while the burst comes, so that no machine is too fast for it.
fn overload(stage: &mut Stage) -> Result<String> {
    /// Of each family; the half of a ring that holds small frames has room for 2,048.
    const BURST: u32 = 4_096;
    let steady = Steady::start(stage)?;
    steady.wait_until_permitted()?;
    let before = ring_drops(stage)?;
    let node = stage.node_pid().context("no node is running")?;
    kill_process(node, Signal::STOP)?;
    let sent = burst(stage, BURST);
    kill_process(node, Signal::CONT)?;
    sent?;
    let mut lost = 0;
    wait("drops at the ring to be counted", || {
        lost = ring_drops(stage).unwrap_or(before) - before;
        lost > 0
    })?;
    steady.wait_until_permitted()?;
    steady.end()?;
    Ok(format!("{lost} of {} lost at the ring, none passed", 2 * BURST))
}

fn ring_drops(stage: &mut Stage) -> Result<u64> {
    Ok(stage.counters()?.interfaces.iter().map(|interface| interface.ring_drops).sum())
}

/// When the node's log says that the guard is in place, or that it is not any more.
fn guard_events(stage: &Stage) -> Result<Vec<(OffsetDateTime, bool)>> {
    let text = stage.place().event_log();
    // The last line may be half written.
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut events = Vec::new();
    for record in records {
        let message = record["message"].as_str().unwrap_or_default();
        let is_in_place = message.starts_with("the guard is in place");
        if is_in_place || message.starts_with("the guard is missing") {
            let at = record["at"].as_str().context("a record of the log has no time")?;
            events.push((OffsetDateTime::parse(at, &Rfc3339)?, is_in_place));
        }
    }
    Ok(events)
}

/// A process's child of this name (proc_pid_stat(5)).
fn child_of(parent: Pid, name: &str) -> Result<Pid> {
    let is_it = |stat: &str| {
        let (head, tail) = stat.rsplit_once(')')?;
        let (number, comm) = head.split_once(" (")?;
        let of: i32 = tail.split_whitespace().nth(1)?.parse().ok()?;
        let is_it = comm == name && of == parent.as_raw_nonzero().get();
        is_it.then(|| Pid::from_raw(number.parse().ok()?))?
    };
    fs::read_dir("/proc")?
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .find_map(|stat| is_it(&stat))
        .with_context(|| format!("the node has no child {name}"))
}
