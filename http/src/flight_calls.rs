//! The Flight calls of one request: at this member, in process, as the request's caller.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{
    Action, Criteria, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    RenewFlightEndpointRequest,
};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http_body_util::Full;
use prost::Message;
use serde_json::Value;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use tower::{Service, ServiceExt};
use volley_common::grpc;
use volley_common::ipc::accepted_codecs::{ACCEPT_CODECS_HEADER, ALL_CODECS};
use volley_common::ipc::flight_stream::FlightDataStream;
use volley_common::options::DECOMPRESS_HEADER;
use volley_common::put_codec::{DO_PUT, PutCodec};
use volley_common::{Error, Result};

/// The largest message that this member sends to itself.
const MAX_MESSAGE: usize = 512 << 20;

/// The messages of a DoGet.
pub(crate) type GetMessages = FlightDataStream<Body>;

/// Makes the Flight calls of one request. Cheap to clone; the calls end when all clones, and what they returned, are dropped.
#[derive(Clone, Debug)]
pub struct FlightCalls {
    channel: Channel,
    headers: HeaderMap,
}

impl FlightCalls {
    /// Calls by this connection; each call has these headers.
    pub(crate) fn new(channel: Channel, headers: HeaderMap) -> Self {
        FlightCalls { channel, headers }
    }

    fn client(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        request
    }

    /// Exchanges the credentials of these calls for a session token.
    ///
    /// # Errors
    /// Those of Handshake. FAILED_PRECONDITION: the cluster gives these credentials no token.
    pub(crate) async fn handshake(&self) -> Result<String> {
        let request = self.request(futures::stream::empty::<HandshakeRequest>());
        let response = self.client().handshake(request).await?;
        let granted = response.metadata().get(AUTHORIZATION.as_str()).and_then(|granted| granted.to_str().ok());
        let token = granted.and_then(|granted| granted.strip_prefix("Bearer "));
        token.map(str::to_string).ok_or_else(|| Error::precondition("the cluster gives no session token"))
    }

    /// The plan of a read.
    ///
    /// # Errors
    /// Those of GetFlightInfo.
    pub async fn info(&self, command: &Value) -> Result<FlightInfo> {
        let descriptor = FlightDescriptor::new_cmd(command.to_string());
        Ok(self.client().get_flight_info(self.request(descriptor)).await?.into_inner())
    }

    /// The schema of a table, as an encapsulated message.
    ///
    /// # Errors
    /// Those of GetSchema.
    pub async fn schema(&self, command: &Value) -> Result<Bytes> {
        let descriptor = FlightDescriptor::new_cmd(command.to_string());
        Ok(self.client().get_schema(self.request(descriptor)).await?.into_inner().schema)
    }

    /// The tables whose names begin with `prefix`.
    ///
    /// # Errors
    /// Those of ListFlights.
    pub async fn list(&self, prefix: &str) -> Result<Streaming<FlightInfo>> {
        let criteria = Criteria { expression: Bytes::copy_from_slice(prefix.as_bytes()) };
        Ok(self.client().list_flights(self.request(criteria)).await?.into_inner())
    }

    /// The first result of an action with a JSON body, as JSON.
    ///
    /// # Errors
    /// Those of the action.
    pub async fn action(&self, name: &str, body: &Value) -> Result<Value> {
        let body = self.first_result(name, body.to_string().into()).await?;
        serde_json::from_slice(&body)
            .map_err(|e| Error::internal(format!("the reply to the action {name} is not JSON: {e}")))
    }

    async fn first_result(&self, name: &str, body: Bytes) -> Result<Bytes> {
        let action = Action { r#type: name.to_string(), body };
        let mut results = self.client().do_action(self.request(action)).await?.into_inner();
        let mut first = None;
        // Read to the end: an error may follow the first result.
        while let Some(result) = results.next().await {
            first.get_or_insert(result?.body);
        }
        Ok(first.unwrap_or_default())
    }

    /// The endpoint with a ticket that lasts longer.
    ///
    /// # Errors
    /// Those of the action RenewFlightEndpoint.
    pub(crate) async fn renew(&self, endpoint: &FlightEndpoint) -> Result<FlightEndpoint> {
        let request = RenewFlightEndpointRequest { endpoint: Some(endpoint.clone()) };
        let reply = self.first_result("RenewFlightEndpoint", request.encode_to_vec().into()).await?;
        FlightEndpoint::decode(reply).map_err(|e| Error::internal(format!("the renewed ticket cannot be read: {e}")))
    }

    /// Redeems a ticket, which may be a JSON command. `decompress`: whether bodies are sent uncompressed; if not, nodes may compress
    /// them for a slow link.
    ///
    /// # Errors
    /// Those of DoGet that are known before its first message.
    pub(crate) async fn get(&self, ticket: Bytes, decompress: bool) -> Result<GetMessages> {
        let mut request = grpc::do_get_request(ticket).map(|body| Body::new(Full::new(body)));
        request.headers_mut().extend(self.headers.clone());
        let (name, value) = if decompress { (DECOMPRESS_HEADER, "true") } else { (ACCEPT_CODECS_HEADER, ALL_CODECS) };
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        let mut channel = self.channel.clone();
        let response = channel.ready().await?.call(request).await?;
        Ok(FlightDataStream::new(grpc::response_body(response)?, MAX_MESSAGE))
    }

    /// Puts messages, of which the first has the descriptor. An error among them resets the call, so that nothing is stored. Returns
    /// the `app_metadata` of the last result.
    ///
    /// # Errors
    /// Those of DoPut; not those among the messages, which the caller knows.
    pub(crate) async fn put(&self, messages: impl Stream<Item = Result<FlightData>> + Send + 'static) -> Result<Bytes> {
        let mut call = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        call.ready().await?;
        let request = self.request(messages);
        let results = call.streaming(request, PathAndQuery::from_static(DO_PUT), PutCodec).await?;
        let (mut results, mut last) = (results.into_inner(), Bytes::new());
        while let Some(result) = results.message().await? {
            if !result.app_metadata.is_empty() {
                last = result.app_metadata;
            }
        }
        Ok(last)
    }
}
