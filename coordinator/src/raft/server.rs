//! Raft's messages, in.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use openraft::raft::TransferLeaderRequest;
use tonic::{Request, Response, Status, Streaming};
use volley_common::cluster_id::{Relation, relation};
use volley_common::wire::raft as wire;
use volley_common::wire::raft::raft_server::Raft as RaftRpc;
use volley_common::{Error, Result};

use super::files::Disk;
use super::handle::Inner;
use super::network::STORE_HEADER;
use super::runtime::blocking;
use super::snapshot::{self, Snapshot, SnapshotFile};
use super::{asking, convert};

/// Serves Raft's messages between coordinators.
#[derive(Clone)]
pub struct RaftService(pub(super) Weak<Inner>);

type Reply<T> = Result<Response<T>, Status>;

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("this coordinator's Raft is not running: {error}"))
}

impl RaftService {
    fn inner(&self) -> Result<std::sync::Arc<Inner>> {
        self.0.upgrade().ok_or_else(|| stopped("it was shut down"))
    }

    /// Takes a message if it is for this data folder. A coordinator that lost its folder does not know
    /// what it promised: it is no member until the others take it back under its new folder's id.
    fn accept<T>(&self, request: Request<T>) -> Result<(std::sync::Arc<Inner>, T)> {
        let inner = self.inner()?;
        let store = request.metadata().get(STORE_HEADER).and_then(|v| v.to_str().ok());
        if store.and_then(|hex| u64::from_str_radix(hex, 16).ok()) != Some(inner.store.id()) {
            return Err(Error::precondition(format!(
                "this message is for another data folder of coordinator {}: this one's is new, or the peer list names another cluster",
                inner.config.id
            )));
        }
        Ok((inner, request.into_inner()))
    }
}

#[tonic::async_trait]
impl RaftRpc for RaftService {
    async fn vote(&self, request: Request<wire::VoteRequest>) -> Reply<wire::VoteReply> {
        let (inner, message) = self.accept(request)?;
        let pre_vote = message.pre_vote;
        let rpc = convert::vote_request_in(message)?;
        let reply = if pre_vote { inner.raft.pre_vote(rpc).await } else { inner.raft.vote(rpc).await };
        Ok(Response::new(convert::vote_reply_out(&reply.map_err(stopped)?)))
    }

    async fn append(&self, request: Request<wire::AppendRequest>) -> Reply<wire::AppendReply> {
        let (inner, message) = self.accept(request)?;
        let reply = inner.raft.append_entries(convert::append_in(message)?).await.map_err(stopped)?;
        Ok(Response::new(convert::append_reply_out(&reply)))
    }

    async fn snapshot(&self, request: Request<Streaming<wire::SnapshotChunk>>) -> Reply<wire::SnapshotReply> {
        let (inner, mut chunks) = self.accept(request)?;
        let header = chunks.message().await?.and_then(|chunk| chunk.header);
        let header = header.ok_or_else(|| Error::invalid("a snapshot without a header"))?;
        let vote = convert::vote_in(header.vote)?;
        let meta = convert::header_in(header)?;
        let disk = inner.store.disk().clone();
        let temp = Temp { path: snapshot::temp_path(disk.dir()), disk: disk.clone() };
        receive(&temp, &mut chunks).await?;
        let file = check(disk, temp.path.clone())
            .await
            .map_err(|e| Error::data_loss(format!("the snapshot did not arrive whole: {e}")))?;
        let reply = inner.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: file }).await.map_err(stopped)?;
        Ok(Response::new(wire::SnapshotReply { vote: Some(convert::vote_out(&reply.vote)) }))
    }

    async fn identify(&self, request: Request<wire::Identity>) -> Reply<wire::Identity> {
        let inner = self.inner()?;
        let theirs = request.into_inner();
        inner.spawn(asking::ask_back(inner.clone(), theirs.clone()));
        let mut ours = inner.identity().await?;
        let foreign = !theirs.cluster.is_empty()
            && !ours.cluster.is_empty()
            && relation(&ours.cluster, &theirs.cluster) == Relation::Foreign;
        if foreign {
            return Err(Error::denied(format!(
                "coordinator {} is of cluster {}, not of {}",
                ours.id, ours.cluster, theirs.cluster
            ))
            .into());
        }
        ours.set_status(asking::standing(&inner, &theirs));
        Ok(Response::new(ours))
    }

    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Reply<wire::TransferReply> {
        let (inner, message) = self.accept(request)?;
        let from = convert::vote_in(message.from_leader)?;
        let last = convert::log_id_in(message.last_log_id)?;
        let rpc = TransferLeaderRequest::new(from, message.to, last);
        let outcome = inner.raft.handle_transfer_leader(rpc).await.map_err(stopped)?;
        Ok(Response::new(wire::TransferReply { refused: outcome.err().map(|e| e.to_string()).unwrap_or_default() }))
    }
}

/// A file that is removed again unless it was renamed.
struct Temp {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        let (disk, path) = (self.disk.clone(), std::mem::take(&mut self.path));
        // Gone already if it was renamed; else it is removed at the next start at the latest.
        tokio::spawn(blocking(move || drop(disk.remove(&path))));
    }
}

async fn receive(temp: &Temp, chunks: &mut Streaming<wire::SnapshotChunk>) -> Result<(), Status> {
    let at = |e: io::Error| Error::internal(format!("cannot write the snapshot {}: {e}", temp.path.display()));
    let (disk, path) = (temp.disk.clone(), temp.path.clone());
    let mut file = blocking(move || disk.create(&path)).await.flatten().map_err(at)?;
    while let Some(chunk) = chunks.message().await? {
        let write = move || file.write_all(&chunk.data).map(|()| file);
        file = blocking(write).await.flatten().map_err(at)?;
    }
    blocking(move || file.sync()).await.flatten().map_err(at)?;
    Ok(())
}

async fn check(disk: Arc<dyn Disk>, path: PathBuf) -> io::Result<SnapshotFile> {
    let open = move || {
        snapshot::verify(&*disk, &path)?;
        SnapshotFile::open(&*disk, path)
    };
    blocking(open).await?
}
