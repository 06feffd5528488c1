//! A node that gets its certificate by a token, from the operator's side of its management network.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use gabion_enrol::Token;
use serde_json::{Value, json};

use super::network::{CLIENT, NODE, NODE_EXT, NODE_MGMT};
use super::site::{POLICY, Site};
use super::trial::{is_ready, nothing_passes, push, told, traffic};
use crate::lab::node::{PKI, lacks_only_policy};
use crate::lab::process::Finished;
use crate::lab::report::Findings;

/// A new instance with a token in place of certificates: closed until the operator has enrolled it, and then like any
/// other.
///
/// # Errors
/// If it does not boot, or is not enrolled.
pub(super) fn by_token(site: &mut Site, findings: &mut Findings) -> Result<()> {
    site.cut_power()?;
    let token = Token::generate().context("the system gives no random numbers")?;
    let mut custom_data: Value = serde_json::from_str(&site.custom_data()?)?;
    custom_data["trust"] = json!({ "token": token });
    site.provide(Some(&custom_data.to_string()))?;
    site.switch_on()?;
    site.wait("the node says that it waits for its certificates", |site| {
        let health = site.health(CLIENT, NODE_EXT);
        health.is_ok_and(|health| health.body.contains("waits for its certificates"))
    })?;
    let expected = "without certificates: closed, and it says why";
    nothing_passes(site, findings, ("not-enrolled", expected))?;

    let another = Token::generate().context("the system gives no random numbers")?;
    let mut refused = enrol(site, &another)?;
    // It may not listen yet.
    site.wait("the node answers who enrols it", |site| {
        if refused.stderr.contains("Connection refused")
            && let Ok(again) = enrol(site, &another)
        {
            refused = again;
        }
        !refused.stderr.contains("Connection refused")
    })?;
    let is_refused = refused.code == Some(1) && site.machine.status().is_err();
    findings.check("wrong-token", "a wrong token is refused", is_refused, told(&refused));

    let enrolled = enrol(site, &token)?;
    ensure!(enrolled.code == Some(0), "{}{}", enrolled.stdout, enrolled.stderr);
    site.wait("the node has its certificate and lacks a policy alone", |site| {
        site.machine.status().is_ok_and(|status| lacks_only_policy(&status))
    })?;
    findings.check("enrolled", "the right one gives a certificate", true, told(&enrolled));
    push(site, POLICY)?;
    site.wait("the enrolled node is ready", is_ready)?;
    traffic(site, findings, "passes-enrolled")
}

/// With the lab's authority, but in a folder of its own: the node's other certificates are still needed.
fn enrol(site: &Site, token: &str) -> Result<Finished> {
    let folder = site.lab.make_directory("enrolment")?;
    for name in ["ca.pem", "ca.key"] {
        fs::copy(site.lab.directory().join(PKI).join(name), folder.join(name))?;
    }
    let file = site.file("token", token)?;
    let (node, folder) = (format!("{NODE}={NODE_MGMT}"), folder.display().to_string());
    site.tool(&[
        "pki",
        "enrol",
        NODE_MGMT,
        "--node",
        &node,
        "--token-file",
        &file,
        "--dir",
        &folder,
    ])
}
