#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::Workers;

const SMALLEST: &str = "[interfaces]\next = \"eth1\"\n";

fn problems(text: &str) -> String {
    match Config::parse(text, "gabiond.toml") {
        Err(error) => error.to_string(),
        Ok(config) => panic!("accepted: {config:?}"),
    }
}

#[test]
fn the_smallest_file_takes_every_default_from_the_list() {
    let config = Config::parse(SMALLEST, "gabiond.toml").unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.probe_ports(), [4480, 4481]);
    assert_eq!(config.node.state_dir, Path::new("/var/lib/gabion"));
    assert_eq!(config.api.tls, None);
    assert_eq!(config.interfaces, [DataInterface { name: "ext".into(), device: "eth1".into() }]);
}

#[test]
fn every_setting_in_the_list_can_be_written() {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        let (this, name) = setting.key.split_once('.').unwrap();
        if this != section {
            section = this;
            text += &format!("[{section}]\n");
        }
        let value = match setting.kind {
            Kind::Number { min, .. } => min.to_string(),
            Kind::Switch { default } => (!default).to_string(),
            Kind::Text { default, .. } => format!("\"{default}\""),
            Kind::List { .. } => "[]".to_owned(),
            Kind::Optional { .. } | Kind::Required { .. } => "\"word\"".to_owned(),
            Kind::OptionalNumber { min, .. } => min.to_string(),
        };
        text += &format!("{} = {value}\n", if name == "*" { "word" } else { name });
    }
    // Two ports may not be the same, and a cluster has members.
    let text = text.replace("tcp_port = 1\n", "tcp_port = 2\n");
    let text = text.replace("wrapped_port = 1\n", "wrapped_port = 2\n");
    let text = text.replace("machine_port = 1\n", "machine_port = 3\n");
    let text = text.replace("members = []", "members = [\"1=192.0.2.1\"]");
    Config::parse(&text, "gabiond.toml").unwrap();
}

#[test]
fn every_number_is_refused_on_both_sides_of_its_range() {
    for setting in SETTINGS {
        let (Kind::Number { min, max, .. } | Kind::OptionalNumber { min, max, .. }) = setting.kind
        else {
            continue;
        };
        let (section, name) = setting.key.split_once('.').unwrap();
        for value in [i128::from(min) - 1, i128::from(max) + 1] {
            let text = format!("{SMALLEST}[{section}]\n{name} = {value}\n");
            let message = problems(&text);
            assert!(
                message.starts_with(&format!(
                    "gabiond.toml:4: {} = {value} is out of range",
                    setting.key
                )),
                "{message}"
            );
        }
    }
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let message = problems(
        "[node]\nstate_dir = \"var\"\n[interfaces]\next = \"eth1\"\nint = \"eth1\"\n[management]\n\
         interfaces = [\"eth1\"]\n[api]\nlisten = [\"nowhere\"]\n[health]\nport = 4481\n",
    );
    let starts: Vec<&str> = message.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        starts,
        [
            "gabiond.toml:2",
            "gabiond.toml:5",
            "gabiond.toml:7",
            "gabiond.toml:9",
            "gabiond.toml:9",
            "gabiond.toml:9",
            "gabiond.toml:9",
            "gabiond.toml:11",
        ],
        "{message}"
    );
    assert!(message.contains("gabion pki init"), "{message}");
}

