//! A fake Flight server for tests: it sends numbers, fails on request, demands logins, and records puts.

use std::pin::Pin;
use std::result::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::*;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::schema::schema_message;
use volley_common::{Error, clock};

use super::put::BatchEncoder;

/// The outcome of a commit.
const COMMITTED: &str =
    r#"{"table": "t", "version": 2, "rows": 1000, "bytes": 8000, "parts": 2, "write_id": "w", "repeated": true}"#;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A put as the server received it.
#[derive(Debug)]
pub enum ReceivedPut {
    /// It ended normally with these batches.
    Complete(SchemaRef, Vec<RecordBatch>),
    /// It ended before its end of stream.
    Broken,
}

/// The logins of a fake server, which demands none at first.
#[derive(Clone, Default)]
pub struct FakeLogins(Arc<Mutex<FakeLoginState>>);

#[derive(Default)]
struct FakeLoginState {
    /// `USER:PASSWORD`, and how long a session lasts.
    password: Option<(String, u64)>,
    /// The only token that calls are accepted with.
    accepted: Option<String>,
    /// Handshakes so far.
    handshakes: usize,
    /// The ids of calls so far.
    request_ids: Vec<String>,
}

impl FakeLogins {
    /// Calls need the session of a login with `USER:PASSWORD` from now on, which lasts for so many seconds.
    pub fn demand(&self, password: &str, session_s: u64) {
        self.0.lock().password = Some((password.into(), session_s));
        self.accept("none yet");
    }

    /// Only calls with this token are accepted from now on, until the next login.
    pub fn accept(&self, token: &str) {
        self.0.lock().accepted = Some(token.into());
    }

    /// The token that is accepted.
    pub fn accepted(&self) -> String {
        self.0.lock().accepted.clone().unwrap_or_default()
    }

    /// Handshakes so far, the refused ones included.
    pub fn handshakes(&self) -> usize {
        self.0.lock().handshakes
    }

    /// The ids of all handshakes, gets, puts and actions so far, in their order.
    pub fn request_ids(&self) -> Vec<String> {
        self.0.lock().request_ids.clone()
    }

    fn note_id(&self, metadata: &MetadataMap) {
        let id = metadata.get("x-request-id").map_or("none", |id| id.to_str().unwrap());
        self.0.lock().request_ids.push(id.into());
    }

    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        self.note_id(metadata);
        let Some(accepted) = self.0.lock().accepted.clone() else { return Ok(()) };
        match metadata.get("authorization").map(|value| value.to_str()) {
            Some(Ok(value)) if value == format!("Bearer {accepted}") => Ok(()),
            _ => Err(Status::unauthenticated("the session has expired: log in again")),
        }
    }

    /// The token of a new session; none if no login is demanded.
    fn log_in(&self, metadata: &MetadataMap) -> Result<Option<String>, Status> {
        self.note_id(metadata);
        let mut state = self.0.lock();
        state.handshakes += 1;
        let Some((password, session_s)) = state.password.clone() else { return Ok(None) };
        let wanted = format!("Basic {}", STANDARD.encode(password));
        match metadata.get("authorization").map(|value| value.to_str()) {
            Some(Ok(value)) if value == wanted => {}
            _ => return Err(Status::unauthenticated("wrong user or password")),
        }
        let claims = serde_json::json!({ "exp": clock::now_ms() / 1000 + session_s }).to_string();
        let token = format!("header.{}.signature{}", URL_SAFE_NO_PAD.encode(claims), state.handshakes);
        state.accepted = Some(token.clone());
        Ok(Some(token))
    }
}

/// A Flight server with settable behaviour.
#[derive(Clone)]
pub struct FakeFlightServer {
    /// Rows of a batch.
    pub rows: i64,
    /// Every DoGet ends with `status` after this many batches.
    pub fail_after: Option<usize>,
    /// See `fail_after`.
    pub status: Status,
    /// How many calls are refused for the moment, before the others.
    pub busy: Arc<AtomicUsize>,
    /// DoGets so far.
    pub gets: Arc<AtomicUsize>,
    /// Tickets that have expired.
    pub expired: Vec<String>,
    /// What GetFlightInfo answers.
    pub plan: Option<FlightInfo>,
    /// What the action `begin_write` answers; then puts are staged.
    pub begun: Option<Value>,
    /// What the action `commit_write` answers with.
    pub commit: Status,
    /// Actions so far, with their bodies.
    pub actions: FakeActions,
    logins: FakeLogins,
    puts: mpsc::Sender<ReceivedPut>,
}

