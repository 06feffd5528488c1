//! A host behind the node that wants packets which are not its own: those for the node's services and
//! those of other hosts (CVE-2021-3773; Mixon-Baca et al., "Attacking Connection Tracking Frameworks",
//! PETS 2024).

use gabion_engine::build;

use super::dialogue::Dialogue;

/// The port of the node's own service in the dialogue's network.
const SERVICE: u16 = 4_480;

/// Outbound NAT to the node's own address, with a range that holds the port of its service.
fn policy(mapping: &str) -> String {
    format!(
        "
apiVersion: gabion/v1
zones:
  internet: {{ interfaces: [ext] }}
  spokes: {{ interfaces: [int], networks: [10.0.0.0/8] }}
nat:
  - {{ name: out, kind: snat, from: spokes, out: internet, address: self, ports: 4479-4482,
      mapping: {mapping} }}
rules:
  - {{ name: out, from: spokes, to: internet, action: allow }}
"
    )
}

/// Covers: 3.3
#[test]
fn no_host_gets_the_port_of_a_service_of_the_node() {
    for mapping in ["endpoint-independent", "symmetric"] {
        let mut dialogue = Dialogue::new(&policy(mapping));
        for host in 10..20 {
            // The port that it would like to keep.
            let from = format!("10.1.0.{host}:{SERVICE}");
            let syn = build::tcp().from(&from).to("198.51.100.9:50000").syn().seq(1);
            dialogue.send("int", &syn.frame());
        }
        let flows = dialogue.engine.flows(0, 99).0;
        assert_eq!(flows.len(), 3, "{mapping}: the three ports that are free");
        for flow in flows {
            let external = flow.reply.destination;
            assert_eq!(external.address.to_string(), "203.0.113.1");
            assert_ne!(external.port, SERVICE, "{mapping}");
        }
        // What the peer sends to the service reaches the service.
        let answer = build::tcp().from("198.51.100.9:50000").to("203.0.113.1:4480").syn().seq(9);
        dialogue.step("ext", &answer.frame(), &[], &["local"]);
        let answer = answer.ack(2);
        dialogue.step("ext", &answer.frame(), &[], &["local"]);
    }
}

/// Covers: 3.3
#[test]
fn nobody_speaks_as_the_node() {
    let mut dialogue = Dialogue::new(&policy("symmetric"));
    for from in ["203.0.113.1:4480", "10.1.0.1:4480", "203.0.113.1:50000"] {
        let syn = build::tcp().from(from).to("198.51.100.9:50000").syn().seq(1).frame();
        dialogue.step("int", &syn, &[], &["drop:spoofed-source"]);
    }
}

/// A flow whose answers would be taken for those of another is not made (NAT reverse clash).
///
/// Covers: 3.3, 5382-7
#[test]
fn two_hosts_never_share_the_answers_of_one_peer() {
    let mut dialogue = Dialogue::new(&policy("symmetric"));
    let mut seen = std::collections::BTreeSet::new();
    for host in 10..30 {
        for to in ["198.51.100.9:443", "198.51.100.10:443"] {
            let from = format!("10.1.0.{host}:7000");
            dialogue.send("int", &build::tcp().from(&from).to(to).syn().seq(1).frame());
        }
    }
    for flow in dialogue.engine.flows(0, 99).0 {
        assert!(seen.insert(flow.reply), "{}", flow.reply.source);
    }
    assert_eq!(seen.len(), 6, "three ports towards each peer");
}
