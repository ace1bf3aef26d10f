//! The Flight calls that tonic serves on a node: Handshake and DoExchange.
//!
//! [`crate::router`] handles every other Flight call before it reaches tonic: [`crate::get`] answers DoGet and
//! [`crate::put`] answers DoPut, both without tonic's codec, which would copy each body; metadata calls are proxied to
//! a coordinator. Therefore this is a service with two methods instead of an implementation of arrow-flight's
//! `FlightService` trait.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::{FlightData, FlightDescriptor, HandshakeRequest, HandshakeResponse};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tonic::body::Body;
use tonic::metadata::AsciiMetadataValue;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use volley_common::grpc::{HANDSHAKE, NOW_HEADER};
use volley_common::http2::MAX_UNIDENTIFIED;
use volley_common::identity::Secret;
use volley_common::{Error, Result, clock};

use crate::callers::{CallerIdentifier, HandshakeAnswer};

const DO_EXCHANGE: &str = "/arrow.flight.protocol.FlightService/DoExchange";
/// The largest message of an exchange, bytes: it is held in memory.
const MAX_EXCHANGED: usize = 64 << 20;
/// Maximum number of messages of one handshake.
const MAX_HANDSHAKE: usize = 16;
const EXCHANGES: &str = "DoExchange offers the command {\"exchange\": \"echo\"}, which sends every message back";

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Handshake and DoExchange as a tonic service.
#[derive(Clone)]
pub struct NodeFlightService {
    /// The largest message, received or sent, bytes.
    max_message: usize,
    callers: Arc<CallerIdentifier>,
}

/// The service; it refuses messages of more than `max_message` bytes. The router has refused exchanges of callers without
/// identity.
pub fn service(max_message: usize, callers: Arc<CallerIdentifier>) -> NodeFlightService {
    NodeFlightService { max_message, callers }
}

impl NamedService for NodeFlightService {
    const NAME: &'static str = "arrow.flight.protocol.FlightService";
}

impl Service<http::Request<Body>> for NodeFlightService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let limit = Some(self.max_message.min(MAX_EXCHANGED));
        let callers = self.callers.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                HANDSHAKE => {
                    let codec = ProstCodec::<HandshakeResponse, HandshakeRequest>::default();
                    let limit = Some(MAX_UNIDENTIFIED);
                    let mut grpc = Grpc::new(codec).apply_max_message_size_config(limit, limit);
                    grpc.streaming(service_fn(move |request| handshake(callers.clone(), request)), request).await
                }
                DO_EXCHANGE => {
                    let codec = ProstCodec::<FlightData, FlightData>::default();
                    let mut grpc = Grpc::new(codec).apply_max_message_size_config(limit, limit);
                    grpc.streaming(service_fn(do_exchange), request).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// Answers a handshake by the credentials of its headers or, if these have none, of its first message, without waiting for the
/// end of the client's stream, which its body limits. The reply's header and each reply message have the token. Coordinators reply
/// in the same way.
async fn handshake(
    callers: Arc<CallerIdentifier>,
    request: Request<Streaming<HandshakeRequest>>,
) -> Result<Response<BoxStream<HandshakeResponse>>, Status> {
    let (metadata, extensions, mut messages) = request.into_parts();
    let headers = metadata.into_headers();
    let access = match callers.answer_to_headers(&headers, &extensions).await? {
        HandshakeAnswer::Token(token) => return handshake_reply(&token, None, messages),
        HandshakeAnswer::ByMessage(access) => access,
    };
    let first = messages.message().await?;
    let payload = first.as_ref().map(|message| message.payload.clone()).unwrap_or_default();
    let token = callers.answer_to_message(&access, &payload, &headers, &extensions).await?;
    handshake_reply(&token, first, messages)
}

/// Answers each message as it arrives; a client that sends no message gets the token in the header only. `first`: a message
/// that was read already.
fn handshake_reply(
    token: &Secret,
    first: Option<HandshakeRequest>,
    rest: Streaming<HandshakeRequest>,
) -> Result<Response<BoxStream<HandshakeResponse>>, Status> {
    let payload = Bytes::from(token.expose().to_string());
    let messages = stream::iter(first.map(Ok)).chain(rest);
    let replies = messages.take(MAX_HANDSHAKE).map(move |message| {
        let protocol_version = message?.protocol_version;
        Ok(HandshakeResponse { protocol_version, payload: payload.clone() })
    });
    let mut response = Response::new(replies.boxed());
    let mut bearer = AsciiMetadataValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|_| Error::internal("the token is not a valid header value"))?;
    bearer.set_sensitive(true);
    response.metadata_mut().insert("authorization", bearer);
    response.metadata_mut().insert(NOW_HEADER, clock::now_ms().into());
    Ok(response)
}

/// The command of a DoExchange.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExchangeCommand {
    exchange: String,
}

