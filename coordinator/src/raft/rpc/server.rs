//! The server side of Raft's messages.

mod message_checks;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use openraft::raft::TransferLeaderRequest;
use tonic::{Request, Response, Status, Streaming};
use volley_common::cluster_id::{Relation, relation};
use volley_common::tls::{Caller, MemberRole};
use volley_common::wire::raft as wire;
use volley_common::wire::raft::raft_server::Raft as RaftRpc;
use volley_common::{Error, Result};

use self::message_checks::{check_append, check_candidacy, check_elected, check_sender, check_snapshot};
use super::convert;
use super::network::STORE_HEADER;
use crate::raft::context::RaftContext;
use crate::raft::log_comparison;
use crate::raft::membership::peer_identity::{membership_status_of, query_back};
use crate::raft::runtime::blocking;
use crate::raft::storage::files::DataDir;
use crate::raft::storage::snapshot::{self, Snapshot, SnapshotFile};

/// Serves Raft's messages. It does not keep a stopped coordinator's state alive.
#[derive(Clone)]
pub struct RaftService(Weak<RaftContext>);

type RpcResponse<T> = Result<Response<T>, Status>;

/// Why a coordinator that stops takes no message.
const HALTING: &str = "it is shutting down";

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("this coordinator's Raft is not running: {error}"))
}

impl RaftService {
    pub(in crate::raft) fn new(ctx: &Arc<RaftContext>) -> Self {
        RaftService(Arc::downgrade(ctx))
    }

    fn context(&self) -> Result<Arc<RaftContext>> {
        self.0.upgrade().ok_or_else(|| stopped("it was shut down"))
    }

    /// Accepts a message if it is meant for this data folder. A coordinator that lost its folder does not know its
    /// votes and its log: it is not a member until the others add it again with its new folder. Returns the message and
    /// the caller, which [`check_sender`] compares with the message's sender.
    fn accept<T>(&self, request: Request<T>) -> Result<(Arc<RaftContext>, Caller, T)> {
        let ctx = self.context()?;
        if ctx.is_halting() {
            return Err(stopped(HALTING));
        }
        let store_id = request.metadata().get(STORE_HEADER).and_then(|v| v.to_str().ok());
        if store_id.and_then(|hex| u64::from_str_radix(hex, 16).ok()) != Some(ctx.store.id()) {
            return Err(Error::precondition(format!(
                "this message is for another data folder of coordinator {}: this one's is new, or the peer list names another cluster",
                ctx.config.id
            )));
        }
        let (caller, message) = Caller::split(request);
        Ok((ctx, caller, message))
    }
}

/// What openraft answers to a message.
async fn answered<T, E: std::fmt::Display>(
    ctx: &RaftContext,
    message: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    ctx.until_halt(message).await.ok_or_else(|| stopped(HALTING))?.map_err(stopped)
}

#[tonic::async_trait]
impl RaftRpc for RaftService {
    async fn vote(&self, request: Request<wire::VoteRequest>) -> RpcResponse<wire::VoteReply> {
        let (ctx, caller, message) = self.accept(request)?;
        let pre_vote = message.pre_vote;
        let rpc = convert::vote_request_in(message)?;
        check_sender(&ctx, &caller, &rpc.vote)?;
        check_candidacy(&rpc)?;
        let reply = match pre_vote {
            true => answered(&ctx, ctx.raft.pre_vote(rpc)).await?,
            false => answered(&ctx, ctx.raft.vote(rpc)).await?,
        };
        Ok(Response::new(convert::vote_reply_out(&reply)))
    }

    async fn append(&self, request: Request<wire::AppendRequest>) -> RpcResponse<wire::AppendReply> {
        let (ctx, caller, message) = self.accept(request)?;
        let rpc = convert::append_in(message)?;
        check_sender(&ctx, &caller, &rpc.vote)?;
        check_append(&ctx, &rpc)?;
        let reply = answered(&ctx, ctx.raft.append_entries(rpc)).await?;
        Ok(Response::new(convert::append_reply_out(&reply)))
    }

