//! The cluster in which cases are measured: one coordinator and two nodes, one member at a time under valgrind.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use futures::TryStreamExt;
use tempfile::TempDir;
use tonic::transport::Channel;
use volley_common::TableName;
use volley_common::client::{MAX_MESSAGE, request};
use volley_common::net::ConnectionPool;
use volley_common::options::Options;
use volley_tests::process::Process;
use volley_tests::{Cluster, Shape, raw};

use crate::cases::{Case, Home, Member, Work};
use crate::profile::Profile;
use crate::tool::Tool;

/// A member under valgrind is slow: nobody may take it for dead, and nothing but the case should happen meanwhile.
const COORDINATOR: &str = "heartbeat_ms = 60000\nsilence_ms = 3600000\ngrace_ms = 3600000\ndeadline_ms = 60000\n";
const NODE: &str = "scrub_days = 0.0\ndeadline_ms = 60000\n";
/// How long one case may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Names that are tried until one has its home where it is wanted.
const NAMES: usize = 16;

type FlightClient = FlightServiceClient<Channel>;

/// The cluster, and the tables that the cases need.
pub struct Site {
    tool: Tool,
    bytes: usize,
    cluster: Cluster,
    tables: BTreeMap<String, TableName>,
    folder: TempDir,
}

impl Site {
    /// Starts it, and fills tables of about `bytes` bytes for the cases that read.
    pub async fn start(tool: Tool, bytes: usize, cases: &[Case]) -> Site {
        let folder = TempDir::with_prefix("volley-cost-").unwrap();
        let config = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            vec!["--config".to_string(), path.display().to_string()]
        };
        let shape = Shape {
            coordinators: 1,
            nodes: 2,
            zones: 1,
            coordinator_flags: config("coordinator.toml", COORDINATOR),
            node_flags: config("node.toml", NODE),
            ..Shape::default()
        };
        let mut site = Site { tool, bytes, cluster: Cluster::of(shape).await, tables: BTreeMap::new(), folder };
        for case in cases {
            site.make_table(case).await;
        }
        site
    }

    async fn make_table(&mut self, case: &Case) {
        if self.tables.contains_key(&case.table()) {
            return;
        }
        let name = self.name_at(case).await;
        if case.reads() {
            let mut client = connect(self.process(Member::OtherNode));
            put(&mut client, &name, case, case.data.filling(self.bytes)).await;
        }
        self.tables.insert(case.table(), name);
    }

    /// Makes a table of one row whose only shard is where the case wants it. Those that are elsewhere stay: new tables go
    /// where fewer are.
    async fn name_at(&mut self, case: &Case) -> TableName {
        let wanted = match case.home {
            Home::Node | Home::Both => self.process(Member::Node).uri(),
            Home::OtherNode => self.process(Member::OtherNode).uri(),
        };
        let client = self.process(Member::Coordinator).client().await;
        let mut writer = connect(self.process(Member::Coordinator));
        for number in 0..NAMES {
            let name: TableName = format!("{}-{number}", case.table()).parse().unwrap();
            put(&mut writer, &name, case, case.data.batches(1, 1)).await;
            let info = client.info(&name, &Options::default()).await.unwrap();
            if info.endpoint[0].location.iter().any(|location| location.uri == wanted) {
                return name;
            }
        }
        panic!("none of {NAMES} tables has its rows at {wanted}");
    }

    /// What the case's member does from its start to its end, with the bytes that were moved; without a case, what it
    /// does when nobody asks for anything.
    pub async fn measure(&mut self, member: Member, case: Option<&Case>) -> (Profile, u64) {
        let output = self.folder.path().join("profile");
        self.start_under(member, self.tool.runner(&output)).await;
        let bytes = match case {
            Some(case) => tokio::time::timeout(LIMIT, self.work(case)).await.expect("a case comes to its end in time"),
            None => 0,
        };
        self.stop(member).await;
        let profile = self.tool.profile(&output).unwrap_or_else(|why| panic!("{why}\n{}", self.log_of(member)));
        std::fs::remove_file(&output).unwrap();
        (profile, bytes)
    }

    /// Runs `member` under the tool, and the others by themselves. One after another: a member that had to wait for
    /// another would ask again and again, and a node that is ready is known as alive.
    async fn start_under(&mut self, member: Member, runner: Vec<String>) {
        self.stop(member).await;
        for each in [Member::Coordinator, Member::OtherNode, Member::Node] {
            let process = self.process(each);
            if !process.is_alive() {
                process.set_runner(if each == member { runner.clone() } else { Vec::new() });
                process.restart().await;
            }
        }
    }

    /// Stops a member, if it runs. A coordinator waits for the sessions of its nodes: they are stopped before it.
    async fn stop(&mut self, member: Member) {
        let all = [Member::OtherNode, Member::Node, Member::Coordinator];
        let before = if member == Member::Coordinator { &all[..] } else { &[member] };
        for member in before {
            let process = self.process(*member);
            if process.is_alive() {
                let status = process.stop().await;
                assert!(status.success(), "{} ended with {status}:\n{}", process.name, process.log_tail());
            }
        }
    }

    fn log_of(&mut self, member: Member) -> String {
        self.process(member).log_tail()
    }

    fn process(&mut self, member: Member) -> &mut Process {
        match member {
            Member::Coordinator => &mut self.cluster.coordinators[0],
            Member::Node => &mut self.cluster.nodes[1],
            Member::OtherNode => &mut self.cluster.nodes[0],
        }
    }

    /// Does what the case says; the bytes that were moved.
    async fn work(&mut self, case: &Case) -> u64 {
        let name = self.tables[&case.table()].clone();
        let mut client = connect(self.process(case.asked));
        let mut bytes = 0;
        match case.work {
            Work::Put { times, rows } => {
                let batches = case.data.batches(times * self.bytes, rows);
                bytes += put(&mut client, &name, case, batches).await;
            }
            Work::Get { times, columns } => {
                let ticket = self.ticket(case, &name, columns).await;
                for _ in 0..times {
                    bytes += get(&mut client, ticket.clone()).await;
                }
            }
        }
        bytes
    }

    /// From a FlightInfo, as a client of a node has it; a client that knows only a coordinator has the table's name.
    async fn ticket(&mut self, case: &Case, name: &TableName, columns: &[&str]) -> Ticket {
        if case.asked == Member::Coordinator {
            return Ticket { ticket: name.to_string().into() };
        }
        let columns = (!columns.is_empty()).then(|| columns.iter().map(ToString::to_string).collect());
        let options = Options { columns, max_endpoints: Some(1), ..Options::default() };
        let client = self.process(Member::Coordinator).client().await;
        let info = client.info(name, &options).await.unwrap();
        info.endpoint[0].ticket.clone().unwrap()
    }
}

