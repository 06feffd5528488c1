//! What stands for Azure's metadata service: every node's machine is told of the planned events of all, and any may let
//! one begin.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use gabion_fake_imds::Metadata;

use super::network::NODES;
use crate::lab::build::Lab;

/// Where each machine finds it.
pub(crate) const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4470);

/// The service at all machines. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Platform {
    machines: Vec<Metadata>,
}

impl Platform {
    /// Serves at so many nodes.
    ///
    /// # Errors
    /// If a port is taken.
    pub(crate) fn start(lab: &Lab, nodes: u8) -> Result<Self> {
        let serve = |name: &&'static str| {
            let vm = *name;
            let start = move || Metadata::start_at(METADATA, vm).context("cannot serve metadata");
            lab.namespace(vm).enter(start)
        };
        let machines = NODES.iter().take(usize::from(nodes)).map(serve).collect::<Result<_>>()?;
        Ok(Self { machines })
    }

    /// Plans reboots of these nodes' machines, all of them so long from now.
    pub(crate) fn plan(&self, nodes: impl Iterator<Item = usize> + Clone, notice: Duration) {
        for machine in &self.machines {
            for node in nodes.clone() {
                machine.plan(&event(node), "Reboot", &[NODES[node]], notice.as_secs());
            }
        }
    }

    /// Which node has let a node's reboot begin.
    pub(crate) fn acknowledged_by(&self, node: usize) -> Option<usize> {
        self.machines.iter().position(|machine| machine.acknowledged().contains(&event(node)))
    }

    /// The node's machine is about to go.
    pub(crate) fn begin(&self, node: usize) {
        self.machines.iter().for_each(|machine| machine.begin(&event(node)));
    }
}

/// The identifier of a node's reboot.
fn event(node: usize) -> String {
    format!("reboot-{}", node + 1)
}
