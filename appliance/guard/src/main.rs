//! `gabion-guard`: keeps the host's own network stack away from the traffic that the appliance handles.
//!
//! The appliance reads frames from its data devices, but so does the kernel, which would forward them
//! past all rules, or answer them with a RST or an ICMP error. The guard's nftables rules keep it from
//! both. They outlive the process: if the guard or the daemon dies, nothing passes.
//!
//! It is a process of its own because libnftnl, which it links, is under the GPL. It changes its own nftables
//! tables and nothing else. In particular `net.ipv4.ip_forward` stays as it is: the rules decide whether the host
//! forwards for a data device, whatever the sysctl says, and management devices may need it.
//!
//! The same rules stand in two tables. `gabion_guard` belongs to nobody and outlives the process, but
//! whoever flushes the ruleset flushes it too, and packets would pass until it is put back.
//! `gabion_guard_held` is this process's own (NFT_TABLE_F_OWNER): nobody else can take it away, but the
//! kernel does when the process ends. So one of them stands at any time.

#![forbid(unsafe_code)]

mod configuration;
mod encode;
mod keeper;
mod message;
mod netfilter;
mod protocol;
mod rules;
mod snapshot;

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;

const USAGE: &str = "\
Keeps the host's network stack away from the appliance's traffic.

Usage: gabion-guard [run]    serve gabiond: one JSON object per line on stdin and stdout
       gabion-guard show     say whether the rules are in place: exit 0 if so, 1 if not
       gabion-guard remove   take the rules away; a running guard puts them back at once

It needs CAP_NET_ADMIN. Exit 2: it could not be done.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] | ["run"] => run(),
        ["show"] => show(),
        ["remove"] => remove(),
        ["help" | "-h" | "--help"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprint!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("gabion-guard: {error:#}");
        ExitCode::from(2)
    })
}

fn run() -> anyhow::Result<ExitCode> {
    keeper::run(io::stdout()).context("the guard stops and leaves the rules as they are")?;
    Ok(ExitCode::SUCCESS)
}

fn remove() -> anyhow::Result<ExitCode> {
    keeper::remove()?;
    println!("table inet {} is removed: the host's stack sees all traffic", rules::TABLE);
    Ok(ExitCode::SUCCESS)
}

fn show() -> anyhow::Result<ExitCode> {
    let report = keeper::show()?;
    for (chain, rule) in report.found.rules() {
        println!(
            "{chain:<12} {:<20} {:>12} packets {:>16} bytes",
            rule.label, rule.packets, rule.bytes
        );
    }
    match report.verdict {
        Ok(configuration) => {
            let devices: Vec<_> = configuration.devices().map(ToString::to_string).collect();
            println!("in place, guarding {}", devices.join(", "));
            Ok(ExitCode::SUCCESS)
        }
        Err(difference) => {
            println!("not in place: {difference}");
            Ok(ExitCode::FAILURE)
        }
    }
}
