//! The machine that is measured on: what it is, and whether somebody else had its CPU meanwhile.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use crate::process::{CPU, run};

/// What a number means nothing without.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    pub(crate) mitigations: BTreeMap<String, String>,
    pub(crate) commit: String,
    pub(crate) nftables: String,
    pub(crate) iperf3: String,
    /// Of one minute, before the run: other programs are noise.
    pub(crate) load_before: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let first_line = |program: &str, words: &[&str]| {
            let text = run(program, words).unwrap_or_default();
            text.lines().next().unwrap_or("unknown").to_owned()
        };
        // Of the tree that this program was built from, wherever it is run.
        let tree = env!("CARGO_MANIFEST_DIR");
        let dirty = run("git", &["-C", tree, "status", "--porcelain", "--untracked-files=no"])
            .is_ok_and(|changes| !changes.trim().is_empty());
        let commit = first_line("git", &["-C", tree, "rev-parse", "--short=12", "HEAD"]);
        Self {
            cpu: cpu_model(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: first_line("uname", &["-r"]),
            mitigations: mitigations(),
            commit: if dirty { format!("{commit} with changes") } else { commit },
            nftables: first_line("nft", &["--version"]),
            iperf3: first_line("iperf3", &["--version"]),
            load_before: load(),
        }
    }
}

/// Load average of one minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// A line's number of a file of the kernel's, in bytes.
pub(crate) fn kilobytes(path: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let number =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())?;
    number.parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown", |(_, name)| name).to_owned()
}

/// What the kernel does against the CPU's weaknesses, where it has any.
fn mitigations() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let state = fs::read_to_string(entry.path()).ok()?.trim().to_owned();
            (state != "Not affected").then_some((name, state))
        })
        .collect()
}

/// Ticks of the measured CPU since boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    pub(crate) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let prefix = format!("cpu{CPU} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guest time is part of user.
        let ticks: Vec<u64> = line.split(' ').take(8).filter_map(|n| n.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) }
    }

    /// The share of time since `earlier` that the hypervisor gave to somebody else.
    pub(crate) fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        if all == 0 { 0.0 } else { self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64 }
    }
}

/// What the scheduler says of gabiond's packet thread.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PacketThread {
    on_cpu_ns: u64,
    waiting_ns: u64,
    turns: u64,
    /// Ticks.
    in_user: u64,
    in_kernel: u64,
}

/// The same for a span of time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct PacketThreadShare {
    /// Shares of the wall clock.
    pub(crate) on_cpu: f64,
    /// A share of its time on the CPU: the engine's is what is left. System calls, and interrupts that came meanwhile.
    pub(crate) in_kernel: f64,
    pub(crate) waiting_for_cpu: f64,
    pub(crate) scheduled_per_second: f64,
}

impl PacketThread {
    pub(crate) fn of(process: u32) -> Option<Self> {
        for task in fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten() {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            if name.trim() == "packets" {
                let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
                let mut numbers = text.split_whitespace().map_while(|n| n.parse().ok());
                let [on_cpu_ns, waiting_ns, turns] = std::array::from_fn(|_| numbers.next());
                let stat = fs::read_to_string(task.path().join("stat")).ok()?;
                let [in_user, in_kernel] = ticks_of(&stat)?;
                return Some(Self {
                    on_cpu_ns: on_cpu_ns?,
                    waiting_ns: waiting_ns?,
                    turns: turns?,
                    in_user,
                    in_kernel,
                });
            }
        }
        None
    }

    pub(crate) fn share_since(self, earlier: Self, seconds: f64) -> PacketThreadShare {
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let [user, kernel] = [(self.in_user, earlier.in_user), (self.in_kernel, earlier.in_kernel)]
            .map(|(now, before)| now.saturating_sub(before) as f64);
        PacketThreadShare {
            in_kernel: if user + kernel > 0.0 { kernel / (user + kernel) } else { 0.0 },
            on_cpu: per_second(self.on_cpu_ns, earlier.on_cpu_ns) / 1e9,
            waiting_for_cpu: per_second(self.waiting_ns, earlier.waiting_ns) / 1e9,
            scheduled_per_second: per_second(self.turns, earlier.turns),
        }
    }
}

/// What a task has had of the CPU in either mode: the 14th and 15th field of its `stat`, of which the second may have
/// anything in it.
fn ticks_of(stat: &str) -> Option<[u64; 2]> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_ticks_in_either_mode() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 11 0 0 0 25 75 0 0 20 0 2 0 9";
        assert_eq!(ticks_of(stat), Some([25, 75]));
        assert_eq!(ticks_of("7 (packets"), None);
    }

    #[test]
    fn steal_is_the_eighth_number_of_the_measured_cpu() {
        let before = Ticks::parse("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 10 70 0 0 5 5 0 0\n");
        let after = Ticks::parse("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 60 0 50 75 0 0 7 8 0 0\n");
        assert!((after.stolen_since(before) - 0.03).abs() < 1e-9);
        assert!(after.stolen_since(after).abs() < 1e-9);
    }
}
