//! What stands for Azure's metadata service: every node's machine is told of the planned events of all, and any may let one begin.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::balancer::held;
use super::network::NODES;
use crate::lab::build::Lab;

/// Where each machine finds it.
pub(crate) const METADATA: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4470);

/// How often it is looked whether somebody asks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For a question to arrive, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);
const BODY_MAX: usize = 4_096;

/// A reboot that is planned for one node's machine.
#[derive(Debug, Clone)]
struct Reboot {
    node: usize,
    not_before: OffsetDateTime,
    has_begun: bool,
    acknowledged: Option<Acknowledged>,
}

/// Who let it begin, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) by: usize,
    pub(crate) at: Instant,
}

#[derive(Debug, Default)]
struct Plans {
    /// Grows with each change.
    incarnation: u64,
    reboots: Vec<Reboot>,
}

/// The service at all machines. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Platform {
    plans: Arc<Mutex<Plans>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Platform {
    /// Serves at so many nodes.
    ///
    /// # Errors
    /// If a port is taken.
    pub(crate) fn start(lab: &Lab, nodes: u8) -> Result<Self> {
        let mut platform =
            Self { plans: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for (node, name) in NODES.iter().enumerate().take(usize::from(nodes)) {
            let namespace = lab.namespace(name);
            let bind = || TcpListener::bind(METADATA).context("cannot serve metadata");
            let listener = namespace.enter(bind)?;
            listener.set_nonblocking(true)?;
            let (plans, stop) = (Arc::clone(&platform.plans), Arc::clone(&platform.stop));
            platform.threads.push(namespace.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // Who hangs up asks again.
                        Ok((stream, _)) => drop(answer(&stream, node, &plans)),
                        Err(_) => std::thread::sleep(LOOK_EVERY),
                    }
                }
                Ok(())
            }));
        }
        Ok(platform)
    }

    /// Plans reboots of these nodes, all of them so long from now.
    pub(crate) fn plan(&self, nodes: &[usize], notice: Duration) {
        let mut plans = held(&self.plans);
        let not_before = OffsetDateTime::now_utc() + notice;
        plans.reboots.extend(nodes.iter().map(|&node| Reboot {
            node,
            not_before,
            has_begun: false,
            acknowledged: None,
        }));
        plans.incarnation += 1;
    }

    /// Who has let a node's reboot begin.
    pub(crate) fn acknowledged(&self, node: usize) -> Option<Acknowledged> {
        held(&self.plans).reboots.iter().find(|reboot| reboot.node == node)?.acknowledged
    }

    /// The node's machine is about to go.
    pub(crate) fn begin(&self, node: usize) {
        let mut plans = held(&self.plans);
        plans
            .reboots
            .iter_mut()
            .filter(|one| one.node == node)
            .for_each(|one| one.has_begun = true);
        plans.incarnation += 1;
    }

    /// Nothing is listed any more.
    pub(crate) fn end(&self) {
        let mut plans = held(&self.plans);
        plans.reboots.clear();
        plans.incarnation += 1;
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if !matches!(thread.join(), Ok(Ok(()))) {
                eprintln!("a metadata service failed");
            }
        }
    }
}

impl Reboot {
    fn id(&self) -> String {
        format!("reboot-{}", self.node + 1)
    }
}

impl Plans {
    fn document(&self) -> Value {
        let event = |reboot: &Reboot| {
            let status = if reboot.has_begun { "Started" } else { "Scheduled" };
            let not_before = if reboot.has_begun { String::new() } else { date(reboot.not_before) };
            json!({
                "EventId": reboot.id(),
                "EventStatus": status,
                "EventType": "Reboot",
                "ResourceType": "VirtualMachine",
                "Resources": [NODES[reboot.node]],
                "NotBefore": not_before,
                "Description": "The lab reboots this machine.",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            })
        };
        let events: Vec<_> = self.reboots.iter().map(event).collect();
        json!({ "DocumentIncarnation": self.incarnation, "Events": events })
    }

    /// Lets those begin that `body` names, if all are known.
    fn acknowledge(&mut self, body: &[u8], by: usize) -> bool {
        let wanted: Value = serde_json::from_slice(body).unwrap_or_default();
        let wanted = wanted["StartRequests"].as_array().cloned().unwrap_or_default();
        let ids: Vec<_> = wanted.iter().filter_map(|one| one["EventId"].as_str()).collect();
        let at = Instant::now();
        for reboot in self.reboots.iter_mut().filter(|one| ids.contains(&one.id().as_str())) {
            reboot.acknowledged.get_or_insert(Acknowledged { by, at });
        }
        let is_known = |id: &&str| self.reboots.iter().any(|reboot| reboot.id() == *id);
        !ids.is_empty() && ids.iter().all(is_known)
    }
}

fn date(time: OffsetDateTime) -> String {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time.format(&format).expect("the format has nothing that a time lacks")
}

/// Answers one question of a node's.
fn answer(stream: &TcpStream, node: usize, plans: &Mutex<Plans>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let value = |name| head.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = value("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; usize::min(length, BODY_MAX)];
    reader.read_exact(&mut body)?;
    let asked = head.first().map(String::as_str).unwrap_or_default();
    let (method, path) = asked.split_once(' ').unwrap_or_default();
    let (status, answer) = match (method, path.split('?').next().unwrap_or_default()) {
        _ if value("metadata:") != Some("true") => (400, json!({})),
        ("get", "/metadata/instance") => (200, json!({ "compute": { "name": NODES[node] } })),
        ("get", "/metadata/scheduledevents") => (200, held(plans).document()),
        ("post", "/metadata/scheduledevents") if held(plans).acknowledge(&body, node) => {
            (200, json!({}))
        }
        _ => (400, json!({})),
    };
    write(stream, status, &answer.to_string())
}

fn write(mut stream: &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Lab\r\nConnection: close\r\n");
    let (date, length) = (date(OffsetDateTime::now_utc()), body.len());
    let _ = write!(text, "Date: {date}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes())
}
