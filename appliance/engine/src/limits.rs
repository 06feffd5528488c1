//! The size of every table. Reached limits have a drop reason or a counter each.

/// Table sizes, allocated once at start. Set by the node's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections (both keys of each). Full: `flow-table-full`. 64 to 16,777,216.
    pub flows: u32,
    /// NAT mappings. Full: `mapping-table-full`. 64 to 16,777,216.
    pub mappings: u32,
    /// Datagrams of which fragments are kept. Full: `fragment-table-full`. 1 to 65,536.
    pub fragmented_datagrams: u32,
    /// Fragments of one datagram. Beyond: `fragment-table-full`. 2 to 8,192.
    pub fragments_per_datagram: u32,
    /// Bytes of kept fragments in all. Full: `fragment-table-full`. 65,536 to 1 GiB.
    pub fragment_bytes: u32,
    /// Packets that wait for one neighbour. Beyond: `neighbour-queue-full`. 1 to 1,024.
    pub parked_per_neighbour: u32,
    /// Packets that wait for neighbours in all. Full: `neighbour-queue-full`. 1 to 65,536.
    pub parked: u32,
    /// Neighbours that are known or asked for. Full: `neighbour-queue-full`. 16 to 1,048,576.
    pub neighbours: u32,
    /// Frames of the engine's own making that wait to be sent. Full: `transmit-queue-full`.
    pub transmit_queue: u32,
    /// Events that wait to be read. Full: counted in `events_lost`, the packet is not held up.
    pub events: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 262_144,
            mappings: 262_144,
            fragmented_datagrams: 1_024,
            fragments_per_datagram: 64,
            fragment_bytes: 16 << 20,
            parked_per_neighbour: 16,
            parked: 1_024,
            neighbours: 16_384,
            transmit_queue: 1_024,
            events: 16_384,
        }
    }
}
