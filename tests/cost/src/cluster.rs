//! The cluster that cases run on: one coordinator and two nodes, one member at a time under valgrind.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use futures::TryStreamExt;
use volley_client::{MAX_MESSAGE, request};
use volley_common::TableName;
use volley_common::net::{ConnectionPool, MemberChannel};
use volley_common::options::Options;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, raw};

use crate::cases::{CostCase, CostMember, CostWork, DataPlacement};
use crate::profile::CostProfile;
use crate::tool::ValgrindTool;

/// A member under valgrind is slow: it must not count as unreachable, and nothing but the case should run meanwhile.
const COORDINATOR_CONFIG: &str = "heartbeat_ms = 60000\nnode_timeout_ms = 3600000\nrepair_delay_ms = 3600000\nrequest_timeout_ms = 60000\nno_web_page = true\n";
const NODE_CONFIG: &str = "scrub_days = 0.0\nrequest_timeout_ms = 60000\nno_web_page = true\n";
/// How long one case may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Table names that are tried until one has its rows on the wanted node.
const MAX_NAMES: usize = 16;

type FlightClient = FlightServiceClient<MemberChannel>;

/// The cluster, and the tables that the cases need.
pub struct CostCluster {
    tool: ValgrindTool,
    bytes: usize,
    servers: TestCluster,
    tables: BTreeMap<String, TableName>,
}

impl CostCluster {
    /// Starts the cluster, and fills tables of about `bytes` bytes for the cases that read.
    pub async fn start(tool: ValgrindTool, bytes: usize, cases: &[CostCase]) -> CostCluster {
        let options = ClusterOptions {
            coordinators: 1,
            nodes: 2,
            zones: 1,
            coordinator_config: COORDINATOR_CONFIG.into(),
            node_config: NODE_CONFIG.into(),
            folder_prefix: "volley-cost-".into(),
            ..ClusterOptions::default()
        };
        let mut cluster =
            CostCluster { tool, bytes, servers: TestCluster::start_with(options).await, tables: BTreeMap::new() };
        for case in cases {
            cluster.make_table(case).await;
        }
        cluster
    }

    async fn make_table(&mut self, case: &CostCase) {
        if self.tables.contains_key(&case.table()) {
            return;
        }
        let name = self.name_at(case).await;
        if case.reads() {
            let mut client = connect(self.process(CostMember::OtherNode));
            put(&mut client, &name, case, case.data.filling(self.bytes)).await;
        }
        self.tables.insert(case.table(), name);
    }

    /// Creates a table of one row whose only shard is where the case needs it. Tables on other nodes stay, because new tables
    /// go to nodes with fewer parts.
    async fn name_at(&mut self, case: &CostCase) -> TableName {
        let wanted = match case.home {
            DataPlacement::Node | DataPlacement::Both => self.process(CostMember::Node).uri(),
            DataPlacement::OtherNode => self.process(CostMember::OtherNode).uri(),
        };
        let client = self.process(CostMember::Coordinator).client().await;
        let mut writer = connect(self.process(CostMember::Coordinator));
        for number in 0..MAX_NAMES {
            let name: TableName = format!("{}-{number}", case.table()).parse().unwrap();
            put(&mut writer, &name, case, case.data.batches(1, 1)).await;
            let info = client.info(&name, &Options::default()).await.unwrap();
            if info.endpoint[0].location.iter().any(|location| location.uri == wanted) {
                return name;
            }
        }
        panic!("none of {MAX_NAMES} tables has its rows at {wanted}");
    }

    /// The profile of a member from its start to its exit while it runs the case, and the bytes that were moved. Without a case
    /// it is idle.
    pub async fn measure(&mut self, member: CostMember, case: Option<&CostCase>) -> (CostProfile, u64) {
        let output = self.servers.folder().join("profile");
        self.start_under(member, self.tool.runner(&output)).await;
        let bytes = match case {
            Some(case) => tokio::time::timeout(LIMIT, self.work(case)).await.expect("the case ends in time"),
            None => 0,
        };
        self.stop(member).await;
        let profile = self.tool.profile(&output).unwrap_or_else(|why| panic!("{why}\n{}", self.log_of(member)));
        std::fs::remove_file(&output).unwrap();
        (profile, bytes)
    }

