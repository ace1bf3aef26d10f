//! Serves one generated part, to measure gets: prints `ADDRESS TICKET(hex)`, then serves until it is killed.
//!
//! `cargo run -p volley-node --example get_speed -- FOLDER [MiB] [COLUMNS] [ROWS A MESSAGE]`

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use tokio_util::sync::CancellationToken;
use volley_common::identity::Access;
use volley_common::ipc::schema::schema_message;
use volley_common::server::serve::{bind, serve};
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Result, clock};
use volley_node::config::NodeConfig;
use volley_node::context::{NodeAddresses, NodeContext, NodeSecurity};
use volley_node::get::serve_get;
use volley_node::storage::{PartSpec, PartStore, SealedPart};

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "get-speed-data".into());
    let mut number = |default: usize| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (mib, columns, rows) = (number(1024), number(64), number(2048));
    let store = PartStore::open(Path::new(&dir))?;
    let schema = Arc::new(Schema::new(
        (0..columns).map(|at| Field::new(format!("c{at}"), DataType::Float64, true)).collect::<Vec<_>>(),
    ));
    let part = write(&store, schema.clone(), mib << 20, rows)?;
    let listener = bind("127.0.0.1:0").await?;
    let addr = listener.local_addr().map_or_else(|e| e.to_string(), |addr| addr.to_string());
    let key = TicketKey::new(&[1; 32]);
    let ticket = key.sign(&Ticket {
        expires_ms: clock::now_ms() + 3_600_000,
        table: vec!["speed".into()],
        parts: vec![TicketPart { id: Some(part.id.into()), ..TicketPart::default() }],
        schema: schema_message(&schema)?,
        ..Ticket::default()
    });
    let hex: String = ticket.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{addr} {hex}");
    let addresses =
        NodeAddresses { flight_uri: format!("grpc+tcp://{addr}"), peer_addr: addr, ..NodeAddresses::default() };
    let context =
        NodeContext::new(NodeConfig::default(), store, addresses, NodeSecurity::open(), CancellationToken::new());
    context.cluster.ticket_key.store(Some(Arc::new(key)));
    let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Access::open());
        let context = context.get.clone();
        async move { Ok::<_, Infallible>(serve_get(context, request).await) }
    });
    serve(listener, service, CancellationToken::new(), volley_common::server::serve::ServerLimits::default()).await;
    Ok(())
}

fn write(store: &PartStore, schema: Arc<Schema>, bytes: usize, rows: usize) -> Result<SealedPart> {
    let columns = schema.fields().len();
    let column: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64)));
    let batch = RecordBatch::try_new(schema.clone(), vec![column; columns])
        .map_err(|e| volley_common::Error::internal(e.to_string()))?;
    let mut writer = store.create(PartSpec {
        table: "speed".parse()?,
        shard: 0,
        write: "speed".into(),
        seq: 0,
        schema,
        compression: Default::default(),
    })?;
    for _ in 0..(bytes / (rows * columns * 8)).max(1) {
        writer.write(&batch)?;
    }
    writer.seal()
}
