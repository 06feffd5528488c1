//! The API: `gabion.v1` over gRPC. Generated types stop here and in `convert`.
//!
//! Tasks: one server for the Unix socket and one for each TLS address, joined by nothing but the node's
//! shared state; every request is a task of its server and may be cancelled at any time (a commit that
//! has begun goes on, see `policy`). Limits on connections, requests, message sizes and watchers come
//! from the configuration.

mod accept;
mod cluster;
pub mod convert;
mod identity;
mod serve;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use gabion_api::v1;
use gabion_api::v1::firewall_server::Firewall;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::clock::Clock;
use crate::cluster::Member;
use crate::config::DataInterface;
use crate::drain::Drain;
use crate::explain::{ExplainPacketError, explain_live, explain_text};
use crate::flow::Flow;
use crate::generations::{Generations, Names};
use crate::policy::{CommitError, Committed, Policies, Proposal};
use crate::readiness::Readiness;
use crate::record::{Recorder, What};
use crate::store::{ReadRevisionError, WriteRevisionError};
use crate::worker::{WorkerGone, WorkerHandle};

pub(crate) use cluster::state as state_label;
pub(crate) use convert::action;
use identity::{Peer, Role};
pub use serve::{ApiListeners, ListenError, ServeError, bind, check_tls};

/// Flows that are asked of the packet thread at a time: some tens of microseconds of its time.
const FLOWS_PER_PAGE: u32 = 256;
/// Messages of a stream that wait for its client.
const STREAM_DEPTH: usize = 64;
const REVISIONS_DEFAULT: usize = 50;

/// The node as the API sees it.
#[derive(Debug)]
pub struct Control {
    pub node: String,
    pub interfaces: Vec<DataInterface>,
    pub policies: Arc<Policies>,
    pub worker: WorkerHandle,
    pub generations: Generations,
    pub recorder: Recorder,
    pub readiness: Arc<Readiness>,
    pub watchers: Arc<Semaphore>,
    pub clock: Clock,
    pub drain: Arc<Drain>,
    /// `None`: the node stands alone.
    pub member: Option<Member>,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Firewall for Control {
    async fn validate(
        &self,
        request: Request<v1::ValidateRequest>,
    ) -> Result<Response<v1::ValidateResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let result = self.policies.validate(request.into_inner().policy).await;
        Ok(Response::new(convert::validation(result.as_ref().map_err(|refused| &**refused))))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let author = Peer::of(&request)?.needs(Role::Operator)?;
        let v1::CommitRequest { policy: text, expected_revision, comment } = request.into_inner();
        let proposal = Proposal { text, expected_revision, author, comment };
        self.committed(self.policies.commit(proposal).await).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let author = Peer::of(&request)?.needs(Role::Operator)?;
        let v1::RollbackRequest { revision, expected_revision, comment } = request.into_inner();
        let proposal = Proposal { text: String::new(), expected_revision, author, comment };
        self.committed(self.policies.roll_back(revision, proposal).await).await
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let in_force = self.policies.in_force();
        let current = self.policies.current();
        let wanted = request.into_inner().revision.unwrap_or(current);
        if wanted == 0 {
            return Err(Status::not_found("no policy is in force: commit one first"));
        }
        if let Some(in_force) = in_force.filter(|policy| policy.revision.number == wanted) {
            return Ok(Response::new(v1::GetResponse {
                revision: Some(convert::revision(&in_force.revision, current)),
                policy: in_force.text.clone(),
                canonical: in_force.loaded.policy.print(),
            }));
        }
        let stored = self.policies.get(wanted).map_err(|error| read_status(&error))?;
        // A text of an older version of the language may no longer be understood; it is still shown.
        let loaded = self.policies.load(stored.policy.clone()).await;
        Ok(Response::new(v1::GetResponse {
            revision: Some(convert::revision(&stored.revision, current)),
            policy: stored.policy,
            canonical: loaded.map_or_else(|_| String::new(), |loaded| loaded.policy.print()),
        }))
    }

    async fn list_revisions(
        &self,
        request: Request<v1::ListRevisionsRequest>,
    ) -> Result<Response<v1::ListRevisionsResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let limit = match request.into_inner().limit {
            0 => REVISIONS_DEFAULT,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let current = self.policies.current();
        let revisions = self.policies.revisions(limit);
        let revisions = revisions.iter().map(|one| convert::revision(one, current)).collect();
        Ok(Response::new(v1::ListRevisionsResponse { revisions }))
    }