    /// Runs `member` under the tool, and the others without it. They start one after another, because a member that waits for
    /// another repeats its requests, and a node that is ready counts as alive.
    async fn start_under(&mut self, member: CostMember, runner: Vec<String>) {
        self.stop(member).await;
        for each in [CostMember::Coordinator, CostMember::OtherNode, CostMember::Node] {
            let process = self.process(each);
            if !process.is_running() {
                process.run_under(if each == member { runner.clone() } else { Vec::new() });
                process.restart().await;
            }
        }
    }

    /// Stops a member if it runs. A coordinator waits for the sessions of its nodes, so they stop before it.
    async fn stop(&mut self, member: CostMember) {
        let all = [CostMember::OtherNode, CostMember::Node, CostMember::Coordinator];
        let before = if member == CostMember::Coordinator { &all[..] } else { &[member] };
        for member in before {
            let process = self.process(*member);
            if process.is_running() {
                let status = process.stop().await;
                assert!(status.success(), "{} ended with {status}:\n{}", process.name, process.log_tail());
            }
        }
    }

    fn log_of(&mut self, member: CostMember) -> String {
        self.process(member).log_tail()
    }

    fn process(&mut self, member: CostMember) -> &mut ServerProcess {
        match member {
            CostMember::Coordinator => &mut self.servers.coordinators[0],
            CostMember::Node => &mut self.servers.nodes[1],
            CostMember::OtherNode => &mut self.servers.nodes[0],
        }
    }

    /// Runs the case: the bytes that were moved.
    async fn work(&mut self, case: &CostCase) -> u64 {
        let name = self.tables[&case.table()].clone();
        let mut client = connect(self.process(case.asked));
        let mut bytes = 0;
        match case.work {
            CostWork::Put { times, rows } => {
                let batches = case.data.batches(times * self.bytes, rows);
                bytes += put(&mut client, &name, case, batches).await;
            }
            CostWork::Get { times, columns } => {
                let ticket = self.ticket(case, &name, columns).await;
                for _ in 0..times {
                    bytes += get(&mut client, ticket.clone()).await;
                }
            }
        }
        bytes
    }

    /// A ticket from a FlightInfo for a client of a node; the table's name for a client that knows only a coordinator.
    async fn ticket(&mut self, case: &CostCase, name: &TableName, columns: &[&str]) -> Ticket {
        if case.asked == CostMember::Coordinator {
            return Ticket { ticket: name.to_string().into() };
        }
        let columns = (!columns.is_empty()).then(|| columns.iter().map(ToString::to_string).collect());
        let options = Options { columns, max_endpoints: Some(1), ..Options::default() };
        let client = self.process(CostMember::Coordinator).client().await;
        let info = client.info(name, &options).await.unwrap();
        info.endpoint[0].ticket.clone().unwrap()
    }
}

/// A client with the DATA frame size of clients in C++, so that frames cost a member the same.
fn connect(member: &ServerProcess) -> FlightClient {
    let channel = ConnectionPool::new().channel(&member.address).unwrap();
    FlightClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

/// Puts batches as one write: the bytes of their bodies.
async fn put(client: &mut FlightClient, name: &TableName, case: &CostCase, batches: Vec<RecordBatch>) -> u64 {
    let replicas = Some(if case.home == DataPlacement::Both { 2 } else { 1 });
    let options = Options { shards: Some(1), replicas, ..Options::default() };
    let mut messages = raw::messages("", &case.data.schema(), batches);
    messages[0].flight_descriptor = Some(request::read_descriptor(name, &options));
    let bytes = messages.iter().map(body).sum();
    let answers = client.do_put(futures::stream::iter(messages)).await.unwrap().into_inner();
    answers.try_for_each(|_| async { Ok(()) }).await.unwrap();
    bytes
}

/// Reads a stream to its end: the bytes of its bodies.
async fn get(client: &mut FlightClient, ticket: Ticket) -> u64 {
    let stream = client.do_get(ticket).await.unwrap().into_inner();
    stream.map_ok(|message| body(&message)).try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await.unwrap()
}

fn body(message: &FlightData) -> u64 {
    message.data_body.len() as u64
}
