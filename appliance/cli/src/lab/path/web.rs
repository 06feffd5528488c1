//! Web pages: destination NAT to several servers, inbound and outbound source NAT, hairpin.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::network::{
    CLIENT, CLIENT_V4, CLIENT_V6, NODE_INT_V4, NODE_INT_V6, POOL_V4, POOL_V6, PUBLISHED_V4,
    PUBLISHED_V6, REMOTE_V4, REMOTE_V6, WEB_1, WEB_1_V6,
};
use super::{Family, LARGE, Seen, WEB_SERVERS, check, fetch, rule, translated};
use crate::lab::scenario::{Check, Expect};
use crate::lab::servers::{SHOP, TRUSTED};
use crate::lab::stage::Stage;

const INBOUND: &str = "Published web servers";
const OUTBOUND: &str = "From the servers outwards, and to each other";

/// Ports of the policy's outbound pool.
const POOL_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = inbound();
    checks.extend(outbound());
    checks
}

fn inbound() -> Vec<Check> {
    vec![
        check(
            INBOUND,
            ("https-published-v4", "HTTPS to 203.0.113.7: DNAT and inbound SNAT", "curl"),
            Expect::Allowed,
            translated("web-in", &["publish-web", "symmetric-in"]),
            |stage| https(stage, PUBLISHED_V4, NODE_INT_V4),
        ),
        check(
            INBOUND,
            ("https-published-v6", "HTTPS to 2600:1:0:113::7: the same in IPv6", "curl"),
            Expect::Allowed,
            translated("web-in", &["publish-web-v6", "symmetric-in"]),
            |stage| https(stage, PUBLISHED_V6, NODE_INT_V6),
        ),
        check(
            INBOUND,
            ("inbound-snat-in-access-log", "nginx logs the node as the HTTPS client", "nginx log"),
            Expect::Allowed,
            rule("web-in"),
            access_log,
        ),
        check(
            INBOUND,
            ("http-published-v4", "HTTP to 203.0.113.7: DNAT alone", "curl"),
            Expect::Allowed,
            translated("web-in", &["publish-web"]),
            |stage| page(stage, CLIENT, &format!("http://{PUBLISHED_V4}/"), CLIENT_V4),
        ),
        check(
            INBOUND,
            ("http-published-spread", "24 connections are spread over both servers", "curl"),
            Expect::Allowed,
            rule("web-in"),
            spread,
        ),
        check(
            INBOUND,
            ("http-direct-v6", "HTTP straight to web-1 over IPv6: no NAT", "curl"),
            Expect::Allowed,
            rule("web-in"),
            |stage| page(stage, CLIENT, &format!("http://[{WEB_1_V6}]/"), CLIENT_V6),
        ),
        check(
            INBOUND,
            ("monitor-rule", "a monitor rule sees it and decides nothing", "curl"),
            Expect::Allowed,
            rule("see-web"),
            |stage| page(stage, CLIENT, &format!("http://{PUBLISHED_V4}/"), CLIENT_V4),
        ),
        check(
            INBOUND,
            ("download-v4", "16 MiB through DNAT, whole", "curl"),
            Expect::Allowed,
            rule("web-in"),
            |stage| download(stage, &format!("http://{PUBLISHED_V4}/large")),
        ),
        check(
            INBOUND,
            ("download-v6", "16 MiB over IPv6, whole", "curl"),
            Expect::Allowed,
            rule("web-in"),
            |stage| download(stage, &format!("http://[{WEB_1_V6}]/large")),
        ),
    ]
}

