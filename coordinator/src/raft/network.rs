//! Raft's messages, out.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use volley_common::http2::settings;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::raft as wire;
use volley_common::wire::raft::raft_client::RaftClient;

use super::convert;
use super::runtime::blocking;
use super::snapshot::{Snapshot, SnapshotFile};
use super::types::{Peer, TypeConfig, Vote};

/// Says for which data folder a message is: 16 hexadecimal digits.
pub const STORE_HEADER: &str = "x-volley-store";
/// A snapshot goes in chunks of this size.
const CHUNK: u64 = 1 << 20;
/// Messages with entries have this time, and more by their size.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// ... a second for so many bytes.
const APPEND_RATE: u64 = 8 << 20;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A way to a coordinator's peer port: a connection of tonic's, or a simulation's.
pub type Link = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, LinkError>;
/// Makes the way to an address, HOST:PORT.
pub type Dial = Arc<dyn Fn(&str) -> volley_common::Result<Link> + Send + Sync>;

/// A connection to a coordinator's peer port, made when it is first used.
pub fn dial(addr: &str) -> volley_common::Result<Link> {
    let channel = settings::RAFT.endpoint(addr)?.connect_lazy();
    Ok(BoxCloneSyncService::new(channel.map_err(|e| LinkError(e.into()))))
}

/// A client of another coordinator's Raft service.
pub fn client(link: Link) -> RaftClient<Link> {
    RaftClient::new(link).max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(2 * MAX_PEER_MESSAGE)
}

/// Makes connections to members.
pub struct Network {
    id: u64,
    addresses: Arc<BTreeMap<u64, String>>,
    dial: Dial,
}

impl Network {
    /// `addresses` are the configured ones: they go before those that the log remembers.
    pub fn new(id: u64, addresses: Arc<BTreeMap<u64, String>>, dial: Dial) -> Self {
        Network { id, addresses, dial }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Connection {
        let addr = self.addresses.get(&target).unwrap_or(&peer.addr);
        Connection {
            from: self.id,
            target,
            store: format!("{:016x}", peer.store),
            client: (self.dial)(addr).map(client),
        }
    }
}

/// A connection to one data folder of one member.
pub struct Connection {
    from: u64,
    target: u64,
    store: String,
    client: volley_common::Result<RaftClient<Link>>,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl Connection {
    fn client(&self) -> RpcResult<RaftClient<Link>> {
        self.client.clone().map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
    }

    fn request<T>(&self, message: T) -> RpcResult<Request<T>> {
        let mut request = Request::new(message);
        let value = self.store.parse().map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        request.metadata_mut().insert(STORE_HEADER, value);
        Ok(request)
    }

    /// Waits for a reply, but not longer than `limit`.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> RpcResult<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(reply) => reply.map(tonic::Response::into_inner).map_err(refused),
            Err(_) => Err(RPCError::Timeout(Timeout { action, id: self.from, target: self.target, timeout: limit })),
        }
    }

    async fn ask(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
        limit: Duration,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = self.request(convert::vote_request_out(&rpc, pre_vote))?;
        let reply = self.call(RPCTypes::Vote, limit, self.client()?.vote(request)).await?;
        convert::vote_reply_in(reply).map_err(senseless)
    }
}

/// A call that failed: who is not there, or refuses, is left alone for a while.
fn refused(status: Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
            RPCError::Unreachable(Unreachable::new(&status))
        }
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}

fn senseless(error: volley_common::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&error))
}

fn streaming(error: RPCError<TypeConfig>) -> StreamingError<TypeConfig> {
    error.into()
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let message = convert::append_out(&rpc);
        let limit = match message.entries.is_empty() {
            true => option.hard_ttl(),
            false => APPEND_TIMEOUT + Duration::from_secs(message.encoded_len() as u64 / APPEND_RATE),
        };
        let request = self.request(message)?;
        let reply = self.call(RPCTypes::AppendEntries, limit, self.client()?.append(request)).await?;
        convert::append_reply_in(reply).map_err(senseless)
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask(rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask(rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (send, chunks) = mpsc::channel(4);
        let header = convert::header_out(&snapshot.meta, Some(&vote));
        let reading = tokio::spawn(send_chunks(header, snapshot.snapshot, send));
        let request = self.request(ReceiverStream::new(chunks)).map_err(streaming)?;
        let mut client = self.client().map_err(streaming)?;
        let sending = pin!(self.call(RPCTypes::InstallSnapshot, option.hard_ttl(), client.snapshot(request)));
        let reply = tokio::select! {
            reply = sending => reply.map_err(streaming)?,
            closed = cancel => return Err(closed.into()),
        };
        if let Ok(Err(error)) = reading.await {
            return Err(streaming(RPCError::Network(NetworkError::new(&error))));
        }
        Ok(SnapshotResponse::new(convert::vote_in(reply.vote).map_err(|e| streaming(senseless(e)))?))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let message = wire::TransferRequest {
            from_leader: Some(convert::vote_out(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(convert::log_id_out),
        };
        let request = self.request(message)?;
        let reply = self.call(RPCTypes::TransferLeader, option.hard_ttl(), self.client()?.transfer(request)).await?;
        match reply.refused.is_empty() {
            true => Ok(Ok(())),
            false => Err(senseless(volley_common::Error::unavailable(reply.refused))),
        }
    }
}

/// Reads a snapshot file into messages, at the receiver's pace: the header, then chunks.
async fn send_chunks(
    header: wire::SnapshotHeader,
    snapshot: SnapshotFile,
    send: mpsc::Sender<wire::SnapshotChunk>,
) -> io::Result<()> {
    let length = snapshot.file.length()?;
    // Whoever stopped listening knows why.
    let gone = |_| io::Error::other("the receiver of the snapshot went away");
    send.send(wire::SnapshotChunk { header: Some(header), data: Bytes::new() }).await.map_err(gone)?;
    let mut at = 0;
    while at < length {
        let file = snapshot.file.clone();
        let read = move || {
            let mut data = vec![0; CHUNK.min(length - at) as usize];
            file.read_exact_at(&mut data, at).map(|()| Bytes::from(data))
        };
        let data = blocking(read).await??;
        at += data.len() as u64;
        send.send(wire::SnapshotChunk { header: None, data }).await.map_err(gone)?;
    }
    Ok(())
}
