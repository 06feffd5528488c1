//! Where the two may differ, and why. Nothing else is excused.

use std::collections::BTreeMap;

use gabion_engine::{Checksum, DropReason, Frame, Offload, Packet};

/// What is excused, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// The identification of a translated IPv4 packet that may be fragmented, or of a fragment of one. Engine and
    /// program number datagrams by counters of their own: both are permutations under a secret, and what matters is
    /// that none comes twice soon, which each has a test for.
    Identification,
    /// What fills a frame behind its packet. The engine writes zeros over it, the program cuts it off; neither sends
    /// it on. The card pads short frames anew.
    Padding,
    /// A segment whose checksum is wrong. The program does not look at it, as the card does at both ends, and mends
    /// it by what it changes: it stays wrong, and the receiver drops it. So it does what the engine does with a
    /// packet of which the card says that it has verified it.
    WrongChecksum,
    /// What was moved in the second before a policy or a network changed. The engine learns it afterwards, and counts
    /// and times it by the rule that permits the flow then. So a round through all flows goes before each change here.
    Change,
    /// A flow whose time is up, until the timer wheel says so, at most 250 ms later. The engine looks at the time before
    /// each packet, the program has none to look at: the packet passes, and the flow lives. So time goes on here until
    /// the wheel has said so.
    Overdue,
    /// Flows whose time is up in one tick of the wheel end in its order, and it learns of a packet that the program has
    /// moved when a flow is due. External ports are free again in another order then, and the next flow gets another:
    /// the sequence ends there, as far as nothing differs but ports.
    Order,
}

impl Difference {
    /// What a short run meets, too: all but `Order`.
    pub(crate) const COMMON: [Self; 5] =
        [Self::Identification, Self::Padding, Self::WrongChecksum, Self::Change, Self::Overdue];
}

/// How often each difference was met.
pub(crate) type Excuses = BTreeMap<Difference, u64>;

/// What the engine alone is told of a frame that the program has moved.
pub(crate) fn judged_alone(frame: &[u8], offload: Offload, excuses: &mut Excuses) -> Offload {
    let mut bytes = frame.to_vec();
    let parsed = Packet::parse(&Frame { bytes: &mut bytes, offload });
    if parsed != Err(DropReason::TransportChecksum) {
        return offload;
    }
    *excuses.entry(Difference::WrongChecksum).or_default() += 1;
    Offload { checksum: Checksum::Verified, ..offload }
}

/// Whether two frames are the same but for what is excused; `came` is what they were made of, where it is one frame.
pub(crate) fn same_frame(
    came: Option<&[u8]>,
    alone: &[u8],
    programs: &[u8],
    excuses: &mut Excuses,
) -> Result<(), String> {
    if alone == programs {
        return Ok(());
    }
    let mut programs = programs.to_vec();
    let mut excuse = |difference| *excuses.entry(difference).or_default() += 1;
    if alone.len() > programs.len() {
        let end = packet_end(alone).unwrap_or(alone.len());
        if end > programs.len() || alone[end..].iter().any(|byte| *byte != 0) {
            return Err("the frame is too short".to_owned());
        }
        programs.resize(alone.len(), 0);
        excuse(Difference::Padding);
    }
    let is_translated = came.is_none_or(|came| addresses(came) != addresses(alone));
    if is_translated && take_identification(alone, &mut programs)? {
        excuse(Difference::Identification);
    }
    if alone == programs { Ok(()) } else { Err("another frame".to_owned()) }
}

/// Where the packet ends in its frame, as it says itself.
pub(super) fn packet_end(frame: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, frame[at + 1]])));
    match word(12)? {
        0x0800 => Some(14 + word(16)?),
        0x86dd => Some(14 + 40 + word(18)?),
        _ => None,
    }
}

/// Of IPv4: nothing else is asked for them.
fn addresses(frame: &[u8]) -> Option<&[u8]> {
    frame.get(26..34)
}

const IDENTIFICATION: std::ops::Range<usize> = 18..20;
const HEADER_SUM: std::ops::Range<usize> = 24..26;

/// Takes the one's identification for the other's where both may choose one and their sums are right.
fn take_identification(alone: &[u8], programs: &mut [u8]) -> Result<bool, String> {
    let is_ipv4 = |frame: &[u8]| frame.len() >= 34 && frame[12..14] == [8, 0];
    if !is_ipv4(alone) || !is_ipv4(programs) || alone[IDENTIFICATION] == programs[IDENTIFICATION] {
        return Ok(false);
    }
    for frame in [alone, &*programs] {
        const DONT_FRAGMENT: u8 = 0x40;
        if frame[20] & DONT_FRAGMENT != 0 {
            return Err("another identification of what is not fragmented".to_owned());
        }
        if header_sum(frame) != 0xffff {
            return Err("a wrong sum of an IPv4 header".to_owned());
        }
    }
    programs[IDENTIFICATION].copy_from_slice(&alone[IDENTIFICATION]);
    programs[HEADER_SUM].copy_from_slice(&alone[HEADER_SUM]);
    Ok(true)
}

fn header_sum(frame: &[u8]) -> u32 {
    let length = usize::from(frame[14] & 15) * 4;
    let words = frame[14..14 + length].chunks(2);
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    (sum & 0xffff) + (sum >> 16)
}