fn outbound() -> Vec<Check> {
    vec![
        check(
            OUTBOUND,
            ("outbound-snat-v4", "HTTP to the internet: SNAT to the pool's ports", "curl"),
            Expect::Allowed,
            translated("patching", &["out-v4"]),
            |stage| from_pool(stage, Family::V4),
        ),
        check(
            OUTBOUND,
            ("outbound-snat-v6", "the same over IPv6", "curl"),
            Expect::Allowed,
            translated("patching", &["out-v6"]),
            |stage| from_pool(stage, Family::V6),
        ),
        check(
            OUTBOUND,
            ("outbound-direct-v6", "HTTPS to the internet over IPv6: no NAT", "curl"),
            Expect::Allowed,
            rule("patching"),
            |stage| secure_page(stage, WEB_1, REMOTE_V6, WEB_1_V6),
        ),
        check(
            OUTBOUND,
            ("hairpin-v4", "web-1 to 203.0.113.7, which is web-2", "curl"),
            Expect::Allowed,
            translated("hairpin", &["hairpin-web", "hairpin-back"]),
            |stage| page(stage, WEB_1, &format!("http://{PUBLISHED_V4}/"), NODE_INT_V4),
        ),
    ]
}

/// Fetches a page over HTTP; the server must see the client as `client`.
fn page(stage: &mut Stage, host: &str, url: &str, client: &str) -> Result<String> {
    let seen = Seen::parse(&fetch(stage, host, url, &[])?)?;
    seen.must_be_from(client)?;
    Ok(format!("{} sees {client}", seen.server))
}

fn https(stage: &mut Stage, address: &str, client: &str) -> Result<String> {
    secure_page(stage, CLIENT, address, client)
}

fn secure_page(stage: &mut Stage, host: &str, address: &str, client: &str) -> Result<String> {
    let trusted = stage.lab.directory().join(TRUSTED);
    let trusted = trusted.to_string_lossy();
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let resolve = format!("{SHOP}:443:{address}");
    let options = ["--cacert", &*trusted, "--resolve", &resolve];
    let seen = Seen::parse(&fetch(stage, host, &format!("https://{SHOP}/"), &options)?)?;
    seen.must_be_from(client)?;
    Ok(format!("TLS is whole, {} sees {client}", seen.server))
}

fn access_log(stage: &mut Stage) -> Result<String> {
    https(stage, PUBLISHED_V4, NODE_INT_V4)?;
    let client = format!("{NODE_INT_V4}:");
    let line = WEB_SERVERS
        .iter()
        .flat_map(|server| {
            server.access_log(&stage.lab).lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .rfind(|line| line.starts_with(&client) && line.ends_with("https"))
        .context("no access log has an HTTPS request from the node's own address")?;
    Ok(line)
}

fn spread(stage: &mut Stage) -> Result<String> {
    let mut servers = BTreeSet::new();
    for _ in 0..24 {
        let text = fetch(stage, CLIENT, &format!("http://{PUBLISHED_V4}/"), &[])?;
        servers.insert(Seen::parse(&text)?.server);
    }
    let names = servers.into_iter().collect::<Vec<_>>().join(" and ");
    ensure!(names == "web-1 and web-2", "only {names} answered");
    Ok(format!("{names} answer"))
}

fn download(stage: &mut Stage, url: &str) -> Result<String> {
    let options = ["--output", "/dev/null", "--write-out", "%{size_download} %{speed_download}"];
    let text = fetch(stage, CLIENT, url, &options)?;
    let (size, speed) = text.split_once(' ').context("curl does not tell the size")?;
    ensure!(size == LARGE.to_string(), "{size} of {LARGE} bytes came");
    let speed: f64 = speed.parse()?;
    Ok(format!("16 MiB at {:.0} MB/s", speed / 1e6))
}

fn from_pool(stage: &mut Stage, family: Family) -> Result<String> {
    let (url, address) = match family {
        Family::V4 => (format!("http://{REMOTE_V4}/"), POOL_V4),
        Family::V6 => (format!("http://[{REMOTE_V6}]/"), POOL_V6),
    };
    let seen = Seen::parse(&fetch(stage, WEB_1, &url, &[])?)?;
    seen.must_be_from(address)?;
    ensure!(POOL_PORTS.contains(&seen.port), "port {} is outside {POOL_PORTS:?}", seen.port);
    Ok(format!("{} sees {address} port {}", seen.server, seen.port))
}
