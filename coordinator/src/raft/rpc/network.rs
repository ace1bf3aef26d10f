//! The client side of Raft's messages: openraft's network.

use std::collections::BTreeSet;
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
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use volley_common::http2::settings;
use volley_common::net::Connector;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::raft as wire;
use volley_common::wire::raft::raft_client::RaftClient;

use super::convert;
use crate::raft::runtime::blocking;
use crate::raft::storage::snapshot::{Snapshot, SnapshotFile};
use crate::raft::types::{MAX_TERM_STEP, RaftPeer, TypeConfig, Vote};

/// The header with the id of the data folder that a message is meant for: 16 hexadecimal digits.
pub const STORE_HEADER: &str = "x-volley-store";
/// The size of a snapshot's chunks.
const CHUNK_BYTES: u64 = 1 << 20;
/// The timeout of a message with entries, before the time for its size.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of entries that add a second to that timeout.
const APPEND_BYTES_PER_SECOND: u64 = 8 << 20;
/// Messages that wait in the stream of a snapshot.
const SNAPSHOT_BUFFER: usize = 4;

/// A call failed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerChannelError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A channel to a coordinator's peer port: tonic's, or a simulation's.
pub type PeerChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, PeerChannelError>;
/// Creates the channel to a coordinator, by its id and its address, HOST:PORT.
pub type Dialer = Arc<dyn Fn(u64, &str) -> volley_common::Result<PeerChannel> + Send + Sync>;

/// Creates channels to coordinators' peer ports, which connect at their first use. If members have TLS, a member that is not
/// the coordinator with that id is refused.
pub fn dialer(connector: Connector) -> Dialer {
    Arc::new(move |id: u64, addr: &str| {
        let channel = connector.clone().expecting_coordinator(id).channel(&settings::RAFT, addr)?;
        Ok(BoxCloneSyncService::new(channel.map_err(|e| PeerChannelError(e.into()))))
    })
}

/// A client of a coordinator's Raft service.
pub fn raft_client(channel: PeerChannel) -> RaftClient<PeerChannel> {
    RaftClient::new(channel).max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(2 * MAX_PEER_MESSAGE)
}

/// Creates connections to members, for openraft.
pub struct PeerNetwork {
    id: u64,
    dial: Dialer,
    silent: SilentPeers,
}

/// The members that did not answer the last message. Only changes are logged: messages are repeated several times per second.
#[derive(Clone, Default)]
struct SilentPeers(Arc<Mutex<BTreeSet<u64>>>);

impl SilentPeers {
    fn answered(&self, id: u64) {
        if self.0.lock().remove(&id) {
            tracing::info!(coordinator = id, "a coordinator answers again");
        }
    }

    fn failed(&self, id: u64, reason: &str) {
        if self.0.lock().insert(id) {
            tracing::warn!(coordinator = id, reason, "a coordinator does not answer");
        }
    }
}

