//! The gRPC service that other members call: they fetch parts, order copies, discard parts of failed writes, and run tasks of queries.

mod open_part;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::Part;
use volley_common::wire::cluster::node_server::{Node, NodeServer};
use volley_common::wire::cluster::{
    CopyOpenPartReply, CopyOpenPartRequest, CopyPart, CopyPartReply, DescribeWorkerReply, DescribeWorkerRequest,
    DiscardPartsReply, DiscardPartsRequest, FetchPartRequest, PartChunk, PartEnd, QueryTaskOrder, QueryTaskReport,
    QueryTaskRows, ReadQueryTaskRequest,
};
use volley_common::{Error, PartId, Result};

use crate::context::{NodeContext, SqlContext};
use crate::coordinator_client::CoordinatorClient;
use crate::copy::PartCopier;
use crate::sql::stage_service::{self, Replies};
use crate::storage::PartStore;
use crate::unneeded_parts::remove_unneeded;

/// Bytes of a part in one message.
const CHUNK: u64 = 1 << 20;

/// The service that other members call.
pub struct NodePeerService {
    store: PartStore,
    copier: Arc<PartCopier>,
    coordinators: Arc<CoordinatorClient>,
    sql: Arc<SqlContext>,
    /// Cancelled when the process is to stop.
    shutdown: CancellationToken,
}

/// The service, with the message limits of all members.
pub fn service(context: &NodeContext) -> NodeServer<NodePeerService> {
    let (store, copier, coordinators) = (&context.store, &context.copier, &context.coordinators);
    let service = NodePeerService {
        store: store.clone(),
        copier: copier.clone(),
        coordinators: coordinators.clone(),
        sql: context.sql.clone(),
        shutdown: context.shutdown.clone(),
    };
    NodeServer::new(service).max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(MAX_PEER_MESSAGE)
}

#[tonic::async_trait]
impl Node for NodePeerService {
    type FetchPartStream = Pin<Box<dyn Stream<Item = Result<PartChunk, Status>> + Send>>;

    async fn fetch_part(&self, request: Request<FetchPartRequest>) -> Result<Response<Self::FetchPartStream>, Status> {
        let request = request.into_inner();
        let id = request.id.as_ref().map(PartId::from).ok_or_else(|| Error::invalid("no part is named"))?;
        // What is not durable yet is for its holders, who know the part's end or get it with the last bytes.
        let open = self.store.open_part_of(id).filter(|part| request.open || part.is_complete());
        match open {
            Some(part) => Ok(Response::new(Box::pin(open_part::chunks(part, id, request.offset)?))),
            None => Ok(Response::new(Box::pin(fetch(&self.store, id, request.offset, request.open).await?))),
        }
    }

    async fn copy_part(&self, request: Request<CopyPart>) -> Result<Response<CopyPartReply>, Status> {
        self.copier.copy(request.into_inner()).await?;
        Ok(Response::new(CopyPartReply {}))
    }

    async fn copy_open_part(
        &self,
        request: Request<CopyOpenPartRequest>,
    ) -> Result<Response<CopyOpenPartReply>, Status> {
        let order = request.into_inner();
        let (id, grows) = (order.part.as_ref().map(Part::part_id), order.content.is_empty());
        tokio::select! {
            reply = self.copier.copy_open(order) => Ok(Response::new(reply?)),
            // The writer of the part may wait for its client for any time: it finds another node.
            () = self.shutdown.cancelled(), if grows => {
                if let Some(id) = id {
                    self.copier.cancel(id).await;
                }
                Err(Error::unavailable("the node is stopping").into())
            }
        }
    }

    async fn discard_parts(
        &self,
        request: Request<DiscardPartsRequest>,
    ) -> Result<Response<DiscardPartsReply>, Status> {
        discard(self, request.into_inner()).await?;
        Ok(Response::new(DiscardPartsReply {}))
    }

    type RunQueryTaskStream = Replies<QueryTaskReport>;
    type ReadQueryTaskStream = Replies<QueryTaskRows>;

    async fn describe_worker(
        &self,
        _request: Request<DescribeWorkerRequest>,
    ) -> Result<Response<DescribeWorkerReply>, Status> {
        Ok(Response::new(stage_service::describe(&self.sql).await?))
    }

    async fn run_query_task(
        &self,
        request: Request<Streaming<QueryTaskOrder>>,
    ) -> Result<Response<Self::RunQueryTaskStream>, Status> {
        Ok(Response::new(stage_service::run_task(&self.sql, request.into_inner()).await?))
    }

    async fn read_query_task(
        &self,
        request: Request<ReadQueryTaskRequest>,
    ) -> Result<Response<Self::ReadQueryTaskStream>, Status> {
        Ok(Response::new(stage_service::read_task(&self.sql, request.into_inner()).await?))
    }
}

/// Streams the part's bytes from `offset` to its end, which comes last if the caller does not know it.
async fn fetch(
    store: &PartStore,
    id: PartId,
    offset: u64,
    sends_end: bool,
) -> Result<impl Stream<Item = Result<PartChunk, Status>> + Send + use<>> {
    let opened = store.clone();
    let part = tokio::task::spawn_blocking(move || opened.part(id))
        .await
        .map_err(|e| Error::internal(format!("opening part {id}: {e}")))??
        .ok_or_else(|| Error::not_found(format!("this node does not have part {id}")))?;
    if offset > part.len() {
        return Err(Error::invalid(format!("part {id} has {} bytes, so none at {offset}", part.len())));
    }
    let store = store.clone();
    let last = sends_end.then(|| PartEnd { bytes: part.len(), crc32c: part.crc32c() });
    let last = last.map(|end| Ok(PartChunk { data: Bytes::new(), end: Some(end) }));
    let chunks = stream::try_unfold(offset, move |at| {
        let (part, store) = (part.clone(), store.clone());
        async move {
            let end = part.len().min(at + CHUNK);
            if at == end {
                return Ok(None);
            }
            let reading = tokio::task::spawn_blocking(move || {
                let read = part.prefault(std::iter::once(at..end)).map(|()| part.slice(at..end));
                // Quarantines the part if it is damaged.
                read.inspect_err(|_| drop(store.verify(id)))
            });
            let data = reading.await.map_err(|e| Error::internal(format!("reading part {id}: {e}")))??;
            Ok::<_, Status>(Some((PartChunk { data, end: None }, end)))
        }
    });
    Ok(chunks.chain(stream::iter(last)))
}

/// Cancels copies of a failed write's parts, and removes those that are here and that the catalog does not need. Parts of
/// other writes stay.
async fn discard(service: &NodePeerService, request: DiscardPartsRequest) -> Result<()> {
    let ids: Vec<PartId> = request.parts.iter().map(PartId::from).collect();
    for id in &ids {
        service.copier.cancel(*id).await;
    }
    let kept = remove_unneeded(&service.store, &service.coordinators, &request.write, &ids).await?;
    if kept > 0 {
        tracing::warn!(
            write = request.write,
            kept,
            "parts that were to be discarded stay: the catalog needs them or cannot tell"
        );
    }
    Ok(())
}