#[test]
fn an_unknown_setting_is_named_with_its_line() {
    let message = problems("[interfaces]\next = \"eth1\"\n[limits]\nflow = 1\n");
    assert!(
        message.starts_with("gabiond.toml:4: unknown field `flow`, expected one of"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn text_that_is_not_toml_is_one_line_with_its_place() {
    let message = problems("[interfaces\n");
    assert!(message.starts_with("gabiond.toml:1: "), "{message}");
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn a_held_node_needs_no_interface_and_its_reason_is_one_line() {
    let config = Config::parse("[node]\nhold = \"no data\"\n", "gabiond.toml").unwrap();
    assert_eq!(config.node.hold.as_deref(), Some("no data"));
    assert!(!config.moves());
    for wrong in [String::new(), "a\\nb".into(), "x".repeat(1_001)] {
        let message = problems(&format!("[node]\nhold = \"{wrong}\"\n"));
        assert!(message.starts_with("gabiond.toml:2: node.hold"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn no_interface_at_all_says_what_to_write() {
    assert!(problems("").contains("ext = \"eth1\""));
}

#[test]
fn the_reference_page_is_current() {
    let page = include_str!("../../../../docs/configuration.md");
    assert!(
        page == reference(),
        "docs/configuration.md is old: gabiond --print-config-reference > docs/configuration.md"
    );
}

#[test]
fn the_packaged_example_is_right() {
    let example = include_str!("../../../../packaging/gabiond.toml");
    let alone = Config::parse(example, "gabiond.toml").unwrap();
    assert_eq!(alone.cluster, None);
    // What it says of a cluster is commented out.
    let (rest, cluster) = example.split_once("# [cluster]\n").unwrap();
    let cluster = cluster.replace("# ", "");
    let clustered = format!("{rest}[cluster]\n{cluster}");
    assert!(Config::parse(&clustered, "gabiond.toml").unwrap().cluster.is_some());
}

/// A file with a cluster of two, its members and its number as given.
fn clustered(node: &str, members: &str) -> String {
    format!(
        "{SMALLEST}[cluster]\nname = \"fw\"\nnode = {node}\nca = \"ca\"\ncertificate = \"c\"\nkey = \"k\"\nmembers = {members}\n"
    )
}

#[test]
fn a_cluster_has_its_members_by_number_and_the_defaults_of_the_list() {
    let text = clustered("2", "[\"1 = 192.0.2.1\", \"2=192.0.2.2\"]");
    let cluster = Config::parse(&text, "gabiond.toml").unwrap().cluster.unwrap();
    assert_eq!(cluster.address(), IpAddr::from([192, 0, 2, 2]));
    assert_eq!((cluster.members.len(), cluster.ports.sync), (2, 6_082));
    assert_eq!(cluster.heartbeat * cluster.heartbeats_missed, Duration::from_millis(400));
    assert_eq!(Config::parse(SMALLEST, "gabiond.toml").unwrap().cluster, None);
}

#[test]
fn a_cluster_that_cannot_be_is_refused_by_name() {
    for (node, members, expected) in [
        ("1", "[\"1=192.0.2.1\", \"2=192.0.2.1\"]", "a node is not its own peer"),
        ("3", "[\"3=192.0.2.3\", \"1=192.0.2.1\", \"2=192.0.2.1\"]", "have the same address"),
        ("1", "[\"1=192.0.2.1\", \"1=192.0.2.2\"]", "1 is there twice"),
        ("1", "[\"1=192.0.2.1\", \"1=192.0.2.1\"]", "1 is there twice"),
        ("3", "[\"1=192.0.2.1\"]", "cluster.node = 3, is not among them"),
        ("1", "[\"1=192.0.2.1\", \"2=2001:db8::2\"]", "all members have IPv4"),
        ("1", "[\"1=192.0.2.1\", \"17=192.0.2.2\"]", "number from 1 to 16"),
        ("1", "[\"1=192.0.2.1\", \"2=0.0.0.0\"]", "write NUMBER=ADDRESS"),
        ("1", "[\"1=2001:db8::1\", \"2=fe80::2\"]", "write NUMBER=ADDRESS"),
        ("1", "[\"1=192.0.2.1\", \"two\"]", "write NUMBER=ADDRESS"),
        ("0", "[\"1=192.0.2.1\"]", "cluster.node = 0 is out of range: 1 to 16 number"),
        ("1", "[]", "cluster.members is missing"),
    ] {
        let message = problems(&clustered(node, members));
        assert!(message.contains(expected), "{members}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let message = problems(&clustered("1", "[\"1=192.0.2.1\"]").replace("\"fw\"", "\"Fw.\""));
    assert!(message.contains("cluster.name = \"Fw.\" is not allowed"), "{message}");
}

#[test]
fn nobody_listens_where_a_machine_is_asked() {
    let text = clustered("1", "[\"1=192.0.2.1\"]");
    let config = Config::parse(&text, "gabiond.toml").unwrap();
    assert_eq!(config.host_ports(), [4480, 4481, 6084]);
    for (port, key) in [(4480, "health.port"), (6083, "cluster.session_port")] {
        let message = problems(&format!("{text}machine_port = {port}\n"));
        assert!(message.contains(&format!("machine_port and {key} are both {port}")), "{message}");
    }
}

#[test]
fn half_a_cluster_says_what_is_missing() {
    let message = problems(&format!("{SMALLEST}[cluster]\nname = \"fw\"\n"));
    for key in ["node", "members", "ca", "certificate", "key"] {
        let missing = format!("gabiond.toml:4: cluster.{key} is missing");
        assert!(message.contains(&missing), "{message}");
    }
    let message = problems(&format!("{SMALLEST}[cluster]\nnode = 1\n"));
    assert!(message.starts_with("gabiond.toml:4: cluster.name is missing"), "{message}");
}

#[test]
fn several_workers_need_programs() {
    let config = |node: &str| format!("{SMALLEST}[node]\n{node}\n");
    let workers = |text: &str| Config::parse(text, "gabiond.toml").unwrap().node.workers;
    assert_eq!(workers(SMALLEST), 1);
    assert_eq!(workers(&config("workers = 4")), 4);
    assert_eq!(workers(&config("workers = 4\ndatapath = \"ebpf\"")), 4);
    for datapath in ["userspace", "null"] {
        let message = problems(&config(&format!("datapath = \"{datapath}\"\nworkers = 2")));
        assert!(message.starts_with("gabiond.toml:5: node.workers = 2:"), "{message}");
        assert!(message.contains("\"ebpf\"") && message.contains("node.workers = 1"), "{message}");
    }
}

#[test]
fn workers_of_a_cluster_are_sixteen_at_most_and_never_fewer_than_they_say() {
    let clustered = clustered("2", "[\"1 = 192.0.2.1\", \"3=192.0.2.2\", \"2=192.0.2.3\"]");
    let config = |node: &str| format!("{clustered}[node]\n{node}\n");
    let fits = Config::parse(&config("workers = 5\ndatapath = \"ebpf\""), "gabiond.toml").unwrap();
    assert_eq!(fits.cluster.unwrap().workers, Workers(5));
    let message = problems(&config("workers = 6\ndatapath = \"ebpf\""));
    assert!(message.contains("node.workers = 6") && message.contains("= 5 at all"), "{message}");
    let message = problems(&config("workers = 2\ndatapath = \"auto\""));
    assert!(message.contains("set node.datapath = \"ebpf\""), "{message}");
}
