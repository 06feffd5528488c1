//! Texts that people and programs write.

use std::path::Path;

use gabion_provision::document::{FirstBoot, Trust};
use gabion_provision::network::Platform;
use gabion_provision::plan::{self, Devices, Given};
use gabion_rules::{PacketText, Query, Transport, ZoneId};
use gabiond::config::Config;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A policy is refused with places in its text, or it prints itself so that it is read again as
/// the same, and answers every question. The two ways of reading lines agree.
pub(crate) fn policy(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let [quick, whole] = gabion_rules::both_readings(text, 10_000);
    assert_eq!(quick, whole, "plain lines are read otherwise than the parser reads them");
    let loaded = match gabion_rules::load("fuzz.yaml", text, None) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            assert!(diagnostics.first().is_some(), "refused without a reason");
            let lines = text.split('\n').count();
            for diagnostic in diagnostics.iter() {
                let line = diagnostic.line as usize;
                assert!((1..=lines).contains(&line), "{diagnostic} is outside");
                assert!(diagnostic.column >= 1, "{diagnostic}");
            }
            return;
        }
    };
    let printed = loaded.policy.print();
    let again = gabion_rules::load("again.yaml", &printed, None)
        .unwrap_or_else(|error| panic!("what was printed is refused: {error}\n{printed}"));
    assert_eq!(again.policy.print(), printed);
    assert_eq!(again.rule_set.digest(), loaded.rule_set.digest());
    assert_eq!(again.rule_set.rules().len(), loaded.rule_set.rules().len());

    let zones = loaded.rule_set.zones().len() as u16;
    for (from, to) in (0..zones.min(4)).flat_map(|from| (0..zones.min(4)).map(move |to| (from, to)))
    {
        for query in queries(ZoneId(from), ZoneId(to)) {
            let decided = loaded.rule_set.decide(&query, &mut |_| {});
            assert_eq!(again.rule_set.decide(&query, &mut |_| {}), decided, "{query:?}");
        }
    }
}

fn queries(from: ZoneId, to: ZoneId) -> Vec<Query> {
    let pairs = [("198.51.100.9", "10.1.0.10"), ("2600:9::9", "2600:2::10")];
    let transports = [
        Transport::Tcp { source_port: 40_000, destination_port: 443 },
        Transport::Udp { source_port: 53, destination_port: 53 },
        Transport::Icmp { kind: 8, code: 0 },
        Transport::Icmpv6 { kind: 128, code: 0 },
        Transport::Other { protocol: 47 },
    ];
    pairs
        .iter()
        .flat_map(|(source, destination)| {
            transports.map(|transport| Query {
                from,
                to,
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                transport,
            })
        })
        .collect()
}

/// First-boot data is refused with places in it, or becomes files of which gabiond understands the first; what an
/// operator has yet to enrol moves nothing.
pub(crate) fn first_boot(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').count() as u64;
    let first = match FirstBoot::read(bytes) {
        Ok(first) => first,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in &problems {
                assert!(
                    problem.place.is_none_or(|(line, _)| (1..=lines).contains(&line)),
                    "{problem}"
                );
            }
            let files = plan::held(
                &problems[0].to_string(),
                &Given::default(),
                Path::new(DIRECTORY),
                Platform::Azure,
            );
            assert!(!configuration(&files).unwrap().moves());
            return;
        }
    };
    let is_waiting = matches!(first.trust, Some(Trust::Token(_)));
    let (given, devices) = (Given::default(), Devices::new());
    let planned = plan::plan(&first, &given, Path::new(DIRECTORY), &devices, Platform::Azure);
    if let Ok(files) = planned
        && let Some(config) = configuration(&files)
    {
        assert!(!is_waiting || !config.moves());
        assert_eq!(config.management.len(), first.host.len());
    }
    let _ = gabion_provision::ovf::read(bytes);
}

const DIRECTORY: &str = "/var/lib/gabion/etc";

/// `None`: gabiond refuses it.
fn configuration(files: &[plan::File]) -> Option<Config> {
    let file = files.iter().find(|file| file.path == Path::new(plan::CONFIG)).unwrap();
    Config::parse(&file.text, plan::CONFIG).ok()
}

/// A packet's text is refused at a place within it, or printed so that it is read again as the same.
pub(crate) fn packet(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match text.parse::<PacketText>() {
        Ok(packet) => assert_eq!(packet.to_string().parse(), Ok(packet)),
        Err(error) => {
            assert!(error.offset <= text.len(), "{error}");
            assert!(text.is_char_boundary(error.offset), "{error}");
        }
    }
}

/// A configuration is refused with places in its text, or its values are within their limits.
pub(crate) fn config(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            assert!(!config.interfaces.is_empty(), "a node without interfaces does nothing");
            assert_eq!(Config::parse(text, "fuzz.toml").unwrap(), config);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What is not a line of the guard's never means that its rules are in place.
pub(crate) fn guard(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(gabiond::guard::GuardState::InPlace) = gabiond::guard::read_answer(text) {
        assert!(text.contains("event"), "{text:?}");
    }
}

/// A request's head gives a path that begins with a slash, or a status.
pub(crate) fn http(bytes: &[u8]) {
    if let Ok(request) = gabiond::http::parse_head(bytes) {
        assert!(request.path.starts_with('/') && !request.path.contains(['?', ' ', '\r']));
    }
}