/// The actions that fake servers have received.
pub type FakeActions = Arc<Mutex<Vec<(String, Value)>>>;

/// A running [`FakeFlightServer`].
pub struct RunningFake {
    /// `HOST:PORT`.
    pub address: String,
    /// DoGets so far.
    pub gets: Arc<AtomicUsize>,
    /// Actions so far.
    pub actions: FakeActions,
    /// Its logins.
    pub logins: FakeLogins,
    /// The puts that it received.
    pub puts: mpsc::Receiver<ReceivedPut>,
}

impl RunningFake {
    /// The bodies of the actions of this name that it has received.
    pub fn bodies(&self, action: &str) -> Vec<Value> {
        let actions = self.actions.lock();
        actions.iter().filter(|(name, _)| name == action).map(|(_, body)| body.clone()).collect()
    }

    /// `grpc+tcp://HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("grpc+tcp://{}", self.address)
    }
}

/// Starts a server with the settings of `change`; it runs until the test ends.
pub async fn start_fake(change: impl FnOnce(&mut FakeFlightServer)) -> RunningFake {
    let (puts, received) = mpsc::channel(8);
    let (gets, logins, actions) = (Arc::new(AtomicUsize::new(0)), FakeLogins::default(), FakeActions::default());
    let mut fake = FakeFlightServer {
        rows: 10,
        fail_after: None,
        status: Status::unavailable("going down"),
        busy: Arc::default(),
        gets: gets.clone(),
        expired: Vec::new(),
        plan: None,
        begun: None,
        commit: Status::ok(""),
        actions: actions.clone(),
        logins: logins.clone(),
        puts,
    };
    change(&mut fake);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(FlightServiceServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    RunningFake { address, gets, actions, logins, puts: received }
}

/// An address where no server listens, nor will one before the process ends: the port of a listener that was closed could become
/// another test's.
pub async fn dead_address() -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    format!("grpc+tcp://{address}")
}

/// One column of numbers.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

/// A batch of these numbers.
pub fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(range))]).unwrap()
}

/// A FlightInfo whose endpoint k gives the numbers of `ranges[k]` at `locations`.
pub fn info(ranges: &[(i64, i64)], locations: &[String], ordered: bool) -> FlightInfo {
    let mut info = FlightInfo::new().with_ordered(ordered);
    info.schema = schema_message(&schema()).unwrap();
    info.total_records = ranges.iter().map(|(from, to)| to - from).sum();
    for (from, to) in ranges {
        let mut endpoint = FlightEndpoint::new().with_ticket(Ticket::new(format!("{from} {to}")));
        for location in locations {
            endpoint = endpoint.with_location(location);
        }
        info = info.with_endpoint(endpoint);
    }
    info
}

/// Reports a put as broken when it is dropped, which includes a cancelled call.
struct ReportBroken(Option<mpsc::Sender<ReceivedPut>>);

impl ReportBroken {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ReportBroken {
    fn drop(&mut self) {
        if let Some(puts) = self.0.take() {
            let _ = puts.try_send(ReceivedPut::Broken);
        }
    }
}

fn unsupported<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not supported by this fake"))
}

