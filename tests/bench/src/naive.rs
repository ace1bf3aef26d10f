//! The simplest Flight server in Rust: batches in memory, sent by arrow-flight's encoder on tonic.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// The largest message that it accepts: a client may put a large batch as one message.
const MAX_MESSAGE: usize = 1 << 30;
/// Endpoints of a FlightInfo.
const ENDPOINTS: usize = 4;

type NaiveStream<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

/// Serves at HOST:PORT until the process is killed; prints a line when it is ready.
pub async fn serve(address: &str) -> Result<(), String> {
    let listener = TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?;
    let naive = NaiveServer { uri: format!("grpc+tcp://{address}"), tables: Mutex::default() };
    let service =
        FlightServiceServer::new(naive).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    println!("ready grpc://{address}");
    let incoming = TcpListenerStream::new(listener).inspect_ok(|socket| {
        // tonic does this for sockets that it accepts itself.
        let _ = socket.set_nodelay(true);
        // Volley does this too; pacing is not compared.
        volley_common::http2::disable_local_pacing(socket);
    });
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
        .map_err(|e| e.to_string())?;
    Ok(())
}

struct NaiveServer {
    uri: String,
    tables: Mutex<HashMap<String, NaiveTable>>,
}

#[derive(Clone)]
struct NaiveTable {
    schema: SchemaRef,
    batches: Arc<Vec<RecordBatch>>,
}

/// The request in a ticket or descriptor: a table's name, or JSON.
#[derive(Default, Deserialize)]
struct NaiveRequest {
    table: String,
    columns: Option<Vec<String>>,
    part: Option<(usize, usize)>,
    compression: Option<String>,
}

impl NaiveRequest {
    fn parse(words: &[u8]) -> Result<NaiveRequest, Status> {
        if words.first() == Some(&b'{') {
            return serde_json::from_slice(words).map_err(|e| Status::invalid_argument(e.to_string()));
        }
        Ok(NaiveRequest { table: String::from_utf8_lossy(words).into_owned(), ..NaiveRequest::default() })
    }

    fn of(descriptor: &FlightDescriptor) -> Result<NaiveRequest, Status> {
        if descriptor.cmd.is_empty() {
            return Ok(NaiveRequest { table: descriptor.path.join("/"), ..NaiveRequest::default() });
        }
        NaiveRequest::parse(&descriptor.cmd)
    }
}

impl NaiveTable {
    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The rows `index / count` to `(index + 1) / count`.
    fn part(&self, index: usize, count: usize) -> NaiveTable {
        let (mut skip, last) = (self.rows() * index / count, self.rows() * (index + 1) / count);
        let mut left = last - skip;
        let mut batches = Vec::new();
        for batch in self.batches.iter() {
            let from = skip.min(batch.num_rows());
            let length = left.min(batch.num_rows() - from);
            (skip, left) = (skip - from, left - length);
            if length > 0 {
                batches.push(batch.slice(from, length));
            }
        }
        NaiveTable { schema: self.schema.clone(), batches: batches.into() }
    }

    fn select(&self, columns: &[String]) -> Result<NaiveTable, Status> {
        let at: Result<Vec<usize>, _> = columns.iter().map(|name| self.schema.index_of(name)).collect();
        let at = at.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let project = |e: arrow::error::ArrowError| Status::internal(e.to_string());
        let batches: Result<Vec<RecordBatch>, _> = self.batches.iter().map(|batch| batch.project(&at)).collect();
        Ok(NaiveTable {
            schema: Arc::new(self.schema.project(&at).map_err(project)?),
            batches: batches.map_err(project)?.into(),
        })
    }
}

/// The batch in buffers of its own. Without this all columns share the message that they arrived in; arrow-flight's encoder counts
/// that message once for each column and splits batches of 64 columns into messages of 32 KiB.
fn detached(batch: &RecordBatch) -> Result<RecordBatch, Status> {
    // With one batch alone, concat_batches would not copy.
    let copied = arrow::compute::concat_batches(&batch.schema(), [batch, &batch.slice(0, 0)]);
    copied.map_err(|e| Status::internal(e.to_string()))
}

impl NaiveServer {
    fn table(&self, name: &str) -> Result<NaiveTable, Status> {
        self.tables.lock().get(name).cloned().ok_or_else(|| Status::not_found(format!("there is no table {name:?}")))
    }
}

