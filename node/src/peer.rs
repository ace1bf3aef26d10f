//! The edge to other members: their calls to a node.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use tonic::{Request, Response, Status};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::node_server::{Node, NodeServer};
use volley_common::wire::cluster::{
    CopyPart, CopyPartReply, DiscardPartsReply, DiscardPartsRequest, FetchPartRequest, PartChunk,
};
use volley_common::{Error, PartId, Result};

use crate::state::Shared;

/// Bytes of a part that go out as one message.
const CHUNK: u64 = 1 << 20;

/// The service that other members call.
pub struct Peer(Arc<Shared>);

/// The service, with the message limits that members keep to.
pub fn service(state: Arc<Shared>) -> NodeServer<Peer> {
    NodeServer::new(Peer(state)).max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(MAX_PEER_MESSAGE)
}

#[tonic::async_trait]
impl Node for Peer {
    type FetchPartStream = Pin<Box<dyn Stream<Item = Result<PartChunk, Status>> + Send>>;

    async fn fetch_part(&self, request: Request<FetchPartRequest>) -> Result<Response<Self::FetchPartStream>, Status> {
        let request = request.into_inner();
        let id = request.id.as_ref().map(PartId::from).ok_or_else(|| Error::invalid("no part is named"))?;
        let chunks = fetch(&self.0, id, request.offset).await?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn copy_part(&self, request: Request<CopyPart>) -> Result<Response<CopyPartReply>, Status> {
        self.0.copier.copy(request.into_inner()).await?;
        Ok(Response::new(CopyPartReply {}))
    }

    async fn discard_parts(
        &self,
        request: Request<DiscardPartsRequest>,
    ) -> Result<Response<DiscardPartsReply>, Status> {
        discard(&self.0, request.into_inner()).await?;
        Ok(Response::new(DiscardPartsReply {}))
    }
}

/// The part's bytes from `offset` on.
async fn fetch(
    state: &Arc<Shared>,
    id: PartId,
    offset: u64,
) -> Result<impl Stream<Item = Result<PartChunk, Status>> + Send + use<>> {
    let store = state.store.clone();
    let part = tokio::task::spawn_blocking(move || store.part(id))
        .await
        .map_err(|e| Error::internal(format!("opening part {id}: {e}")))??
        .ok_or_else(|| Error::not_found(format!("this node does not have part {id}")))?;
    if offset > part.len() {
        return Err(Error::invalid(format!("part {id} has {} bytes, so none at {offset}", part.len())));
    }
    let store = state.store.clone();
    Ok(stream::try_unfold(offset, move |at| {
        let (part, store) = (part.clone(), store.clone());
        async move {
            let end = part.len().min(at + CHUNK);
            if at == end {
                return Ok(None);
            }
            let reading = tokio::task::spawn_blocking(move || {
                let read = part.prefault(std::iter::once(at..end)).map(|()| part.slice(at..end));
                // Finds out whether it is really damaged, and puts it aside then.
                read.inspect_err(|_| drop(store.verify(id)))
            });
            let data = reading.await.map_err(|e| Error::internal(format!("reading part {id}: {e}")))??;
            Ok(Some((PartChunk { data }, end)))
        }
    }))
}

/// Removes parts of a write that failed; parts of any other write stay.
async fn discard(state: &Arc<Shared>, request: DiscardPartsRequest) -> Result<()> {
    let ids: Vec<PartId> = request.parts.iter().map(PartId::from).collect();
    for id in &ids {
        state.copier.cancel(*id).await;
    }
    let store = state.store.clone();
    tokio::task::spawn_blocking(move || {
        let of_write = |id: &Option<_>| id.as_ref().map(PartId::from).filter(|id| ids.contains(id));
        let held = store.inventory().into_iter().filter(|part| part.write == request.write);
        let parts: Vec<PartId> = held.filter_map(|part| of_write(&part.id)).collect();
        store.remove(&parts)
    })
    .await
    .map_err(|e| Error::internal(format!("discarding parts: {e}")))?
}
