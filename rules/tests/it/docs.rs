//! What docs/policy.md shows is true.

use gabion_rules::{PacketText, load};

const MANUAL: &str = include_str!("../../../docs/policy.md");
const HEAD: &str = "\
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8] }
";

/// The texts between fences that begin with `fence`.
fn blocks(fence: &str) -> Vec<&'static str> {
    let parts: Vec<&str> = MANUAL.split("```").collect();
    let inside = parts.iter().skip(1).step_by(2);
    inside.filter_map(|block| block.strip_prefix(fence)).collect()
}

#[test]
fn every_policy_in_the_manual_loads() {
    let policies = blocks("yaml\n");
    assert!(policies.len() >= 7);
    for block in policies {
        let head = if block.contains("apiVersion") { "" } else { HEAD };
        let text = format!("{head}{block}");
        load("manual", &text, None).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn every_packet_in_the_manual_can_be_read() {
    let packets = blocks("\n");
    let lines: Vec<&str> = packets.iter().flat_map(|block| block.lines()).collect();
    assert_eq!(lines.len(), 5);
    for line in lines {
        assert_eq!(line.parse::<PacketText>().unwrap().to_string(), line);
    }
}

/// Every key of the schema is named, and every default that a setting has.
#[test]
fn every_key_is_in_the_manual() {
    let schema: serde_json::Value = serde_json::from_str(&gabion_rules::json_schema()).unwrap();
    let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    for definition in definitions {
        let properties = definition["properties"].as_object();
        for key in properties.into_iter().flat_map(|properties| properties.keys()) {
            let named = [format!("`{key}`"), format!("`{key}:"), format!("{key}:")];
            assert!(named.iter().any(|name| MANUAL.contains(name)), "{key} is not in the manual");
        }
    }
}