impl FakeFlightServer {
    fn check_busy(&self) -> Result<(), Status> {
        let left = self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Err(Error::exhausted("too many calls").retry_after(1).into()) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl FlightService for FakeFlightServer {
    type HandshakeStream = Out<HandshakeResponse>;
    type ListFlightsStream = Out<FlightInfo>;
    type DoGetStream = Out<FlightData>;
    type DoPutStream = Out<PutResult>;
    type DoActionStream = Out<arrow_flight::Result>;
    type ListActionsStream = Out<ActionType>;
    type DoExchangeStream = Out<FlightData>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.logins.check(request.metadata())?;
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.check_busy()?;
        let ticket = String::from_utf8(request.into_inner().ticket.to_vec()).unwrap();
        if self.expired.contains(&ticket) {
            return Err(Status::not_found("the ticket has expired: call get_flight_info again"));
        }
        // What may follow tells tickets of the same rows apart.
        let bounds: Vec<i64> = ticket.split(' ').map(|number| number.parse().unwrap()).collect();
        let (from, to) = (bounds[0], bounds[1]);
        let mut encoder = BatchEncoder::new();
        let mut messages = vec![Ok(encoder.schema(&schema()))];
        for (sent, at) in (from..to).step_by(self.rows as usize).enumerate() {
            if self.fail_after == Some(sent) {
                messages.push(Err(self.status.clone()));
                break;
            }
            messages.extend(encoder.batch(&numbers(at..to.min(at + self.rows))).unwrap().into_iter().map(Ok));
        }
        Ok(Response::new(futures::stream::iter(messages).boxed()))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.logins.check(request.metadata())?;
        self.check_busy()?;
        let mut messages = request.into_inner();
        let broken = ReportBroken(Some(self.puts.clone()));
        let mut decoder = BatchDecoder::new(super::MAX_MESSAGE);
        let mut batches = Vec::new();
        loop {
            match messages.message().await {
                Ok(Some(message)) => {
                    if let DecodedMessage::Batch(batch) = decoder.push(message)? {
                        batches.push(batch);
                    }
                }
                Ok(None) => break,
                Err(status) => return Err(status),
            }
        }
        broken.disarm();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let _ = self.puts.send(ReceivedPut::Complete(decoder.schema().unwrap().clone(), batches)).await;
        let reply = serde_json::json!({
            "table": "t", "version": 1, "rows": rows, "bytes": 8 * rows, "parts": 1, "write_id": "w",
            "staged": self.begun.is_some(),
        });
        let result = PutResult { app_metadata: reply.to_string().into() };
        Ok(Response::new(futures::stream::iter([Ok(result)]).boxed()))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.logins.check(request.metadata())?;
        self.check_busy()?;
        let action = request.into_inner();
        let body = serde_json::from_slice(&action.body).unwrap_or_default();
        self.actions.lock().push((action.r#type.clone(), body));
        let reply = |body: String| {
            let result = arrow_flight::Result { body: body.into() };
            let replies: Self::DoActionStream = futures::stream::iter([Ok(result)]).boxed();
            Ok(Response::new(replies))
        };
        match action.r#type.as_str() {
            "begin_write" => reply(self.begun.clone().unwrap_or_default().to_string()),
            "commit_write" if self.commit.code() != tonic::Code::Ok => Err(self.commit.clone()),
            "commit_write" => reply(COMMITTED.into()),
            "abort_write" => reply("{}".into()),
            "echo" => {
                let result = arrow_flight::Result { body: action.body };
                Ok(Response::new(futures::stream::iter([Ok(result)]).boxed()))
            }
            "late_error" => {
                let result = arrow_flight::Result { body: "{}".into() };
                let items = [Ok(result), Err(Status::aborted("after all"))];
                Ok(Response::new(futures::stream::iter(items).boxed()))
            }
            _ => unsupported(),
        }
    }

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.check_busy()?;
        let token = self.logins.log_in(request.metadata())?;
        let mut response: Response<Self::HandshakeStream> = Response::new(futures::stream::empty().boxed());
        if let Some(token) = token {
            response.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(response)
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unsupported()
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.check_busy()?;
        let plan = self.plan.clone().ok_or_else(|| Status::unimplemented("this fake plans nothing"))?;
        let command = serde_json::from_slice(&request.into_inner().cmd).unwrap_or_default();
        self.actions.lock().push(("GetFlightInfo".into(), command));
        Ok(Response::new(plan))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unsupported()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unsupported()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        unsupported()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        unsupported()
    }
}
