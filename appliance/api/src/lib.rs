//! `gabion.v1`: the generated client, server and messages, and nothing else.
#![allow(missing_debug_implementations, unreachable_pub, unused_qualifications, clippy::all)]

/// Messages, `firewall_client` and `firewall_server`.
pub mod v1 {
    tonic::include_proto!("gabion.v1");
}

/// For gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gabion.bin"));
