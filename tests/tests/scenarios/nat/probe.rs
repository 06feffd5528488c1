//! A dialogue that asks what RFC 5780 has a client ask: which endpoint stands for a socket, and who
//! may send to it.

use std::time::Duration;

use gabion_engine::build::{self, FrameBuilder};

use crate::scenarios::dialogue::Dialogue;

/// Everything is permitted both ways: what does not pass, NAT has kept out.
const OPEN: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  default: { action: allow }
nat:
";

/// One NAT rule that the tests vary: `address`, `ports` and what else is written.
pub(super) fn out(how: &str) -> String {
    format!("  - {{ name: out, kind: snat, from: spokes, out: internet, {how} }}\n")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

pub(super) const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

impl Protocol {
    /// A packet that may begin a flow.
    pub(super) fn frame(self, from: &str, to: &str) -> Vec<u8> {
        self.build(from, to).frame()
    }

    pub(super) fn build(self, from: &str, to: &str) -> FrameBuilder {
        match self {
            Self::Tcp => build::tcp().from(from).to(to).syn().seq(1).window(64_000),
            Self::Udp => build::udp().from(from).to(to).payload(b"probe"),
        }
    }
}

pub(super) struct Probe {
    pub dialogue: Dialogue,
}

impl Probe {
    /// A node that translates by the given rules, see `out`.
    pub(super) fn new(nat: &str) -> Self {
        Self { dialogue: Dialogue::new(&policy(nat)) }
    }

    /// The external endpoint that a server sees of an inside socket; `None` where nothing leaves.
    pub(super) fn outward(&mut self, protocol: Protocol, from: &str, to: &str) -> Option<String> {
        let left = self.pass("int", &protocol.frame(from, to), "ext")?;
        assert_eq!(left.1, to, "the destination stays");
        Some(left.0)
    }

    /// The inside socket that a packet from outside comes to.
    pub(super) fn inward(&mut self, protocol: Protocol, from: &str, to: &str) -> Option<String> {
        let left = self.pass("ext", &protocol.frame(from, to), "int")?;
        assert_eq!(left.0, from, "the source stays");
        Some(left.1)
    }

    /// Source and destination of the one packet that leaves, if one does.
    pub(super) fn pass(&mut self, by: &str, frame: &[u8], out: &str) -> Option<(String, String)> {
        self.dialogue.send(by, frame);
        let left = self.dialogue.left();
        // `ext: udp 203.0.113.4:2000 > 198.51.100.9:53 +5 ttl 63`; errors go back, not on.
        let words: Vec<&str> = left.first()?.split(' ').collect();
        let onward = words[0].trim_end_matches(':') == out && words[3] == ">";
        onward.then(|| (words[2].to_owned(), words[4].to_owned()))
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        // In steps, as a node's timers would have it.
        for _ in 0..seconds {
            self.dialogue.now = self.dialogue.now + Duration::from_secs(1);
            self.dialogue.engine.handle_timeout(self.dialogue.now);
        }
    }
}

pub(super) fn policy(nat: &str) -> String {
    format!("{OPEN}{nat}rules: []\n")
}

/// The address of `address:port`.
pub(super) fn address(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').expect("an endpoint").0
}

/// The port of `address:port`.
pub(super) fn port(endpoint: &str) -> u16 {
    endpoint.rsplit_once(':').expect("an endpoint").1.parse().expect("a port")
}
