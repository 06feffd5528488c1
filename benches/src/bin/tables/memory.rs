//! P6: what a connection through source NAT takes, all tables of the engine together.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gabion_benches::{EXTERNAL, INTERNAL, START};
use gabion_engine::build;
use gabion_engine::{
    Engine, EngineConfig, Event, Frame, Generation, InterfaceId, Limits, Neighbour, Offload, Time,
    Verdict,
};

use crate::Line;

/// Connections, and room for no more.
const FLOWS: u32 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

const POLICY: &str = "
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8] }
settings:
  flood: { flows-per-source: 1048576, new-flows-per-source-per-second: 1048576 }
nat:
  - { name: out, kind: snat, from: spokes, out: internet, address: 203.0.113.128/26, ports: 1024-65535 }
rules:
  - { name: out, from: spokes, to: internet, action: allow, log: none }
";

/// The growth of resident memory by an engine and its connections. All of the tables' pages are in
/// use then, as connections are spread over them by their hashes.
pub(crate) fn measure(protocol: Protocol) -> anyhow::Result<Vec<Line>> {
    let before = resident()?;
    let mut engine = engine(FLOWS);
    let loaded = gabion_rules::load("memory.yaml", POLICY, None)
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    engine.set_network(gabion_benches::network());
    engine.set_rules(Generation(1), loaded.rule_set);
    engine.open();
    let empty = resident()?;
    for number in 0..FLOWS {
        connect(&mut engine, number, protocol == Protocol::Tcp);
    }
    let flows = engine.table_use().into_iter().find(|table| table.name == "flows");
    anyhow::ensure!(flows.is_some_and(|flows| flows.used == u64::from(FLOWS)), "{flows:?}");
    let each = |bytes: u64| bytes as f64 / f64::from(FLOWS);
    let all = each(resident()?.saturating_sub(before));
    let name = match protocol {
        Protocol::Tcp => format!("memory/connection/tcp4-snat/{FLOWS}"),
        Protocol::Udp => format!("memory/connection/udp4-snat/{FLOWS}"),
    };
    let idle = each(empty.saturating_sub(before));
    Ok(vec![
        Line::of(name.clone(), "B", vec![all]).against(256.0, 128.0),
        Line::of(format!("{name}/of-it-before-the-first"), "B", vec![idle]),
    ])
}

/// How long an engine is being made, as a node makes it, and what it takes before the first flow.
pub(crate) fn measure_start(flows: u32) -> anyhow::Result<Vec<Line>> {
    let before = resident()?;
    let begin = Instant::now();
    let mut engine = engine(flows);
    gabion_datapath::use_huge_pages();
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    engine.take_memory(|| {
        longest = longest.max(std::mem::replace(&mut last, Instant::now()).elapsed())
    });
    let time = begin.elapsed();
    let memory = resident()?.saturating_sub(before);
    drop(engine);
    let milliseconds = |time: Duration| vec![time.as_secs_f64() * 1e3];
    Ok(vec![
        Line::of(format!("time/start/engine/{flows}"), "ms", milliseconds(time)),
        Line::of(format!("time/start/engine/{flows}/longest-silence"), "ms", milliseconds(longest)),
        Line::of(format!("memory/start/engine/{flows}"), "MiB", vec![memory as f64 / 1_048_576.0]),
    ])
}

fn engine(flows: u32) -> Engine {
    let limits = Limits { flows, mappings: flows, ..Limits::default() };
    Engine::new(START, EngineConfig { limits, seed: [7; 32], cluster: None })
}

/// Opens connection `number`: 500 of each client, each to a server of its own.
fn connect(engine: &mut Engine, number: u32, is_tcp: bool) {
    let (client, port) = (number / 500, 2_000 + number % 500);
    // Neighbours that are not known yet are asked for at a limited rate.
    let now = START + Duration::from_millis(10) * client;
    let client = format!("10.1.{}.{}:{port}", client / 250, client % 250 + 2);
    let server = format!("198.51.{}.{}:443", number / 250 % 250, number % 250);
    let builder = if is_tcp { build::tcp() } else { build::udp() };
    let opening = builder.from(&client).to(&server);
    let opening = if is_tcp { opening.syn().seq(1).window(9_000) } else { opening };
    let external = pass(engine, now, INTERNAL, opening.frame());
    if !is_tcp {
        pass(engine, now, EXTERNAL, build::udp().from(&server).to(&external).frame());
        return;
    }
    let answer = build::tcp().from(&server).to(&external).syn().seq(1).ack(2).window(9_000);
    pass(engine, now, EXTERNAL, answer.frame());
    let last = build::tcp().from(&client).to(&server).seq(2).ack(2).window(9_000);
    pass(engine, now, INTERNAL, last.frame());
}

/// Sends a frame until it leaves, and returns the source that it leaves with.
fn pass(engine: &mut Engine, now: Time, from: InterfaceId, frame: Vec<u8>) -> String {
    loop {
        let mut bytes = frame.clone();
        let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        let verdict = engine.handle_frame(now, from, &mut frame);
        while let Some(event) = engine.poll_event() {
            if let Event::NeighbourWanted { interface, address } = event {
                let known = Neighbour::Reachable { mac: [2, 0, 0, 0, 1, 1] };
                engine.handle_neighbour(now, interface, address.to_ip(), known);
            }
        }
        while engine.poll_transmit().is_some() {}
        match verdict {
            Verdict::Forward { .. } => {
                let port = u16::from_be_bytes([bytes[34], bytes[35]]);
                return format!("{}.{}.{}.{}:{port}", bytes[26], bytes[27], bytes[28], bytes[29]);
            }
            Verdict::Held => {}
            Verdict::Queued { .. }
            | Verdict::ToPeer { .. }
            | Verdict::ToWorker { .. }
            | Verdict::Local
            | Verdict::Answered
            | Verdict::Drop(_)
            | Verdict::Reject(_) => panic!("{verdict:?}"),
        }
    }
}

/// Bytes of this process that are in memory.
pub(crate) fn resident() -> anyhow::Result<u64> {
    measured("Rss:")
}

/// Bytes on one line of the kernel's summary of this process's memory.
pub(crate) fn measured(what: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)).context("no such line")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}