impl PeerNetwork {
    /// The network of the coordinator `id`.
    pub fn new(id: u64, dial: Dialer) -> Self {
        PeerNetwork { id, dial, silent: SilentPeers::default() }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = PeerConnection;

    async fn new_client(&mut self, target: u64, peer: &RaftPeer) -> PeerConnection {
        PeerConnection {
            from: self.id,
            target,
            store_id: format!("{:016x}", peer.store_id),
            client: (self.dial)(target, &peer.addr).map(raft_client),
            silent: self.silent.clone(),
        }
    }
}

/// A connection to one data folder of one member.
pub struct PeerConnection {
    from: u64,
    target: u64,
    store_id: String,
    client: volley_common::Result<RaftClient<PeerChannel>>,
    silent: SilentPeers,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl PeerConnection {
    fn client(&self) -> RpcResult<RaftClient<PeerChannel>> {
        self.client.clone().map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
    }

    fn request<T>(&self, message: T) -> RpcResult<Request<T>> {
        let mut request = Request::new(message);
        let value = self.store_id.parse().map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        request.metadata_mut().insert(STORE_HEADER, value);
        Ok(request)
    }

    /// Waits for a reply for at most `limit`.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> RpcResult<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(reply)) => {
                self.silent.answered(self.target);
                Ok(reply.into_inner())
            }
            Ok(Err(status)) => {
                self.silent.failed(self.target, &volley_common::Error::from(status.clone()).message);
                Err(call_error(status))
            }
            Err(_) => {
                self.silent.failed(self.target, &format!("no answer within {limit:?}"));
                Err(RPCError::Timeout(Timeout { action, id: self.from, target: self.target, timeout: limit }))
            }
        }
    }

    async fn send_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
        limit: Duration,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = self.request(convert::vote_request_out(&rpc, pre_vote))?;
        let reply = self.call(RPCTypes::Vote, limit, self.client()?.vote(request)).await?;
        let reply = convert::vote_reply_in(reply).map_err(malformed)?;
        check_reply_term(rpc.vote.leader_id.term, &reply.vote)?;
        Ok(reply)
    }
}

/// The error of a failed call. openraft backs off from a member that is unreachable or refuses the message.
fn call_error(status: Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Unavailable
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated => RPCError::Unreachable(Unreachable::new(&status)),
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}

/// Refuses a reply whose term is too far ahead of the request's: see [`MAX_TERM_STEP`].
fn check_reply_term(sent: u64, reply: &Vote) -> RpcResult<()> {
    let term = reply.leader_id.term;
    match term > sent.saturating_add(MAX_TERM_STEP) {
        true => {
            Err(malformed(volley_common::Error::denied(format!("a reply of term {term} to a message of term {sent}"))))
        }
        false => Ok(()),
    }
}

/// Refuses a reply that no follower gives to these entries: openraft trusts it.
fn check_append_reply(
    rpc: &AppendEntriesRequest<TypeConfig>,
    reply: &AppendEntriesResponse<TypeConfig>,
) -> RpcResult<()> {
    let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
    let is_plausible = match reply {
        AppendEntriesResponse::HigherVote(vote) => return check_reply_term(rpc.vote.leader_id.term, vote),
        AppendEntriesResponse::PartialSuccess(id) => (rpc.prev_log_id..=last).contains(id),
        AppendEntriesResponse::Conflict => rpc.prev_log_id.is_some(),
        AppendEntriesResponse::Success => true,
    };
    match is_plausible {
        true => Ok(()),
        false => {
            Err(malformed(volley_common::Error::denied(format!("the reply {reply} to the entries up to {last:?}"))))
        }
    }
}

/// The reply to a snapshot that was sent in the term `sent`.
fn snapshot_reply_in(sent: u64, reply: wire::SnapshotReply) -> RpcResult<SnapshotResponse<TypeConfig>> {
    let vote = convert::vote_in(reply.vote).map_err(malformed)?;
    check_reply_term(sent, &vote)?;
    Ok(SnapshotResponse::new(vote))
}

fn malformed(error: volley_common::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&error))
}

impl RaftNetworkV2<TypeConfig> for PeerConnection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let message = convert::append_out(&rpc);
        let limit = match message.entries.is_empty() {
            true => option.hard_ttl(),
            false => APPEND_TIMEOUT + Duration::from_secs(message.encoded_len() as u64 / APPEND_BYTES_PER_SECOND),
        };
        let request = self.request(message)?;
        let reply = self.call(RPCTypes::AppendEntries, limit, self.client()?.append(request)).await?;
        let reply = convert::append_reply_in(reply).map_err(malformed)?;
        check_append_reply(&rpc, &reply)?;
        Ok(reply)
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> RpcResult<VoteResponse<TypeConfig>> {
        self.send_vote(rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.send_vote(rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (send, chunks) = mpsc::channel(SNAPSHOT_BUFFER);
        let sent = vote.leader_id.term;
        let header = convert::header_out(&snapshot.meta, Some(&vote));
        let reader = tokio::spawn(send_chunks(header, snapshot.snapshot, send));
        let request = self.request(ReceiverStream::new(chunks)).map_err(StreamingError::from)?;
        let mut client = self.client().map_err(StreamingError::from)?;
        let sending = pin!(self.call(RPCTypes::InstallSnapshot, option.hard_ttl(), client.snapshot(request)));
        let reply = tokio::select! {
            reply = sending => reply.map_err(StreamingError::from)?,
            closed = cancel => return Err(closed.into()),
        };
        if let Ok(Err(error)) = reader.await {
            return Err(StreamingError::from(RPCError::Network(NetworkError::new(&error))));
        }
        snapshot_reply_in(sent, reply).map_err(StreamingError::from)
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
            false => Err(malformed(volley_common::Error::unavailable(reply.refused))),
        }
    }
}