    async fn snapshot(&self, request: Request<Streaming<wire::SnapshotChunk>>) -> RpcResponse<wire::SnapshotReply> {
        let (ctx, caller, mut chunks) = self.accept(request)?;
        let header = chunks.message().await?.and_then(|chunk| chunk.header);
        let header = header.ok_or_else(|| Error::invalid("a snapshot without a header"))?;
        let vote = convert::vote_in(header.vote)?;
        check_sender(&ctx, &caller, &vote)?;
        let meta = convert::header_in(header)?;
        check_snapshot(&ctx, &vote, &meta)?;
        let data_dir = ctx.store.data_dir().clone();
        let temp = TempFile { path: snapshot::temp_path(data_dir.dir()), data_dir: data_dir.clone() };
        receive(&temp, &mut chunks).await?;
        let file = verify(data_dir, temp.path.clone())
            .await
            .map_err(|e| Error::data_loss(format!("the received snapshot is incomplete or damaged: {e}")))?;
        let snapshot = Snapshot { meta, snapshot: file };
        let reply = answered(&ctx, ctx.raft.install_full_snapshot(vote, snapshot)).await?;
        Ok(Response::new(wire::SnapshotReply { vote: Some(convert::vote_out(&reply.vote)) }))
    }

    async fn identify(&self, request: Request<wire::Identity>) -> RpcResponse<wire::Identity> {
        let ctx = self.context()?;
        let (caller, theirs) = Caller::split(request);
        caller.speaks_for_coordinator(theirs.id)?;
        ctx.spawn(query_back(ctx.clone(), theirs.clone()));
        let mut ours = ctx.identity().await?;
        let is_foreign = !theirs.cluster.is_empty()
            && !ours.cluster.is_empty()
            && relation(&ours.cluster, &theirs.cluster) == Relation::Foreign;
        if is_foreign {
            return Err(Error::denied(format!(
                "coordinator {} is of cluster {}, not of {}",
                ours.id, ours.cluster, theirs.cluster
            ))
            .into());
        }
        ours.set_status(membership_status_of(&ctx, &theirs));
        Ok(Response::new(ours))
    }

    async fn transfer(&self, request: Request<wire::TransferRequest>) -> RpcResponse<wire::TransferReply> {
        let (ctx, caller, message) = self.accept(request)?;
        let from = convert::vote_in(message.from_leader)?;
        check_sender(&ctx, &caller, &from)?;
        check_elected(&from)?;
        let last = convert::log_id_in(message.last_log_id)?;
        let rpc = TransferLeaderRequest::new(from, message.to, last);
        let outcome = answered(&ctx, ctx.raft.handle_transfer_leader(rpc)).await?;
        Ok(Response::new(wire::TransferReply { refused: outcome.err().map(|e| e.to_string()).unwrap_or_default() }))
    }

    async fn log_checksums(&self, request: Request<wire::LogChecksumsRequest>) -> RpcResponse<wire::LogChecksumsReply> {
        let ctx = self.context()?;
        let (caller, message) = Caller::split(request);
        caller.speaks_as(MemberRole::Coordinator)?;
        Ok(Response::new(log_comparison::checksums(&ctx, message.first).await?))
    }
}

/// A received snapshot; removed when it is dropped, unless it was renamed.
struct TempFile {
    data_dir: Arc<dyn DataDir>,
    path: PathBuf,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let (data_dir, path) = (self.data_dir.clone(), std::mem::take(&mut self.path));
        // Fails if the file was renamed. Otherwise the next start removes what is left.
        tokio::spawn(blocking(move || drop(data_dir.remove(&path))));
    }
}

async fn receive(temp: &TempFile, chunks: &mut Streaming<wire::SnapshotChunk>) -> Result<(), Status> {
    let failed = |e: io::Error| Error::internal(format!("cannot write the snapshot {}: {e}", temp.path.display()));
    let (data_dir, path) = (temp.data_dir.clone(), temp.path.clone());
    let mut file = blocking(move || data_dir.create(&path)).await.flatten().map_err(failed)?;
    while let Some(chunk) = chunks.message().await? {
        let write = move || file.write_all(&chunk.data).map(|()| file);
        file = blocking(write).await.flatten().map_err(failed)?;
    }
    blocking(move || file.sync()).await.flatten().map_err(failed)?;
    Ok(())
}

async fn verify(data_dir: Arc<dyn DataDir>, path: PathBuf) -> io::Result<SnapshotFile> {
    let open = move || {
        snapshot::verify(&*data_dir, &path)?;
        SnapshotFile::open(&*data_dir, path)
    };
    blocking(open).await?
}