async fn do_exchange(request: Request<Streaming<FlightData>>) -> Result<Response<BoxStream<FlightData>>, Status> {
    let mut input = request.into_inner();
    let first = input.message().await?.ok_or_else(|| Error::invalid(EXCHANGES))?;
    check_exchange(first.flight_descriptor.as_ref())?;
    Ok(Response::new(echo(first, input)))
}

fn check_exchange(descriptor: Option<&FlightDescriptor>) -> Result<()> {
    let command = descriptor.map(|d| d.cmd.as_ref()).unwrap_or_default();
    match serde_json::from_slice::<ExchangeCommand>(command) {
        Ok(ExchangeCommand { exchange }) if exchange == "echo" => Ok(()),
        _ => Err(Error::invalid(EXCHANGES)),
    }
}

/// Sends every message back, data and metadata alike. A first message that has only the descriptor is not sent.
fn echo(first: FlightData, rest: Streaming<FlightData>) -> BoxStream<FlightData> {
    let is_empty = |m: &FlightData| m.data_header.is_empty() && m.app_metadata.is_empty() && m.data_body.is_empty();
    let first = (!is_empty(&first)).then_some(Ok(first));
    let messages = stream::iter(first).chain(rest);
    Box::pin(messages.map(|message| message.map(|m| FlightData { flight_descriptor: None, ..m })))
}

#[cfg(test)]
mod tests {
    use arrow_flight::flight_service_client::FlightServiceClient;
    use arrow_flight::{Criteria, Empty};
    use futures::TryStreamExt;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic::service::Routes;
    use volley_common::net::{ConnectionPool, MemberChannel};
    use volley_common::server::serve::{ServerLimits, TonicService, bind, serve};

    use super::*;
    use crate::callers::tests::open_callers;

    const MAX_MESSAGE: usize = 1 << 20;

    async fn client() -> FlightServiceClient<MemberChannel> {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let routes = TonicService(Routes::new(service(MAX_MESSAGE, Arc::new(open_callers()))));
        tokio::spawn(serve(listener, routes, CancellationToken::new(), ServerLimits::default()));
        FlightServiceClient::new(ConnectionPool::new().channel(&addr).unwrap())
    }

    fn message(command: &str, body: &[u8]) -> FlightData {
        let descriptor = (!command.is_empty()).then(|| FlightDescriptor::new_cmd(command.to_string()));
        FlightData { flight_descriptor: descriptor, data_body: body.to_vec().into(), ..FlightData::default() }
    }

    async fn exchange(messages: Vec<FlightData>) -> Result<Vec<FlightData>, Status> {
        client().await.do_exchange(stream::iter(messages)).await?.into_inner().try_collect().await
    }

    #[tokio::test]
    async fn handshake_returns_the_token_for_each_message_and_as_a_header() {
        for count in [0, 1, MAX_HANDSHAKE + 1] {
            let request = HandshakeRequest { protocol_version: 7, ..HandshakeRequest::default() };
            let response = client().await.handshake(stream::iter(vec![request; count])).await.unwrap();
            let bearer = response.metadata().get("authorization").unwrap().to_str().unwrap().to_string();
            let replies: Vec<HandshakeResponse> = response.into_inner().try_collect().await.unwrap();
            assert_eq!(replies.len(), count.min(MAX_HANDSHAKE));
            assert!(replies.iter().all(|reply| {
                reply.protocol_version == 7 && bearer.strip_prefix("Bearer ").unwrap().as_bytes() == reply.payload
            }));
        }
    }

    #[tokio::test]
    async fn exchange_echoes_messages_without_their_descriptor() {
        let echo = r#"{"exchange": "echo"}"#;
        let sent = [message("", b"a"), message("", b"b")];
        assert_eq!(exchange([&[message(echo, b"")], &sent[..]].concat()).await.unwrap(), sent);
        assert_eq!(exchange(vec![message(echo, b"a"), message("", b"b")]).await.unwrap(), sent);
    }

    #[tokio::test]
    async fn exchange_without_a_known_command_is_invalid() {
        for messages in [vec![], vec![message("", b"a")], vec![message(r#"{"exchange": "other"}"#, b"")]] {
            assert_eq!(exchange(messages).await.unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[tokio::test]
    async fn message_over_the_limit_is_refused() {
        let large = message(r#"{"exchange": "echo"}"#, &vec![0; MAX_MESSAGE + 1]);
        assert_eq!(exchange(vec![large]).await.unwrap_err().code(), Code::OutOfRange);
    }

    #[tokio::test]
    async fn other_flight_calls_are_unimplemented() {
        assert_eq!(client().await.list_actions(Empty {}).await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(client().await.list_flights(Criteria::default()).await.unwrap_err().code(), Code::Unimplemented);
    }
}