/// Sends a snapshot file as messages, at the receiver's pace: the header, then chunks.
async fn send_chunks(
    header: wire::SnapshotHeader,
    snapshot: SnapshotFile,
    send: mpsc::Sender<wire::SnapshotChunk>,
) -> io::Result<()> {
    let length = snapshot.file.length()?;
    // The reason is the call's own error.
    let gone = |_| io::Error::other("the receiver of the snapshot closed the stream");
    send.send(wire::SnapshotChunk { header: Some(header), data: Bytes::new() }).await.map_err(gone)?;
    let mut at = 0;
    while at < length {
        let file = snapshot.file.clone();
        let read = move || {
            let mut data = vec![0; CHUNK_BYTES.min(length - at) as usize];
            file.read_exact_at(&mut data, at).map(|()| Bytes::from(data))
        };
        let data = blocking(read).await??;
        at += data.len() as u64;
        send.send(wire::SnapshotChunk { header: None, data }).await.map_err(gone)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::types::{LeaderId, LogId, RaftLogEntry};

    #[test]
    fn member_that_refuses_this_coordinator_is_left_alone() {
        let is_unreachable = |code| matches!(call_error(Status::new(code, "a test")), RPCError::Unreachable(_));
        for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented, Code::FailedPrecondition] {
            assert!(is_unreachable(code), "{code:?}");
        }
        assert!(!is_unreachable(Code::Internal));
    }

    #[test]
    fn reply_about_entries_that_were_not_sent_is_refused() {
        let id = |index| Some(LogId { leader_id: LeaderId { term: 3, node_id: 1 }, index });
        let mut rpc = AppendEntriesRequest::<TypeConfig> {
            vote: Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true },
            prev_log_id: id(7),
            entries: vec![RaftLogEntry { log_id: id(8).unwrap(), payload: EntryPayload::Blank }],
            leader_commit: None,
        };
        let is_refused = |rpc: &_, reply| check_append_reply(rpc, &reply).is_err();
        for (at, refused) in [(None, true), (id(6), true), (id(7), false), (id(8), false), (id(9), true)] {
            assert_eq!(is_refused(&rpc, AppendEntriesResponse::PartialSuccess(at)), refused, "{at:?}");
        }
        assert!(!is_refused(&rpc, AppendEntriesResponse::Conflict));
        rpc.prev_log_id = None;
        assert!(is_refused(&rpc, AppendEntriesResponse::Conflict));
        assert!(!is_refused(&rpc, AppendEntriesResponse::PartialSuccess(None)));
    }

    #[test]
    fn snapshot_reply_of_an_absurd_term_is_refused() {
        let reply = |term| wire::SnapshotReply {
            vote: Some(wire::Vote { leader: Some(wire::LeaderId { term, node: 2 }), committed: false }),
        };
        assert_eq!(snapshot_reply_in(3, reply(5)).unwrap().vote.leader_id.term, 5);
        for term in [u64::MAX, 4 + MAX_TERM_STEP] {
            assert!(snapshot_reply_in(3, reply(term)).is_err(), "{term}");
        }
    }
}