/// A client that takes DATA frames as large as those of clients in C++ do: each costs a member the same.
fn connect(member: &Process) -> FlightClient {
    let channel = ConnectionPool::new().channel(&member.address).unwrap();
    FlightClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

/// Puts batches as one write; the bytes of their bodies.
async fn put(client: &mut FlightClient, name: &TableName, case: &Case, batches: Vec<RecordBatch>) -> u64 {
    let replicas = Some(if case.home == Home::Both { 2 } else { 1 });
    let options = Options { shards: Some(1), replicas, ..Options::default() };
    let mut messages = raw::messages("", &case.data.schema(), batches);
    messages[0].flight_descriptor = Some(request::read_descriptor(name, &options));
    let bytes = messages.iter().map(body).sum();
    let answers = client.do_put(futures::stream::iter(messages)).await.unwrap().into_inner();
    answers.try_for_each(|_| async { Ok(()) }).await.unwrap();
    bytes
}

/// Reads a stream to its end; the bytes of its bodies.
async fn get(client: &mut FlightClient, ticket: Ticket) -> u64 {
    let stream = client.do_get(ticket).await.unwrap().into_inner();
    stream.map_ok(|message| body(&message)).try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await.unwrap()
}

fn body(message: &FlightData) -> u64 {
    message.data_body.len() as u64
}
