//! Calls to coordinators on behalf of a client, whose replies are read here instead of being passed on.

use arrow_flight::Action;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;
use volley_common::grpc::{self, PREFIX, message_length};
use volley_common::http2::ReplyBody;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::{Code, Error, Result};

use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};

/// Makes a call of one message and reads the one message of its reply.
///
/// # Errors
/// Those of [`CoordinatorProxy::forward`] and of the coordinator. INTERNAL: the reply is none of this kind.
pub async fn call<M: Message + Default>(proxy: &CoordinatorProxy, request: MetadataRequest) -> Result<M> {
    let mut replies = messages(proxy.forward(request).await?).await?.into_iter();
    match (replies.next(), replies.next()) {
        (Some(reply), None) => {
            M::decode(reply).map_err(|e| Error::internal(format!("the reply of a coordinator cannot be read: {e}")))
        }
        _ => Err(Error::internal("a coordinator sent none or several replies where one is expected")),
    }
}

/// Runs an action at a coordinator for the client that makes `call`. Returns the bodies of its results.
///
/// # Errors
/// Those of [`CoordinatorProxy::forward`] and of the action.
pub async fn run_action(
    proxy: &CoordinatorProxy,
    call: &MetadataRequest,
    name: &str,
    body: Bytes,
) -> Result<Vec<Bytes>> {
    let request = call.with_message("DoAction", &Action { r#type: name.into(), body })?;
    let results = messages(proxy.forward(request).await?).await?;
    let body = |result: Bytes| arrow_flight::Result::decode(result).map(|result| result.body);
    let bodies: Result<Vec<Bytes>, prost::DecodeError> = results.into_iter().map(body).collect();
    bodies.map_err(|e| Error::internal(format!("the reply of a coordinator cannot be read: {e}")))
}

/// All messages of a reply.
async fn messages(response: Response<ReplyBody>) -> Result<Vec<Bytes>> {
    let mut body = grpc::response_body(response)?;
    let mut received = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = match frame.map_err(Error::from)?.into_data() {
            Ok(data) if received.len() + data.remaining() > MAX_PEER_MESSAGE => {
                return Err(Error::exhausted(format!(
                    "the reply of a coordinator has more than {MAX_PEER_MESSAGE} bytes: read fewer parts, or compact the table"
                )));
            }
            Ok(data) => {
                received.put(data);
                continue;
            }
            Err(frame) => frame,
        };
        let status = frame.into_trailers().ok().and_then(|trailers| Status::from_header_map(&trailers));
        if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
            return Err(status.into());
        }
    }
    split_messages(received.freeze())
}

fn split_messages(mut received: Bytes) -> Result<Vec<Bytes>> {
    let mut messages = Vec::new();
    while let Some(prefix) = received.first_chunk::<PREFIX>() {
        let length = message_length(prefix, MAX_PEER_MESSAGE)?;
        received.advance(PREFIX);
        if received.len() < length {
            break;
        }
        messages.push(received.split_to(length));
    }
    match received.is_empty() {
        true => Ok(messages),
        false => Err(Error::unavailable("the reply of a coordinator broke off: try again")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_reply_are_split_and_a_part_of_one_is_an_error() {
        let action = |name: &str| grpc::encode_message(&Action { r#type: name.into(), body: Bytes::new() });
        let both = Bytes::from([action("one"), action("two")].concat());
        let names = split_messages(both.clone()).unwrap().into_iter().map(|m| Action::decode(m).unwrap().r#type);
        assert_eq!(names.collect::<Vec<_>>(), ["one", "two"]);
        assert!(split_messages(Bytes::new()).unwrap().is_empty());
        for length in [3, both.len() - 1] {
            assert_eq!(split_messages(both.slice(..length)).unwrap_err().code, Code::Unavailable);
        }
    }
}
