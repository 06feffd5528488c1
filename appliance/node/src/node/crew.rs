//! The packet threads of a node: one, or several that share its flows.

use std::sync::Arc;
use std::thread::JoinHandle;

use gabion_datapath::Datapath;
use gabion_datapath::ebpf::{DoorsDatapath, FlowTable};
use gabion_engine::{EngineConfig, FastPath, Limits};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::cluster::Links;
use crate::config::DataInterface;
use crate::fast_path::SharedTable;
use crate::readiness::Readiness;
use crate::record::Recorder;
use crate::worker::{Company, NeighbourWanted, Worker, WorkerHandle};

/// What all packet threads have in common.
pub(super) struct Crew {
    pub(super) engine: EngineConfig,
    pub(super) interfaces: Vec<DataInterface>,
    pub(super) clock: Clock,
    pub(super) readiness: Arc<Readiness>,
    pub(super) recorder: Recorder,
    pub(super) neighbours: mpsc::Sender<NeighbourWanted>,
    /// Of challenges that several threads make.
    pub(super) challenge_key: [u8; 16],
}

impl Crew {
    /// Starts a thread for each datapath, and tells how all are reached.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    pub(super) fn start<D: Datapath + Send + 'static>(
        &self,
        first: D,
        others: Vec<DoorsDatapath>,
        tables: Vec<FlowTable>,
        links: Option<Vec<Links>>,
    ) -> std::io::Result<(WorkerHandle, Vec<JoinHandle<()>>)> {
        let wakers = || {
            let others = others.iter().map(Datapath::waker);
            std::iter::once(first.waker()).chain(others).collect::<Vec<_>>()
        };
        let shards = tables.first().filter(|_| !others.is_empty()).map(FlowTable::shards);
        let company = shards.map(|shards| Company::of(&shards, wakers(), self.challenge_key));
        let (handle, inboxes) = WorkerHandle::open(wakers());
        let mut company = company.into_iter().flatten();
        let mut tables = tables
            .into_iter()
            .map(|table| -> Box<dyn FastPath> { Box::new(SharedTable::new(table)) });
        let mut inboxes = inboxes.into_iter();
        let inbox = inboxes.next().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut links = links.into_iter().flatten();
        let worker = self.worker(first, tables.next(), company.next(), links.next());
        let mut threads = vec![worker.spawn_at(inbox)?];
        for (datapath, inbox) in others.into_iter().zip(inboxes) {
            let worker = self.worker(datapath, tables.next(), company.next(), links.next());
            threads.push(worker.spawn_at(inbox)?);
        }
        Ok((handle, threads))
    }

    fn worker<D>(
        &self,
        datapath: D,
        fast_path: Option<Box<dyn FastPath>>,
        company: Option<Company>,
        links: Option<Links>,
    ) -> Worker<D> {
        let mut engine = self.engine.clone();
        // Each chooses in an order of its own.
        let me = company.as_ref().map_or(0, |company| company.me().0);
        engine.seed[0] ^= me as u8;
        // And is a member of its own.
        if let Some(cluster) = &mut engine.cluster {
            let members = cluster.beside();
            cluster.node = members.get(usize::from(me)).copied().unwrap_or(cluster.node);
        }
        Worker {
            engine,
            datapath,
            fast_path,
            interfaces: self.interfaces.clone(),
            clock: self.clock,
            readiness: Arc::clone(&self.readiness),
            recorder: self.recorder.clone(),
            neighbours: self.neighbours.clone(),
            links,
            company,
        }
    }
}

/// One worker's part of the limits. Neighbours are known to each.
pub(super) fn part_of(limits: Limits, workers: usize) -> Limits {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let part = |whole: u32| whole.div_ceil(workers);
    Limits {
        flows: part(limits.flows),
        mappings: part(limits.mappings),
        fragmented_datagrams: part(limits.fragmented_datagrams),
        fragment_bytes: part(limits.fragment_bytes).max(limits.fragment_bytes.min(65_536)),
        parked: part(limits.parked),
        transmit_queue: part(limits.transmit_queue),
        events: part(limits.events),
        ..limits
    }
}
