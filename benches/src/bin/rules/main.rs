//! How long the first packet of a flow waits for the rules, and how long a policy takes to be in
//! force: for rule sets of our own generator, with the kernel's firewall beside us.
//!
//! Needs no root but for the peer, which stands in namespaces that end with this process.

mod classify;
mod install;
mod peer;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use comfy_table::{CellAlignment, Table, TableStyle};
use serde::Serialize;

/// Measures first-packet classification and the time from policy text to rules in force
#[derive(Debug, Parser)]
struct Options {
    /// Only what has this in its name, such as `acl`, `/10000` or `install`
    #[arg(long, default_value = "", value_name = "WORD")]
    only: String,
    /// Leaves nftables out, which needs root
    #[arg(long)]
    without_peer: bool,
    /// Writes all results as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    classify: Vec<classify::Row>,
    install: Vec<install::Row>,
    peer: Option<peer::Report>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let wanted = |name: &str| name.contains(&options.only);
    let mut report = Report { classify: classify::measure(wanted), ..Report::default() };
    classify::print(&report.classify);
    report.install = install::measure(wanted);
    install::print(&report.install);
    if !options.without_peer && wanted("peer") {
        let peer = peer::measure().context("nftables cannot be measured; see --without-peer")?;
        peer::print(&peer);
        report.peer = Some(peer);
    }
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// A table with all columns but the first aligned to the right; nothing where there are no rows.
fn print_table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(header);
    rows.for_each(|row| {
        table.add_row(row);
    });
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    if !table.is_empty() {
        println!("{table}\n");
    }
}
