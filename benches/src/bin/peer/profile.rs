//! Where the time goes behind the numbers: what the kernel says of the arms' programs under load, and what a packet
//! takes up to each stage of a program.
//!
//! The kernel reads a clock before and after each run when it is to tell how long programs run, so this is a sample
//! more, of which the rate counts for nothing.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::Context as _;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use gabion_benches::programs::{Family, Obstacle, Packet, Protocol, Subject};
use gabion_datapath::ebpf::Hook;
use serde::Serialize;

use crate::Interrupt;
use crate::arms::Arm;
use crate::load::Ready;

/// What a program did during a sample, without what becomes of the packet after it has decided.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProgramShare {
    pub(crate) name: String,
    pub(crate) runs_per_second: f64,
    /// Of a run, on average, the clock's reading included.
    pub(crate) nanoseconds: f64,
    /// A share of the wall clock.
    pub(crate) on_cpu: f64,
}

/// How far a program has come.
#[derive(Debug, Clone, Copy, Default)]
struct Ran {
    nanoseconds: u64,
    times: u64,
}

/// Has an arm carry load for a second, and says what its programs did; nothing for arms without.
///
/// # Errors
/// When the sample fails.
pub(crate) fn of_arm(
    arm: &Arm,
    ready: &mut Ready,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<ProgramShare>> {
    let Some(gabiond) = &arm.gabiond else { return Ok(Vec::new()) };
    let _clock = enable_stats(Stats::RunTime).context("the kernel does not time programs")?;
    let (before, start) = (programs(gabiond.process_id()), Instant::now());
    ready.sample(1, interrupt)?;
    let (after, seconds) = (programs(gabiond.process_id()), start.elapsed().as_secs_f64());
    let names = names();
    let share = |(id, now): (u32, Ran)| {
        let then = before.get(&id).copied().unwrap_or_default();
        let times = now.times.checked_sub(then.times).filter(|&times| times > 0)? as f64;
        let nanoseconds = now.nanoseconds.saturating_sub(then.nanoseconds) as f64;
        Some(ProgramShare {
            name: names.get(&id)?.clone(),
            runs_per_second: times / seconds,
            nanoseconds: nanoseconds / times,
            on_cpu: nanoseconds / 1e9 / seconds,
        })
    };
    let mut shares: Vec<_> = after.into_iter().filter_map(share).collect();
    shares.sort_by(|a, b| b.on_cpu.total_cmp(&a.on_cpu));
    Ok(shares)
}

/// The programs that a process holds, by the kernel's numbers.
fn programs(process: u32) -> BTreeMap<u32, Ran> {
    let open = fs::read_dir(format!("/proc/{process}/fdinfo"));
    // One may be closed meanwhile.
    let texts = open.into_iter().flatten().flatten().map(|entry| fs::read_to_string(entry.path()));
    texts.filter_map(|text| parse(&text.ok()?)).collect()
}

/// What stands in a program's `fdinfo`; `None` for that of anything else.
fn parse(text: &str) -> Option<(u32, Ran)> {
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().parse::<u64>().ok()
    };
    let ran = Ran { nanoseconds: number("run_time_ns")?, times: number("run_cnt")? };
    Some((u32::try_from(number("prog_id")?).ok()?, ran))
}

fn names() -> BTreeMap<u32, String> {
    let programs = loaded_programs().filter_map(Result::ok);
    programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned()))).collect()
}

/// What a packet takes that leaves a program at a stage, and what that is more than at the stage before.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stage {
    pub(crate) hook: &'static str,
    pub(crate) name: &'static str,
    pub(crate) nanoseconds: u32,
    pub(crate) more: i64,
}

/// Of 250 packets each.
const ROUNDS: usize = 400;

/// Packets of TCP over IPv4 by where they leave, in the order in which a program does its work.
fn subjects() -> [(&'static str, Subject); 6] {
    let tcp = Packet { family: Family::Ipv4, protocol: Protocol::Tcp, payload: 18, segment: 0 };
    let subject = |packet, nat, obstacle| Subject { packet, nat, obstacle };
    let arp = Packet { family: Family::Arp, ..tcp };
    [
        ("the call, the port, no IP", subject(arp, false, Obstacle::None)),
        ("headers read, no flow found", subject(tcp, false, Obstacle::Flow)),
        ("the flow found, outdated", subject(tcp, false, Obstacle::Stamp)),
        ("next hop and size seen, out of the window", subject(tcp, false, Obstacle::Window)),
        ("written and counted", subject(tcp, false, Obstacle::None)),
        ("translated too, its checksum mended", subject(tcp, true, Obstacle::None)),
    ]
}

/// Runs programs on packets in memory: the least that each stage takes, as nothing is waited for.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn stages() -> anyhow::Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for hook in [Hook::Tc, Hook::Xdp] {
        let mut before = 0;
        for (name, subject) in subjects() {
            let mut times = subject.measure(hook, ROUNDS)?;
            times.sort_unstable();
            let nanoseconds = times.get(times.len() / 10).copied().unwrap_or_default();
            let more = i64::from(nanoseconds) - i64::from(before);
            stages.push(Stage { hook: hook.label(), name, nanoseconds, more });
            before = nanoseconds;
        }
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn programs_are_told_from_other_files() {
        let text = "pos:\t0\nprog_type:\t3\nprog_jited:\t1\nmemlock:\t4096\nprog_id:\t17\nrun_time_ns:\t250\nrun_cnt:\t2\n";
        let (id, ran) = parse(text).unwrap();
        assert_eq!((id, ran.nanoseconds, ran.times), (17, 250, 2));
        assert!(parse("pos:\t0\nmap_type:\t2\nmap_id:\t17\n").is_none());
        assert!(parse("link_type:\ttcx\nprog_id:\t17\n").is_none());
    }
}
