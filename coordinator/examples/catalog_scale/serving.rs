//! The stage of a coordinator that serves: FlightInfos, small appends, heartbeats of nodes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use volley_common::grpc::PREFIX;
use volley_common::identity::Access;
use volley_common::net::ConnectionPool;
use volley_common::options::{Options, TableRequest};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{self as wire, DescriptorKind, WriteMode};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{Heartbeat, NodeReport};
use volley_common::{NodeId, TableName, clock};
use volley_coordinator::CoordinatorConfig;
use volley_coordinator::client_listener::{ClientListener, ListenerTable, Locations};
use volley_coordinator::flight::flight_info;
use volley_coordinator::membership::NodeMembership;
use volley_coordinator::membership::session::SessionState;
use volley_coordinator::raft::Handle;
use volley_coordinator::scheduler::reconcile::CatalogHistory;
use volley_coordinator::service::read::ReadService;

use crate::figures::{FigureList, ScaleFigure, percentile};
use crate::model::{BOOT, ScaleModel};
use crate::storage::{begin, commit, start};

/// The goal for a FlightInfo, seconds.
const FLIGHT_INFO_GOAL: f64 = 0.010;
/// Tables whose FlightInfo is requested once, and requests for a few of them afterwards.
const FLIGHT_INFOS: u64 = 1000;
/// Tables that are requested again and again.
const BUSY_TABLES: u64 = 8;
/// Clients that append at once, and the appends of each.
const CLIENTS: u64 = 16;
const APPENDS: u64 = 25;
/// Sessions with nodes, and the heartbeats of each.
const SESSIONS: u64 = 64;
const HEARTBEATS: u64 = 2000;

/// Starts the coordinator that was filled, and measures what it serves.
pub async fn serve(model: &ScaleModel, dir: &Path) -> Vec<ScaleFigure> {
    let mut figures = FigureList::new("serve");
    let raft = start(model, dir).await;
    flight_infos(model, &raft, &mut figures).await;
    appends(model, &raft, &mut figures).await;
    heartbeats(model, &raft, &mut figures).await;
    unchanged_expiry(&raft, &mut figures).await;
    raft.shutdown().await;
    figures.into_figures()
}

/// Requests FlightInfos from the service of reads.
struct FlightInfoProbe<'a> {
    model: &'a ScaleModel,
    service: ReadService,
    listener: ClientListener,
}

impl FlightInfoProbe<'_> {
    /// The time of one FlightInfo, and its length.
    async fn get(&self, table: u64) -> (Duration, u64) {
        let name = TableName::from_components(&self.model.table_name(table)).unwrap();
        let request = TableRequest { name, kind: DescriptorKind::Path, options: Options::default() };
        let began = Instant::now();
        let plan = self.service.plan_flight_info(&Access::open(), &request, None, &self.listener).await.unwrap();
        let length = flight_info::encode(b"", &plan, PREFIX).len() - PREFIX;
        (began.elapsed(), length as u64)
    }
}

async fn flight_infos(model: &ScaleModel, raft: &Handle, figures: &mut FigureList) {
    let listener = ClientListener {
        name: "".into(),
        uri: "grpc+tcp://coordinator:8815".into(),
        is_advertised: true,
        locations: Locations::Direct,
        client_tls: false,
    };
    let listeners = Arc::new(ListenerTable::new(vec![listener.clone()]));
    let service = ReadService::new(raft.clone(), listeners, ConnectionPool::new(), &CoordinatorConfig::default());
    let probe = FlightInfoProbe { model, service, listener };
    let (mut new, mut known, mut longest) = (Vec::new(), Vec::new(), 0);
    for table in 0..model.tables.min(FLIGHT_INFOS) {
        let (took, length) = probe.get(table).await;
        new.push(took);
        longest = longest.max(length);
    }
    for call in 0..FLIGHT_INFOS {
        let (took, _) = probe.get(call % model.tables.min(BUSY_TABLES)).await;
        known.push(took);
    }
    let parts = model.parts_per_table;
    figures.bytes(format!("FlightInfo of {parts} parts"), longest);
    figures.seconds("the first FlightInfo of a table, median", percentile(&new, 50));
    figures.seconds("the first FlightInfo of a table, p99", percentile(&new, 99)).at_most(FLIGHT_INFO_GOAL);
    figures.seconds("further FlightInfos of a table, median", percentile(&known, 50));
    figures.seconds("further FlightInfos of a table, p99", percentile(&known, 99)).at_most(FLIGHT_INFO_GOAL);
}

