//! The page for people: Markdown whose tables are aligned, so that it can be read in a terminal too.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::{GateResult, Measured, Outcome, Report, plot};
use crate::load::CONGESTION_CONTROL;
use crate::profile::Stage;
use crate::ratio::Interval;

pub(super) fn of(report: &Report) -> String {
    let mut page = String::from("# Gabion beside nftables and conntrack\n\n");
    head(&mut page, report);
    let _ = write!(page, "\n## Gates\n\n{}\n", gates(&report.measured));
    if report.outcome() == Outcome::Void {
        page += "\n**Void** is what its control leaves by more than 5 %: the machine was too busy; run again.\n";
    }
    let _ = write!(page, "\n## Measurements\n\n{}\n", measurements(&report.measured));
    page += "\nMedians; ratios are medians of ratios within pairs, with a bootstrap interval of 95 %. Everything runs on one\n\
        CPU, endpoints included; `beyond direct` is what is left when they are taken away.\n\n";
    let _ = writeln!(page, "![Ratios]({})", plot::RATIOS);
    if plot::frames(&report.measured).is_some() {
        let _ = writeln!(page, "\n![Packets by size]({})", plot::FRAMES);
    }
    for measured in report.measured.iter().filter(|measured| !measured.memory.is_empty()) {
        let _ = write!(
            page,
            "\nMemory that each flow of {} has taken beyond what stood before: ",
            measured.name
        );
        let arm = |(arm, bytes): (&String, &f64)| format!("{arm} {bytes:.0} B");
        let _ =
            writeln!(page, "{}.", measured.memory.iter().map(arm).collect::<Vec<_>>().join(", "));
    }
    threads(&mut page, &report.measured);
    programs(&mut page, &report.measured);
    stages(&mut page, &report.stages);
    page += "\n## Offered load\n\n";
    for measured in &report.measured {
        let _ = writeln!(page, "* {}: {}", measured.name, measured.offered);
    }
    page
}

fn head(page: &mut String, report: &Report) {
    let machine = &report.machine;
    let mitigations: Vec<String> =
        machine.mitigations.iter().map(|(name, state)| format!("{name}: {state}")).collect();
    let lines = [
        ("machine", format!("{}, {} CPUs, Linux {}", machine.cpu, machine.cpus, machine.kernel)),
        ("mitigations", mitigations.join("; ")),
        ("commit", machine.commit.clone()),
        ("command", format!("`{}`", report.command)),
        ("peer", format!("{}, conntrack with accounting, masquerade", machine.nftables)),
        ("streams", format!("{}, {CONGESTION_CONTROL}", machine.iperf3)),
        (
            "samples",
            format!(
                "{} s; load average {:.1} before, {:.1} after",
                report.seconds_per_sample, machine.load_before, report.load_after
            ),
        ),
        ("settings", report.node_settings.join("; ")),
    ];
    for (name, text) in lines.iter().filter(|(_, text)| !text.is_empty()) {
        let _ = writeln!(page, "* {name}: {text}");
    }
}

fn gates(measured: &[Measured]) -> Table {
    let mut table = table(&["gate", "what", "arm / base", "bound", "ratio", "control", ""]);
    for measured in measured {
        for gate in &measured.gates {
            let GateResult { id, arm, bound, ratio, met } = gate;
            let verdict = match (measured.void, met) {
                (true, _) => "void",
                (false, true) => "met",
                (false, false) => "MISSED",
            };
            table.add_row([
                (*id).to_owned(),
                measured.name.clone(),
                format!("{arm} / {}", measured.base),
                bound.clone(),
                interval(Some(ratio)),
                interval(measured.ratios.get(&measured.control)),
                verdict.to_owned(),
            ]);
        }
    }
    table
}

fn measurements(measured: &[Measured]) -> Table {
    let mut table = table(&[
        "metric/action/family/case",
        "arm",
        "median",
        "ratio",
        "beyond direct, ns",
        "pairs",
    ]);
    for column in 2..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for measured in measured {
        let less = if measured.is_time { ", less is better" } else { "" };
        for (place, arm) in measured.arms.iter().enumerate() {
            let Some(median) = measured.medians.get(arm) else { continue };
            let name = format!("{} ({}{less})", measured.name, measured.unit);
            let beyond = measured.beyond_direct(arm).filter(|_| arm != "direct");
            table.add_row([
                if place == 0 { name } else { String::new() },
                arm.clone(),
                format!("{median:.*}", measured.decimals),
                interval(measured.ratios.get(arm)),
                beyond.map_or_else(String::new, |ns| format!("{ns:.0}")),
                format!("{} (-{})", measured.pairs, measured.pairs_dropped),
            ]);
        }
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    table
}

fn interval(ratio: Option<&Interval>) -> String {
    ratio.map_or_else(String::new, |r| format!("{:.3} [{:.3}, {:.3}]", r.median, r.low, r.high))
}

fn threads(page: &mut String, measured: &[Measured]) {
    if measured.iter().all(|measured| measured.threads.is_empty()) {
        return;
    }
    *page += "\n## Profile: gabiond's packet thread\n\n";
    let mut table = table(&[
        "",
        "arm",
        "has the CPU",
        "of that in the kernel",
        "waits for it",
        "scheduled, 1/s",
    ]);
    for measured in measured {
        for (arm, share) in &measured.threads {
            table.add_row([
                measured.name.clone(),
                arm.clone(),
                format!("{:.0} %", share.on_cpu * 100.0),
                format!("{:.0} %", share.in_kernel * 100.0),
                format!("{:.0} %", share.waiting_for_cpu * 100.0),
                format!("{:.0}", share.scheduled_per_second),
            ]);
        }
    }
    let _ = writeln!(page, "{table}");
}

fn programs(page: &mut String, measured: &[Measured]) {
    if measured.iter().all(|measured| measured.programs.values().all(Vec::is_empty)) {
        return;
    }
    *page += "\n## Profile: programs under load\n\n";
    let mut table = table(&["", "arm", "program", "runs, 1/s", "ns a run", "has the CPU"]);
    for measured in measured {
        for (arm, shares) in &measured.programs {
            for share in shares {
                table.add_row([
                    measured.name.clone(),
                    arm.clone(),
                    share.name.clone(),
                    format!("{:.0}", share.runs_per_second),
                    format!("{:.0}", share.nanoseconds),
                    format!("{:.1} %", share.on_cpu * 100.0),
                ]);
            }
        }
    }
    let _ = writeln!(page, "{table}\n");
    *page += "One sample of a second each, beside those that count: the kernel reads a clock before and after each run. Without what\n\
        becomes of the packet when the program has decided.\n";
}

fn stages(page: &mut String, stages: &[Stage]) {
    if stages.is_empty() {
        return;
    }
    *page += "\n## Profile: a packet by stage\n\n";
    let mut table = table(&["hook", "leaves when", "ns", "more than before"]);
    for stage in stages {
        table.add_row([
            stage.hook.to_owned(),
            stage.name.to_owned(),
            stage.nanoseconds.to_string(),
            format!("{:+}", stage.more),
        ]);
    }
    let _ = writeln!(page, "{table}\n");
    *page += "TCP over IPv4 in memory, 64 bytes; p10 of rounds of 250 packets, of which the run itself takes 20. The least there is: caches\n\
        are warm, and nothing is sent.\n";
}
