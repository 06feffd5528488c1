#![allow(clippy::unwrap_used)]

use super::*;

/// A packet as the rules can see it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    from: Option<&'static str>,
    to: Option<&'static str>,
    version: IpVersion,
    body: Body,
    /// At the other end.
    far: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy)]
enum Body {
    Ports(Transport, u16, u16),
    Icmpv6 {
        kind: u8,
        hop_limit: u8,
    },
    /// Another protocol, or a fragment without its transport header.
    Opaque,
}

fn matches(m: &Match, p: &Seen) -> bool {
    let named = |name: &DeviceName, device: Option<&str>| {
        device.is_some_and(|device| name.to_string() == device)
    };
    match (m, p.body) {
        (Match::From(name), _) => named(name, p.from),
        (Match::To(name), _) => named(name, p.to),
        (Match::Ip(version), _) => *version == p.version,
        (Match::Transport(t), Body::Ports(u, ..)) => *t == u,
        (Match::Transport(t), Body::Icmpv6 { .. }) => *t == Transport::Icmpv6,
        (Match::SourcePort(n), Body::Ports(_, source, _)) => *n == source,
        (Match::DestinationPort(n), Body::Ports(_, _, destination)) => *n == destination,
        (Match::Source(far) | Match::Destination(far), Body::Ports(..)) => p.far == Some(*far),
        (Match::SourcePorts(range), Body::Ports(_, source, _)) => range.contains(&source),
        (Match::DestinationPorts(range), Body::Ports(_, _, to)) => range.contains(&to),
        (Match::HopLimit(n), Body::Icmpv6 { hop_limit, .. }) => *n == hop_limit,
        (Match::Icmpv6Type(range), Body::Icmpv6 { kind, .. }) => range.contains(&kind),
        (_, _) => false,
    }
}

fn passes(chains: &[Chain], hook: Hook, packet: &Seen) -> bool {
    let mut chain = chains.iter().find(|c| c.hook == Some(hook)).unwrap();
    'chain: loop {
        for rule in &chain.rules {
            if rule.matches.iter().all(|m| matches(m, packet)) {
                match rule.verdict {
                    Verdict::Accept => return true,
                    Verdict::Drop => return false,
                    Verdict::Goto(name) => {
                        chain = chains.iter().find(|c| c.name == name).unwrap();
                        continue 'chain;
                    }
                }
            }
        }
        return true;
    }
}

fn bodies() -> Vec<(IpVersion, Body)> {
    let ports = [1, 67, 68, 546, 547, 4480, 4481, 65535];
    let mut all = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        all.push((version, Body::Opaque));
        for transport in [Transport::Tcp, Transport::Udp] {
            for source in ports {
                for destination in ports {
                    all.push((version, Body::Ports(transport, source, destination)));
                }
            }
        }
        for kind in 0..=255 {
            for hop_limit in [1, 64, 254, 255] {
                all.push((version, Body::Icmpv6 { kind, hop_limit }));
            }
        }
    }
    all
}

fn guarded() -> Vec<Chain> {
    chains(&Configuration::new(["eth1", "eth2"], [4480, 4481]).unwrap())
}

/// The rules in one sentence each, written a second time.
fn is_discovery(version: IpVersion, body: Body) -> bool {
    version == IpVersion::V6 && matches!(body, Body::Icmpv6 { kind: 133..=137, hop_limit: 255 })
}

#[test]
fn the_host_hears_only_what_is_its_own() {
    let chains = guarded();
    for (version, body) in bodies() {
        let own = is_discovery(version, body)
            || match (version, body) {
                (_, Body::Ports(Transport::Tcp, _, port)) => port == 4480 || port == 4481,
                (IpVersion::V4, Body::Ports(Transport::Udp, from, to)) => (from, to) == (67, 68),
                (IpVersion::V6, Body::Ports(Transport::Udp, from, to)) => (from, to) == (547, 546),
                _ => false,
            };
        for device in ["eth1", "eth2"] {
            let packet = Seen { from: Some(device), to: None, version, body, far: None };
            assert_eq!(passes(&chains, Hook::Prerouting, &packet), own, "{packet:?}");
        }
    }
}

