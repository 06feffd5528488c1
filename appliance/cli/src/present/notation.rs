//! Addresses and translations as people write them.

use gabion_api::v1::Endpoint;

/// `10.1.0.10:443`, `[2600:2:0:1::10]:443`, or the address alone where there is no port.
pub(crate) fn endpoint(endpoint: &Endpoint) -> String {
    let Endpoint { address, port } = endpoint;
    match (*port, address.contains(':')) {
        (0, _) => address.clone(),
        (port, true) => format!("[{address}]:{port}"),
        (port, false) => format!("{address}:{port}"),
    }
}
