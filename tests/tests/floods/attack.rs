//! Floods of one kind each.

use gabion_engine::build;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    SynFromAnywhere,
    /// Each SYN again after half a second, from somebody who knows how the node judges.
    SynTwice,
    SynFromOne,
    /// Each SYN with its RST.
    SynAndRst,
    UdpFromAnywhere,
    UdpFromOne,
    EchoFromAnywhere,
    /// First fragments alone.
    FragmentsFromAnywhere,
    AckFromAnywhere,
    /// SYNs that a rule rejects, with an answer.
    RefusedFromAnywhere,
    /// One IPv6 host that takes another address of its network for each SYN.
    SynFromOneNetwork,
}

impl Kind {
    pub(super) const ALL: [Self; 11] = [
        Self::SynFromAnywhere,
        Self::SynTwice,
        Self::SynFromOne,
        Self::SynAndRst,
        Self::UdpFromAnywhere,
        Self::UdpFromOne,
        Self::EchoFromAnywhere,
        Self::FragmentsFromAnywhere,
        Self::AckFromAnywhere,
        Self::RefusedFromAnywhere,
        Self::SynFromOneNetwork,
    ];

    /// The flood's frame of this number.
    pub(super) fn frame(self, number: u64, per_second: u64) -> Vec<u8> {
        let second = number % 2 == 1;
        let number = match self {
            Self::SynAndRst => number / 2,
            Self::SynTwice => {
                let round = per_second / 2;
                number / (2 * round) * round + number % round
            }
            _ => number,
        };
        let chance = scatter(number);
        let [a, b, c, ..] = chance.to_be_bytes();
        let port = 1_024 + (chance % 60_000) as u16;
        let (host, sequence) = (format!("{}.{a}.{b}.{c}", 20 + chance % 20), (chance >> 9) as u32);
        let (anywhere, here) =
            (format!("{host}:{port}"), format!("192.0.2.66:{}", 1_024 + number % 60_000));
        let syn = |from: &str, to: &str| build::tcp().from(from).to(to).syn().seq(sequence).frame();
        match self {
            Self::SynAndRst if second => {
                build::tcp().from(&anywhere).to(WEB).rst().seq(sequence.wrapping_add(1)).frame()
            }
            Self::SynFromAnywhere | Self::SynTwice | Self::SynAndRst => syn(&anywhere, WEB),
            Self::SynFromOne => syn(&here, WEB),
            Self::UdpFromAnywhere => build::udp().from(&anywhere).to(DNS).frame(),
            Self::UdpFromOne => build::udp().from(&here).to(DNS).frame(),
            Self::EchoFromAnywhere => {
                build::icmp_echo().id(port).from(&host).to("10.1.0.10").frame()
            }
            Self::FragmentsFromAnywhere => {
                let whole = build::udp().from(&anywhere).to(DNS).payload(&[0; 600]).frame();
                build::piece(&whole, 0..512, true, number as u32)
            }
            Self::AckFromAnywhere => build::tcp().from(&anywhere).to(WEB).seq(1).ack(1).frame(),
            Self::RefusedFromAnywhere => syn(&anywhere, "10.1.0.10:23"),
            Self::SynFromOneNetwork => {
                syn(&format!("[2600:9::{:x}:{:x}]:{port}", number >> 16, number & 0xffff), WEB_V6)
            }
        }
    }
}

pub(super) const WEB: &str = "10.1.0.10:443";
const WEB_V6: &str = "[2600:2::10]:443";
pub(super) const DNS: &str = "10.1.0.10:53";

/// SplitMix64.
const fn scatter(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
