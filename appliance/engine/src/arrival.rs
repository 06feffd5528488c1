//! Whether a packet may come in at all, and whether it is the host's own: checks that need no flow.

use crate::packet::{Packet, protocol};
use crate::{Address, DropReason, Engine, InterfaceId, sanity};

impl Engine {
    /// All that a packet must be to be looked at.
    pub(crate) fn check(
        &self,
        from: InterfaceId,
        bytes: &[u8],
        packet: &Packet,
    ) -> Result<(), DropReason> {
        self.check_link_address(from, bytes)?;
        self.check_addresses(packet.source, packet.destination)?;
        self.check_homes(from, packet)?;
        self.check_source(from, packet.source)
    }

    /// Only what is addressed to this node's link address is routed.
    pub(crate) fn check_link_address(
        &self,
        from: InterfaceId,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let interface = self.topology.interface(from).ok_or(DropReason::NoZone)?;
        match bytes.first_chunk::<6>() {
            Some(destination) if *destination == interface.mac => Ok(()),
            Some(_) => Err(DropReason::OtherHost),
            None => Err(DropReason::FrameTruncated),
        }
    }

    /// Nothing is forwarded from or to a martian, or from or to all hosts of a link (RFC 2644).
    pub(crate) fn check_addresses(
        &self,
        source: Address,
        destination: Address,
    ) -> Result<(), DropReason> {
        sanity::check(source, destination, self.settings().profile)?;
        if self.topology.is_broadcast(source) {
            return Err(DropReason::MartianSource);
        }
        if self.topology.is_broadcast(destination) {
            return Err(DropReason::MartianDestination);
        }
        Ok(())
    }

    /// BCP 38: the source lies behind the zone that the packet comes from, and is not the node, which
    /// also is who sends from the addresses of a pool.
    pub(crate) fn check_source(
        &self,
        from: InterfaceId,
        source: Address,
    ) -> Result<(), DropReason> {
        let policy = self.policy.as_ref().ok_or(DropReason::NotReady)?;
        let zone = self.topology.zone(from).ok_or(DropReason::NoZone)?;
        let belongs = policy.rules.source_belongs(zone, source.to_ip());
        if belongs && !self.topology.is_own(source) && !self.topology.is_pooled(source) {
            Ok(())
        } else {
            Err(DropReason::SpoofedSource)
        }
    }

    /// What the guard lets through to the host's own stack: health probes, DHCP replies, and what the platform's services
    /// answer.
    pub(crate) fn is_for_host(
        &self,
        source: Address,
        destination: Address,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> bool {
        let is_answer = || {
            matches!(protocol, protocol::TCP | protocol::UDP)
                && self.topology.is_host_service(source)
                && self.topology.is_own(destination)
        };
        match (protocol, ports) {
            (_, Some(_)) if is_answer() => true,
            (protocol::TCP, Some((_, port))) => {
                self.topology.is_host_port(port) && self.topology.is_own(destination)
            }
            (protocol::UDP, Some(ports)) => matches!(ports, (67, 68) | (547, 546)),
            _ => false,
        }
    }
}
