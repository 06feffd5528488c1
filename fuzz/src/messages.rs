//! Messages of the kernel and of clients.

use std::collections::{BTreeMap, BTreeSet};

use gabion_api::v1;
use gabion_datapath::netlink::{NetworkEvent, read_messages};
use prost::Message as _;

/// Whatever the kernel says, a receiver is told of nothing gone that it was not told of before,
/// and of nothing twice.
pub(crate) fn netlink(bytes: &[u8]) {
    let (mut links, mut addresses, mut routes) =
        (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for event in read_messages(bytes) {
        match event {
            NetworkEvent::LinkChanged(link) => {
                assert!(!link.name.is_empty());
                assert_ne!(links.insert(link.index, link.clone()), Some(link));
            }
            NetworkEvent::LinkGone(index) => assert!(links.remove(&index).is_some()),
            NetworkEvent::AddressAdded(address) => assert!(addresses.insert(address)),
            NetworkEvent::AddressRemoved(address) => assert!(addresses.remove(&address)),
            NetworkEvent::RouteAdded(route) => assert!(routes.insert(route)),
            NetworkEvent::RouteRemoved(route) => assert!(routes.remove(&route)),
            NetworkEvent::Neighbour { .. } | NetworkEvent::Resynced => {}
        }
    }
}

/// A request that can be decoded becomes the node's own values, or is refused in words.
pub(crate) fn api(bytes: &[u8]) {
    if let Ok(request) = v1::ListFlowsRequest::decode(bytes) {
        let port = request.filter.as_ref().map_or(0, |filter| filter.port);
        match gabiond::control::convert::filter(request.filter.unwrap_or_default()) {
            Ok(filter) => assert_eq!(u32::from(filter.port.unwrap_or(0)), port),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    if let Ok(request) = v1::ExplainRequest::decode(bytes) {
        super::texts::packet(request.packet.as_bytes());
        super::texts::policy(request.policy.as_bytes());
    }
    if let Ok(request) = v1::CommitRequest::decode(bytes) {
        super::texts::policy(request.policy.as_bytes());
    }
}
