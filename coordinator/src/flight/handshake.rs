//! Handshake: without authentication every client gets a random token, which no call checks.

use arrow_flight::{HandshakeRequest, HandshakeResponse};
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Response, Status, Streaming};
use volley_common::Error;

/// Maximum number of messages of one handshake.
const MAX_MESSAGES: usize = 16;

/// Replies to every message as it arrives, because a client may wait for the reply before it closes its side. A client
/// that sends no message gets the token in the header only.
pub fn reply(
    requests: Streaming<HandshakeRequest>,
) -> Result<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>, Status> {
    let token = format!("{:032x}", rand::random::<u128>());
    let bearer = AsciiMetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::internal("the token is no valid header"))?;
    let replies = requests.take(MAX_MESSAGES).map(move |request| {
        let request = request?;
        Ok(HandshakeResponse { protocol_version: request.protocol_version, payload: token.clone().into() })
    });
    let mut response = Response::new(replies.boxed());
    response.metadata_mut().insert("authorization", bearer);
    Ok(response)
}
