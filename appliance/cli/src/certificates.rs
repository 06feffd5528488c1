//! `gabion pki`: the command line of [`pki`].

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::enrol::{Enrol, print_token};
use crate::pki::{self, Client, ClusterName, Existing, Node, Subjects, Summary};
use crate::present::{print_json, say};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Pki {
    /// Makes a certificate authority, and certificates for nodes and operators
    Init(Issue),
    /// Makes further certificates with the authority of a directory
    Issue(Issue),
    /// Prints a new token, with which a node waits for its certificate
    Token,
    Enrol(Enrol),
}

/// JSON: {"files":[..],"certificates_end"}
#[derive(Debug, clap::Args)]
pub(crate) struct Issue {
    /// Where ca.pem, ca.key and each NAME.pem and NAME.key are kept
    #[arg(long, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,

    /// A node, with the names and addresses by which it is reached: node-1=fw1.example.net,192.0.2.1
    #[arg(long, value_name = "NAME[=HOST,..]")]
    node: Vec<Node>,

    /// The cluster of which the nodes are members: each is called node-NUMBER, and its certificate is also for
    /// node-NUMBER.NAME, as cluster.certificate in gabiond.toml has to be
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,

    /// An operator or a program, with its role: alice=admin (or operator, or viewer)
    #[arg(long, value_name = "NAME=ROLE")]
    client: Vec<Client>,

    /// Replaces files that are there already
    #[arg(long)]
    overwrite: bool,

    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct IssuedJson {
    files: Vec<PathBuf>,
    certificates_end: String,
}

impl Pki {
    /// # Errors
    /// If a file is there already or cannot be written, or there is no authority to issue with.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Init(what) => issue(what, pki::init),
            Self::Issue(what) => issue(what, pki::issue),
            Self::Token => print_token(),
            Self::Enrol(enrol) => enrol.run(),
        }
    }
}

type Make = fn(&Path, &Subjects, Existing, OffsetDateTime) -> Result<Summary, pki::PkiError>;

fn issue(issue: &Issue, make: Make) -> Result<()> {
    let mut nodes = issue.node.clone();
    if let Some(cluster) = &issue.cluster {
        for node in &mut nodes {
            node.join(cluster)?;
        }
    }
    let subjects = Subjects { nodes, clients: issue.client.clone() };
    let existing = if issue.overwrite { Existing::Overwrite } else { Existing::Refuse };
    let summary = make(&issue.dir, &subjects, existing, OffsetDateTime::now_utc())?;
    if issue.json {
        let certificates_end = summary.leaves_end.format(&Rfc3339)?;
        print_json(&IssuedJson { files: summary.files, certificates_end })?;
    } else {
        show(&summary, &subjects)?;
    }
    Ok(())
}

fn show(summary: &Summary, subjects: &Subjects) -> std::io::Result<()> {
    for file in &summary.files {
        say(file.display())?;
    }
    if subjects.nodes.is_empty() && subjects.clients.is_empty() {
        say("\nNext: gabion pki issue --node NAME=HOST --client NAME=operator")?;
    } else {
        say(format_args!("\nThe certificates end on {}.", summary.leaves_end.date()))?;
        say(format_args!(
            "Keep ca.key off the nodes. In gabiond.toml: api.certificate, api.key, api.client_ca, and with --cluster\n\
             cluster.certificate, cluster.key, cluster.ca."
        ))?;
    }
    Ok(())
}