#[test]
fn the_host_says_only_what_is_its_own() {
    let chains = guarded();
    for (version, body) in bodies() {
        let own = is_discovery(version, body)
            || match (version, body) {
                (_, Body::Ports(Transport::Tcp, port, _)) => port == 4480 || port == 4481,
                (IpVersion::V4, Body::Ports(Transport::Udp, from, to)) => (from, to) == (68, 67),
                (IpVersion::V6, Body::Ports(Transport::Udp, from, to)) => (from, to) == (546, 547),
                _ => false,
            };
        let packet = Seen { from: None, to: Some("eth2"), version, body, far: None };
        assert_eq!(passes(&chains, Hook::Output, &packet), own, "{packet:?}");
    }
}

#[test]
fn azures_services_are_let_through_where_told_and_reach_no_server() {
    let told = Configuration::new(["eth1"], [4480]).unwrap().with_azure_services(true);
    let [told, not] = [chains(&told), chains(&Configuration::new(["eth1"], [4480]).unwrap())];
    let host = Ipv4Addr::new(168, 63, 129, 16);
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let other = Ipv4Addr::new(192, 0, 2, 1);
    for (far, transport, service, client, passes_told) in [
        (host, Transport::Tcp, 80, 40_000, true),
        (host, Transport::Tcp, 443, 32_768, true),
        (host, Transport::Tcp, 32_526, 60_999, true),
        (host, Transport::Tcp, 53, 40_000, true),
        (host, Transport::Udp, 53, 40_000, true),
        (metadata, Transport::Tcp, 80, 40_000, true),
        (host, Transport::Tcp, 80, 22, false),
        (host, Transport::Tcp, 80, 61_000, false),
        (host, Transport::Tcp, 22, 40_000, false),
        (host, Transport::Udp, 80, 40_000, false),
        (metadata, Transport::Udp, 53, 40_000, false),
        (other, Transport::Tcp, 80, 40_000, false),
    ] {
        let seen = |from, to, body| Seen { from, to, version: IpVersion::V4, body, far: Some(far) };
        let answer = seen(Some("eth1"), None, Body::Ports(transport, service, client));
        let question = seen(None, Some("eth1"), Body::Ports(transport, client, service));
        assert_eq!(passes(&told, Hook::Prerouting, &answer), passes_told, "{answer:?}");
        assert_eq!(passes(&told, Hook::Output, &question), passes_told, "{question:?}");
        assert!(!passes(&not, Hook::Prerouting, &answer), "{answer:?}");
        assert!(!passes(&not, Hook::Output, &question), "{question:?}");
    }
}

#[test]
fn the_host_forwards_nothing_of_a_data_device() {
    let chains = guarded();
    for (version, body) in bodies() {
        for (from, to) in [("eth1", "eth2"), ("eth0", "eth1"), ("eth2", "eth0")] {
            let packet = Seen { from: Some(from), to: Some(to), version, body, far: None };
            assert!(!passes(&chains, Hook::Forward, &packet), "{packet:?}");
        }
    }
}

#[test]
fn other_devices_are_left_alone() {
    let chains = guarded();
    for (version, body) in bodies() {
        for device in ["eth0", "lo", "eth", "eth10", "eth1.5"] {
            let packet = Seen { from: Some(device), to: Some(device), version, body, far: None };
            for hook in [Hook::Prerouting, Hook::Forward, Hook::Output] {
                assert!(passes(&chains, hook, &packet), "{packet:?}");
            }
        }
    }
}

#[test]
fn labels_give_the_configuration_back() {
    for (devices, ports) in [(&["eth1", "tcp"][..], &[1, 4480][..]), (&["a"], &[])] {
        let expected = Configuration::new(devices.iter().copied(), ports.iter().copied()).unwrap();
        let expected = expected.with_azure_services(ports.is_empty());
        let chains = chains(&expected);
        let labels = chains.iter().flat_map(|c| c.rules.iter().map(|r| (c.name, r.label.as_str())));
        assert_eq!(configuration(labels).unwrap(), expected);
    }
    assert_eq!(configuration([]), Err(ConfigurationError::NoDevice));
    assert_eq!(configuration([(PREROUTING, "theirs")]), Err(ConfigurationError::NoDevice));
}