/// Appends one part to each of many tables.
async fn appends(model: &ScaleModel, raft: &Handle, figures: &mut FigureList) {
    let client = |client: u64| async move {
        let mut random = StdRng::seed_from_u64(model.seed.wrapping_add(client + 1));
        let (mut begins, mut commits) = (Vec::new(), Vec::new());
        for append in 0..APPENDS {
            let (table, write) = ((client * APPENDS + append) % model.tables, format!("append-{client}-{append}"));
            let name = TableName::from_components(&model.table_name(table)).unwrap();
            let placement = raft.view().table_named(&name).unwrap().placement.clone();
            let part = model.part(&mut random, append, &placement);
            let began = Instant::now();
            begin(model, raft, &write, table, WriteMode::Append, placement).await;
            begins.push(began.elapsed());
            let began = Instant::now();
            commit(raft, write, vec![part]).await;
            commits.push(began.elapsed());
        }
        (begins, commits)
    };
    let began = Instant::now();
    let (begins, commits): (Vec<_>, Vec<_>) = join_all((0..CLIENTS).map(client)).await.into_iter().unzip();
    figures.per_second(format!("appends of one part by {CLIENTS} clients"), CLIENTS * APPENDS, began.elapsed());
    let (begins, commits) = (begins.concat(), commits.concat());
    figures.seconds("begin of an append, median", percentile(&begins, 50));
    figures.seconds("begin of an append, p99", percentile(&begins, 99));
    figures.seconds("commit of an append, median", percentile(&commits, 50));
    figures.seconds("commit of an append, p99", percentile(&commits, 99));
}

/// Opens sessions of nodes, and handles their heartbeats.
async fn heartbeats(model: &ScaleModel, raft: &Handle, figures: &mut FigureList) {
    let config = CoordinatorConfig::default();
    let interval_ms = config.heartbeat_ms;
    let membership = NodeMembership::new(Arc::new(config), raft.clone(), Arc::default(), CancellationToken::new());
    let (mut sessions, mut opened, mut queues) = (Vec::new(), Vec::new(), Vec::new());
    let (mut welcome_bytes, mut members_bytes) = (0, 0);
    for node in 1..=model.nodes.min(SESSIONS) {
        let (orders, mut queue) = mpsc::channel(16);
        let began = Instant::now();
        let close = CancellationToken::new();
        let session = membership.open_session(NodeId(node), BOOT, orders, close, CatalogHistory::Complete).unwrap();
        opened.push(began.elapsed());
        let order = queue.recv().await.unwrap().unwrap();
        welcome_bytes = order.encoded_len() as u64;
        if let Some(What::Welcome(welcome)) = &order.what {
            members_bytes = welcome.members.as_ref().map_or(0, Message::encoded_len) as u64;
        }
        queues.push(queue);
        sessions.push(SessionState::new(NodeId(node), session, BOOT));
    }
    let count = sessions.len() as u64;
    let began = Instant::now();
    let serving = sessions.into_iter().map(|session| {
        let (membership, reports) = (membership.clone(), (0..HEARTBEATS).map(|_| Ok::<_, Status>(heartbeat())));
        tokio::spawn(async move { membership.serve_session(session, stream::iter(reports)).await })
    });
    for ended in join_all(serving.collect::<Vec<_>>()).await {
        ended.unwrap();
    }
    let needed = model.nodes as f64 * 1000.0 / interval_ms as f64;
    figures.per_second("heartbeats handled", count * HEARTBEATS, began.elapsed()).at_least(needed);
    figures.seconds("opening a session, median", percentile(&opened, 50));
    figures.bytes("welcome of a session", welcome_bytes);
    figures.bytes("welcomes of all nodes, after a change of the leader", welcome_bytes * model.nodes);
    figures.bytes("orders to all nodes, after a change of one node", members_bytes * model.nodes);
}

fn heartbeat() -> NodeReport {
    let heartbeat = Heartbeat { parts: 1, bytes_free: 1 << 40, now_ms: clock::now_ms(), ..Heartbeat::default() };
    NodeReport { report: Some(Report::Heartbeat(heartbeat)) }
}

/// The leader's check of every second, and an `Expire` that changes nothing.
async fn unchanged_expiry(raft: &Handle, figures: &mut FigureList) {
    let limits = wire::Expire { write_id_retention_ms: u64::MAX, max_finished_writes: 0, max_finished_bytes: 0 };
    let began = Instant::now();
    raft.view().needs_expiry(raft.now_ms(), &limits);
    figures.seconds("check whether anything expires", began.elapsed());
    let began = Instant::now();
    raft.propose(Op::Expire(limits)).await.unwrap();
    figures.seconds("an `Expire` that changes nothing", began.elapsed());
}
