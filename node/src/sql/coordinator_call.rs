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

/// Runs an action that has one result at a coordinator, for the client that makes `call`. Returns the body of the result.
///
/// # Errors
/// Those of [`CoordinatorProxy::forward`] and of the action. UNAVAILABLE: the reply broke off. INTERNAL: it is none of this kind.
/// After both it is unknown whether the action was run.
pub async fn run_action(proxy: &CoordinatorProxy, call: &MetadataRequest, name: &str, body: Bytes) -> Result<Bytes> {
    let request = call.with_message("DoAction", &Action { r#type: name.into(), body })?;
    only_result(name, messages(proxy.forward(request).await?).await?)
}

fn only_result(name: &str, results: Vec<Bytes>) -> Result<Bytes> {
    let count = results.len();
    let Ok([result]) = <[Bytes; 1]>::try_from(results) else {
        return Err(Error::internal(format!(
            "a coordinator sent {count} results of {name}, which has one: it is unknown whether it was run"
        )));
    };
    let result = arrow_flight::Result::decode(result).map_err(|e| {
        Error::internal(format!("the result of {name} cannot be read, so that it is unknown whether it was run: {e}"))
    })?;
    Ok(result.body)
}

/// All messages of a reply.
///
/// # Errors
/// The error of the reply. UNAVAILABLE: it ended without a status, and may not be all of the reply.
async fn messages(response: Response<ReplyBody>) -> Result<Vec<Bytes>> {
    // A reply without a body has its status there.
    let mut has_status = Status::from_header_map(response.headers()).is_some();
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
        match status {
            Some(status) if status.code() != Code::Ok => return Err(status.into()),
            Some(_) => has_status = true,
            None => {}
        }
    }
    if !has_status {
        return Err(Error::unavailable(
            "the reply of a coordinator ended without a status: it is unknown what became of the call",
        ));
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
    use http::{HeaderMap, HeaderValue};
    use http_body_util::Full;
    use volley_common::http2::{grpc_error, grpc_message};

    use super::*;

    fn framed(body: &'static [u8]) -> Bytes {
        grpc::encode_message(&arrow_flight::Result { body: Bytes::from_static(body) })
    }

    /// A reply with these messages and these trailers.
    fn reply(messages: Bytes, trailers: Option<HeaderMap>) -> Response<ReplyBody> {
        let body = Full::new(messages).with_trailers(std::future::ready(trailers.map(Ok)));
        Response::new(ReplyBody::Tonic(tonic::body::Body::new(body)))
    }

    #[tokio::test]
    async fn reply_without_a_status_is_no_success() {
        let other = HeaderMap::from_iter([(http::HeaderName::from_static("x-other"), HeaderValue::from_static("1"))]);
        for cut in [
            reply(Bytes::new(), None),
            reply(framed(b"{}"), None),
            reply(framed(b"{}"), Some(other)),
            Response::new(ReplyBody::default()),
        ] {
            let error = messages(cut).await.unwrap_err();
            assert_eq!(error.code, Code::Unavailable);
            assert!(error.message.contains("unknown"), "{error}");
        }
        let error = messages(grpc_error(Error::not_found("no table"))).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        let whole = messages(grpc_message(framed(b"{}"))).await.unwrap();
        assert_eq!(only_result("drop_table", whole).unwrap(), "{}");
        let empty = messages(grpc_error(Status::ok(""))).await.unwrap();
        assert!(empty.is_empty());
    }

    #[test]
    fn action_has_exactly_one_result() {
        let result = || framed(b"{}").slice(PREFIX..);
        for results in [vec![], vec![result(), result()], vec![Bytes::from_static(b"\xff")]] {
            let error = only_result("commit_transaction", results).unwrap_err();
            assert_eq!(error.code, Code::Internal);
            assert!(error.message.contains("unknown whether it was run"), "{error}");
        }
        assert_eq!(only_result("commit_transaction", vec![result()]).unwrap(), "{}");
    }

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