    type ListFlowsStream = Streamed<v1::Flow>;

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Result<Response<Self::ListFlowsStream>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let v1::ListFlowsRequest { filter, limit } = request.into_inner();
        let filter = convert::filter(filter.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
        let (worker, generations) = (self.worker.clone(), self.generations.clone());
        tokio::spawn(async move {
            let mut left = if limit == 0 { u64::MAX } else { limit };
            let mut from = Some(0);
            while let Some(start) = from {
                let Ok(page) = worker.flows(start, FLOWS_PER_PAGE).await else {
                    let _ = sender.send(Err(stopping())).await;
                    return;
                };
                for report in &page.flows {
                    let flow = Flow::new(report, &generations.names(report.generation), page.now);
                    if !filter.admits(&flow) {
                        continue;
                    }
                    if left == 0 || sender.send(Ok(convert::flow(&flow))).await.is_err() {
                        return;
                    }
                    left -= 1;
                }
                from = page.next;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn counters(
        &self,
        request: Request<v1::CountersRequest>,
    ) -> Result<Response<v1::CountersResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let snapshot = self.worker.snapshot().await.map_err(|WorkerGone| stopping())?;
        let names = self.generations.names(snapshot.generation);
        let wall = |time| self.clock.wall(time);
        Ok(Response::new(convert::counters(&snapshot, &names, &self.interfaces, &wall)))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let v1::ExplainRequest { packet, policy } = request.into_inner();
        let explained = if policy.is_empty() {
            explain_live(&packet, &self.policies, &self.interfaces, &self.worker).await
        } else {
            explain_text(&packet, policy, &self.policies).await
        };
        explained
            .map(|explained| Response::new(convert::explained(explained)))
            .map_err(|error| explain_status(&error))
    }

    type WatchStream = Streamed<v1::Event>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let kinds = request.into_inner().kinds;
        let place = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("as many clients watch as api.watchers allows")
        })?;
        let mut records = self.recorder.watch();
        let readiness = Arc::clone(&self.readiness);
        let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
        tokio::spawn(async move {
            let _place = place;
            let mut changes = readiness.changes();
            while !readiness.is_stopping() {
                let event = tokio::select! {
                    () = changes.next() => continue,
                    () = sender.closed() => return,
                    record = records.recv() => match record {
                        Ok(record) => convert::event(&record),
                        Err(broadcast::error::RecvError::Lagged(missed)) => convert::missed(missed),
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                };
                let wanted = kinds.is_empty() || kinds.contains(&event.kind);
                if wanted && sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        let obstacles = self.readiness.obstacles();
        Ok(Response::new(v1::StatusResponse {
            ready: obstacles.is_empty(),
            reasons: obstacles.iter().map(|obstacle| obstacle.label().to_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            revision: self.policies.in_force().map_or(0, |policy| policy.revision.number),
            uptime: Some(convert::duration(self.readiness.uptime())),
            limits_reached: self
                .readiness
                .limits_reached()
                .iter()
                .map(|limit| limit.label().to_owned())
                .collect(),
            hold: self.readiness.hold().unwrap_or_default().to_owned(),
            planned: self.readiness.notices().into_iter().map(|notice| notice.text).collect(),
        }))
    }

    async fn cluster_status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        Peer::of(&request)?.needs(Role::Viewer)?;
        self.cluster().await
    }

    async fn set_draining(
        &self,
        request: Request<v1::SetDrainingRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        let author = Peer::of(&request)?.needs(Role::Admin)?;
        let draining = request.into_inner().draining;
        if self.member.is_some() {
            let what = if draining { "drain" } else { "stop draining" };
            self.recorder.node(format!("{author} has this node {what}"));
            self.drain.for_operator(draining).await.map_err(|WorkerGone| stopping())?;
        }
        self.cluster().await
    }
}

impl Control {
    async fn committed(
        &self,
        result: Result<Committed, CommitError>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let Committed { in_force, flows } = result.map_err(|error| commit_status(&error))?;
        let warnings = self.policies.warnings(&in_force).await;
        Ok(Response::new(v1::CommitResponse {
            revision: Some(convert::revision(&in_force.revision, in_force.revision.number)),
            warnings: warnings.iter().map(convert::diagnostic).collect(),
            flows_at_commit: flows.0,
        }))
    }
}

fn commit_status(error: &CommitError) -> Status {
    let message = error.to_string();
    match error {
        CommitError::Invalid(diagnostics) => {
            let details = convert::details(diagnostics);
            Status::with_details(tonic::Code::InvalidArgument, message, details)
        }
        CommitError::TestsFail(diagnostics) => {
            let details = convert::details(diagnostics);
            Status::with_details(tonic::Code::FailedPrecondition, message, details)
        }
        CommitError::Comment => Status::invalid_argument(message),
        CommitError::Stale { .. } | CommitError::UnknownInterface { .. } => {
            Status::failed_precondition(message)
        }
        CommitError::Revision(error) => read_status(error),
        CommitError::Disk(WriteRevisionError::Full(_) | WriteRevisionError::ReadOnly(_)) => {
            Status::resource_exhausted(message)
        }
        CommitError::Disk(WriteRevisionError::Other { .. }) => Status::internal(message),
        CommitError::Stalled | CommitError::Stopping => Status::unavailable(message),
    }
}

fn read_status(error: &ReadRevisionError) -> Status {
    match error {
        ReadRevisionError::Unknown(_) => Status::not_found(error.to_string()),
        ReadRevisionError::Damaged { .. } => Status::data_loss(error.to_string()),
    }
}

fn explain_status(error: &ExplainPacketError) -> Status {
    let message = error.to_string();
    match error {
        ExplainPacketError::Packet(_)
        | ExplainPacketError::Policy(_)
        | ExplainPacketError::Unknown(_)
        | ExplainPacketError::NoInterface(_) => Status::invalid_argument(message),
        ExplainPacketError::NoPolicy => Status::failed_precondition(message),
        ExplainPacketError::Stopping(_) => Status::unavailable(message),
    }
}

fn stopping() -> Status {
    Status::unavailable(WorkerGone.to_string())
}
