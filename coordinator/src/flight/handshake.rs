//! Handshake: while there are no users, everybody is let in with a random token that nobody asks for again.

use arrow_flight::{HandshakeRequest, HandshakeResponse};
use futures::StreamExt;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Response, Status, Streaming};
use volley_common::Error;

use super::Answers;

/// Messages of one handshake at most.
const MAX_MESSAGES: usize = 16;

/// Answers every message as it comes (a client may wait for the answer before it ends its side), and
/// a client that sends none by the header alone.
pub fn answer(requests: Streaming<HandshakeRequest>) -> Result<Response<Answers<HandshakeResponse>>, Status> {
    let token = format!("{:032x}", rand::random::<u128>());
    let bearer = AsciiMetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::internal("a token that is no header"))?;
    let answers = requests.take(MAX_MESSAGES).map(move |request| {
        let request = request?;
        Ok(HandshakeResponse { protocol_version: request.protocol_version, payload: token.clone().into() })
    });
    let mut response = Response::new(answers.boxed());
    response.metadata_mut().insert("authorization", bearer);
    Ok(response)
}