#[tonic::async_trait]
impl FlightService for NaiveServer {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> NaiveStream<PutResult> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("an empty put"))?;
        let name = NaiveRequest::of(&first.flight_descriptor.clone().unwrap_or_default())?.table;
        let all = stream::iter([Ok(first)]).chain(messages).map_err(arrow_flight::error::FlightError::from);
        let mut decoded = FlightRecordBatchStream::new_from_flight_data(all);
        let mut batches = Vec::new();
        while let Some(batch) = decoded.try_next().await? {
            batches.push(detached(&batch)?);
        }
        let schema = decoded.schema().cloned().ok_or_else(|| Status::invalid_argument("a put without a schema"))?;
        let stored = NaiveTable { schema, batches: batches.into() };
        let outcome =
            json!({"table": name, "version": 1, "rows": stored.rows(), "bytes": 0, "parts": 1, "write_id": ""});
        self.tables.lock().insert(name, stored);
        let result = PutResult { app_metadata: outcome.to_string().into() };
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn do_get(&self, request: Request<Ticket>) -> NaiveStream<FlightData> {
        let asked = NaiveRequest::parse(&request.into_inner().ticket)?;
        let mut stored = self.table(&asked.table)?;
        if let Some(columns) = &asked.columns {
            stored = stored.select(columns)?;
        }
        if let Some((index, count)) = asked.part {
            stored = stored.part(index, count);
        }
        let compression = asked.compression.map(|_| CompressionType::LZ4_FRAME);
        let options = IpcWriteOptions::default().try_with_compression(compression);
        let options = options.map_err(|e| Status::internal(e.to_string()))?;
        let encoder = FlightDataEncoderBuilder::new().with_schema(stored.schema).with_options(options);
        let batches: Vec<RecordBatch> = stored.batches.to_vec();
        let messages = encoder.build(stream::iter(batches.into_iter().map(Ok)));
        Ok(Response::new(messages.map_err(Status::from).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let descriptor = request.into_inner();
        let name = NaiveRequest::of(&descriptor)?.table;
        let stored = self.table(&name)?;
        let mut info = FlightInfo::new()
            .try_with_schema(&stored.schema)
            .map_err(|e| Status::internal(e.to_string()))?
            .with_descriptor(descriptor)
            .with_total_records(stored.rows() as i64);
        for index in 0..ENDPOINTS {
            let ticket = Ticket::new(json!({"table": name, "part": [index, ENDPOINTS]}).to_string());
            info = info.with_endpoint(FlightEndpoint::new().with_ticket(ticket).with_location(&self.uri));
        }
        Ok(Response::new(info))
    }

    async fn do_action(&self, request: Request<Action>) -> NaiveStream<arrow_flight::Result> {
        let action = request.into_inner();
        if action.r#type != "drop_table" {
            return Err(Status::unimplemented(action.r#type));
        }
        self.tables.lock().remove(&NaiveRequest::parse(&action.body)?.table);
        let done = arrow_flight::Result { body: Bytes::from_static(b"{}") };
        Ok(Response::new(stream::iter([Ok(done)]).boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> NaiveStream<HandshakeResponse> {
        Err(Status::unimplemented("handshake"))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> NaiveStream<FlightInfo> {
        Err(Status::unimplemented("list_flights"))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("poll_flight_info"))
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(Status::unimplemented("get_schema"))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> NaiveStream<FlightData> {
        Err(Status::unimplemented("do_exchange"))
    }

    async fn list_actions(&self, _: Request<Empty>) -> NaiveStream<ActionType> {
        Err(Status::unimplemented("list_actions"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    fn stored() -> NaiveTable {
        let batch = |values: Vec<i64>| {
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values)) as arrow::array::ArrayRef)]).unwrap()
        };
        let batches = vec![batch(vec![0, 1, 2]), batch(vec![]), batch(vec![3, 4, 5, 6])];
        NaiveTable { schema: batches[0].schema(), batches: batches.into() }
    }

    fn values(stored: &NaiveTable) -> Vec<i64> {
        let column = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        stored.batches.iter().flat_map(column).collect()
    }

    #[test]
    fn parts_are_all_rows_in_order() {
        for count in 1..=9 {
            let parts: Vec<i64> = (0..count).flat_map(|index| values(&stored().part(index, count))).collect();
            assert_eq!(parts, [0, 1, 2, 3, 4, 5, 6], "{count} parts");
        }
    }

    #[test]
    fn request_is_a_name_or_json() {
        let asked = NaiveRequest::parse(br#"{"table": "t", "part": [1, 4]}"#).unwrap();
        assert_eq!((asked.table.as_str(), asked.part), ("t", Some((1, 4))));
        assert_eq!(NaiveRequest::parse(b"t").unwrap().table, "t");
        assert!(NaiveRequest::parse(b"{").is_err());
        let path = FlightDescriptor::new_path(vec!["a".into(), "b".into()]);
        assert_eq!(NaiveRequest::of(&path).unwrap().table, "a/b");
    }

    #[test]
    fn detached_batch_shares_no_buffer() {
        let batch = &stored().batches[2];
        let copy = detached(batch).unwrap();
        assert_eq!(&copy, batch);
        let buffer = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().as_ptr();
        assert_ne!(buffer(&copy), buffer(batch));
    }
}
