//! TLS between members and for clients, and the changes to it while a cluster serves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use tempfile::TempDir;
use tonic::Request;
use volley_client::{Client, FetchOptions};
use volley_common::net::{ConnectionPool, Connector};
use volley_common::options::Options;
use volley_common::tls::peers::PeerFiles;
use volley_common::tls::{ClientTls, PeerTls, PeerTlsMode};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{Command, DropTable, RemoveCoordinator};
use volley_common::wire::cluster::coordinator_client::CoordinatorClient;
use volley_common::wire::cluster::{ProposeRequest, ReadIndexRequest};
use volley_common::wire::raft::raft_client::RaftClient;
use volley_common::wire::raft::{AppendRequest, Identity, TransferRequest, VoteRequest};
use volley_common::{Code, Error};
use volley_tests::certificates::{TestAuthority, replace};
use volley_tests::text_rows::text_rows;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const COORDINATORS: usize = 3;
const NODES: usize = 3;
const ROWS: i64 = 20_000;
const LIMIT: Duration = Duration::from_secs(40);

/// Files of all members, and of a listener.
struct Certificates {
    folder: TempDir,
    ca: TestAuthority,
}

impl Certificates {
    fn new() -> Self {
        let (folder, ca) = (TempDir::with_prefix("volley-tls-").unwrap(), TestAuthority::new("members"));
        replace(&folder.path().join("ca.crt"), ca.pem());
        ca.issue_members(folder.path(), COORDINATORS, NODES);
        Certificates { folder, ca }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The flags of one member by its name; `{name}` for all.
    fn peer_flags(&self, name: &str) -> Vec<String> {
        let file = |file: &str| self.path().join(file).display().to_string();
        let flags = [
            ("--peer-ca", file("ca.crt")),
            ("--peer-cert", file(&format!("{name}.crt"))),
            ("--peer-key", file(&format!("{name}.key"))),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]).collect()
    }

    /// The flags of members whose clients use TLS too. The certificate is for any loopback address of a cluster by its name.
    fn all_flags(&self) -> Vec<String> {
        self.ca.issue(self.path(), "server", &["cluster.test"], &[]);
        let file = |file: &str| self.path().join(file).display().to_string();
        let own = [("--tls-cert", file("server.crt")), ("--tls-key", file("server.key"))];
        let own = own.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]);
        self.peer_flags("{name}").into_iter().chain(own).collect()
    }

    /// Dials as the member with this name.
    fn pool_of(&self, name: &str) -> ConnectionPool {
        let file = |file: String| self.path().join(file);
        let files = PeerFiles {
            ca: file("ca.crt".into()),
            cert: file(format!("{name}.crt")),
            key: file(format!("{name}.key")),
        };
        let own = Arc::new(PeerTls::load(PeerTlsMode::Require, &files, |_| Ok(())).unwrap());
        ConnectionPool::new().with_connector(Connector::to_members(Some(&own)))
    }

    fn client(&self) -> ClientTls {
        ClientTls {
            ca: Some(self.path().join("ca.crt")),
            server_name: Some("cluster.test".into()),
            ..ClientTls::default()
        }
    }
}

fn options(flags: &[String]) -> ClusterOptions {
    ClusterOptions {
        coordinators: COORDINATORS,
        nodes: NODES,
        coordinator_flags: flags.to_vec(),
        node_flags: flags.to_vec(),
        ..ClusterOptions::default()
    }
}

fn keyed() -> Options {
    Options { shards: Some(4), shard_by: Some(vec!["id".into()]), replicas: Some(2), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_put_and_fetched_by_tls_at_every_member() {
    let certificates = Certificates::new();
    let options = ClusterOptions { client_tls: certificates.client(), ..options(&certificates.all_flags()) };
    let cluster = TestCluster::start_with(options).await;
    for (at, member) in cluster.coordinators.iter().chain(&cluster.nodes).enumerate() {
        let client = Client::connect_with(&member.uri(), certificates.client()).await.unwrap();
        let table = format!("t{at}");
        rows::put(&client, &table, &keyed(), 0..ROWS).await.unwrap();
        assert_eq!(rows::get_sorted(&client, &table).await.unwrap(), Vec::from_iter(0..ROWS), "{}", member.name);
        let info = client.info(&rows::name(&table), &Options::default()).await.unwrap();
        let uris = info.endpoint.iter().flat_map(|endpoint| &endpoint.location).map(|location| &location.uri);
        assert!(uris.clone().count() > 0 && uris.clone().all(|uri| uri.starts_with("grpc+tls://")), "{info:?}");
        let plaintext = async { Client::connect(&member.address).await?.status().await };
        let refused = plaintext.await.unwrap_err();
        assert!(refused.message.contains("requires TLS"), "{refused}");
    }
}

/// All values of a query's rows, as text.
async fn query(client: &Client, sql: &str) -> Vec<String> {
    let fetched = client.query(sql, FetchOptions::default()).await.unwrap();
    let batches: Vec<RecordBatch> = fetched.map_ok(|fetched| fetched.batch).try_collect().await.unwrap();
    text_rows(&batches).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn query_runs_on_all_nodes_by_tls() {
    let certificates = Certificates::new();
    let mut options = ClusterOptions { client_tls: certificates.client(), ..options(&certificates.all_flags()) };
    options.node_flags.extend(["--sql-distribute-bytes", "0", "--sql-partitions", "2"].map(String::from));
    let cluster = TestCluster::start_with(options).await;
    let client = Client::connect_with(&cluster.nodes[0].uri(), certificates.client()).await.unwrap();
    rows::put(&client, "t", &keyed(), 0..ROWS).await.unwrap();
    let join = "SELECT count(*) FROM t a JOIN t b ON a.id = b.id + 1";
    // A node whose engine still starts takes no part.
    wait_for(LIMIT, "all nodes take part", async || {
        let plan = query(&client, &format!("EXPLAIN {join}")).await.join("\n");
        plan.contains("t2 on node").then_some(())
    })
    .await;
    assert_eq!(query(&client, join).await, [(ROWS - 1).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_is_refused_at_peer_ports() {
    let certificates = Certificates::new();
    let mut cluster = TestCluster::start_with(options(&certificates.peer_flags("{name}"))).await;
    rows::put(&cluster.client().await, "t", &keyed(), 0..ROWS).await.unwrap();
    let peer = cluster.coordinators[0].address.replace(":8815", ":8825");
    let mut raft = RaftClient::new(ConnectionPool::new().channel(&peer).unwrap());
    let refused = Error::from(raft.vote(Request::new(Default::default())).await.unwrap_err());
    assert!(refused.code == Code::Unavailable && refused.message.contains("requires the TLS of members"), "{refused}");

    // A node with a certificate of another authority, and a coordinator with that of another coordinator.
    let stranger = TestAuthority::new("stranger");
    stranger.issue(certificates.path(), "stranger", &[], &["volley://node/stranger".into()]);
    let node = cluster.add_node();
    for flag in certificates.peer_flags("stranger").chunks(2) {
        node.set_flag(&flag[0], &flag[1]);
    }
    let reason = node.start_fails().await;
    assert!(reason.contains("no other member would accept it"), "{reason}");
    let mut coordinator = cluster.joining_coordinator(4, 3);
    coordinator.add_flags(certificates.peer_flags("coordinator1"));
    let reason = coordinator.start_fails().await;
    assert!(reason.contains("this member is volley://coordinator/4"), "{reason}");
    assert_eq!(rows::get_sorted(&cluster.client().await, "t").await.unwrap(), Vec::from_iter(0..ROWS));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_a_node_neither_votes_nor_proposes() {
    let certificates = Certificates::new();
    let mut cluster = TestCluster::start_with(options(&certificates.peer_flags("{name}"))).await;
    rows::put(&cluster.client().await, "t", &keyed(), 0..ROWS).await.unwrap();
    let propose = |op: Op| ProposeRequest { command: Some(Command { now_ms: 0, op: Some(op) }), coordinator: 1 };
    for member in &cluster.coordinators {
        let peer = member.address.replace(":8815", ":8825");
        let channel = certificates.pool_of("node1").channel(&peer).unwrap();
        let (mut raft, mut coordinator) = (RaftClient::new(channel.clone()), CoordinatorClient::new(channel));
        let drop_table = propose(Op::DropTable(DropTable { table: vec!["t".into()] }));
        let remove = propose(Op::RemoveCoordinator(RemoveCoordinator { id: 1 }));
        for refused in [
            raft.vote(VoteRequest::default()).await.unwrap_err(),
            raft.append(AppendRequest::default()).await.unwrap_err(),
            raft.identify(Identity::default()).await.unwrap_err(),
            raft.transfer(TransferRequest::default()).await.unwrap_err(),
            coordinator.propose(drop_table).await.unwrap_err(),
            coordinator.propose(remove).await.unwrap_err(),
            coordinator.read_index(ReadIndexRequest::default()).await.unwrap_err(),
        ] {
            let refused = Error::from(refused);
            let is_named =
                ["volley://node/node1", "only coordinators"].iter().all(|word| refused.message.contains(word));
            assert!(refused.code == Code::PermissionDenied && is_named, "{}: {refused}", member.name);
        }
        assert!(member.log().contains("a call of the peer port was refused"), "{}", member.log_tail());
    }
    assert_eq!(rows::get_sorted(&cluster.client().await, "t").await.unwrap(), Vec::from_iter(0..ROWS));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_configured_cluster_says_who_lacks_tls() {
    let certificates = Certificates::new();
    let mut cluster = TestCluster::start_with(options(&[])).await;
    let name = format!("node{}", NODES + 1);
    certificates.ca.issue(certificates.path(), &name, &[], &[format!("volley://node/{name}")]);
    let node = cluster.add_node();
    node.add_flags(certificates.peer_flags(&name));
    node.start();
    let said = async || {
        let is_node_told = cluster.nodes[NODES].log().contains("its port may have no TLS");
        let told = |log: String| log.contains("give this member --peer-ca, --peer-cert and --peer-key");
        (is_node_told && cluster.coordinators.iter().any(|one| told(one.log()))).then_some(())
    };
    wait_for(LIMIT, "the node and a coordinator say it", said).await;
    assert_eq!(cluster.nodes_alive().await, Some(NODES), "the node takes no part");
}

/// Puts and gets, one after the other, until it is told to stop.
struct PutGetLoad {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    repeated: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<(), Error>>,
}

impl PutGetLoad {
    /// A call that finds its member stopped is made again at the next address, as Volley's clients do, and counted; any other
    /// error ends the load, and so does the refusal of a member that has just started.
    fn start(addresses: Vec<String>) -> PutGetLoad {
        let (stop, done, repeated) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let task = tokio::spawn({
            let (stop, done, repeated) = (stop.clone(), done.clone(), repeated.clone());
            async move {
                let mut round = 0;
                while !stop.load(Ordering::SeqCst) {
                    round += 1;
                    retried(&addresses, &format!("load/{}", round % 8), round, &repeated).await?;
                    done.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }
        });
        PutGetLoad { stop, done, repeated, task }
    }

    /// Waits until calls that begin now are complete.
    async fn goes_on(&self) {
        let before = self.done.load(Ordering::SeqCst);
        let is_done = async || (self.done.load(Ordering::SeqCst) > before + 2 || self.task.is_finished()).then_some(());
        wait_for(LIMIT, "the load goes on", is_done).await;
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap().unwrap();
        self.done.load(Ordering::SeqCst)
    }
}

async fn retried(addresses: &[String], table: &str, round: usize, repeated: &AtomicU64) -> Result<(), Error> {
    let (began, write_id) = (Instant::now(), format!("round-{round}"));
    let mut attempt = round;
    loop {
        let address = &addresses[attempt % addresses.len()];
        let call = async {
            let client = Client::connect(address).await?;
            rows::put(&client, table, &Options { write_id: Some(write_id.clone()), ..keyed() }, 0..2_000).await?;
            let found = rows::get_sorted(&client, table).await?;
            assert_eq!(found, Vec::from_iter(0..2_000));
            Ok(())
        };
        match call.await {
            Err(error) if error.message.contains("does not know the users") => return Err(error),
            Err(Error { code: Code::Unavailable, .. }) if began.elapsed() < LIMIT => {
                attempt += 1;
                repeated.fetch_add(1, Ordering::SeqCst);
            }
            outcome => return outcome,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_change_to_tls_one_after_the_other_under_load() {
    let certificates = Certificates::new();
    let mut cluster = TestCluster::start_with(options(&[])).await;
    let load = PutGetLoad::start(cluster.coordinators.iter().map(|one| one.address.clone()).collect());
    for mode in ["accept", "prefer", "require"] {
        for id in cluster.member_ids() {
            let member = cluster.member(id);
            assert!(member.stop().await.success());
            if mode == "accept" {
                member.add_flags(certificates.peer_flags(&id.to_string()));
                member.add_flags(["--peer-tls".to_string(), mode.to_string()]);
            } else {
                member.set_flag("--peer-tls", mode);
            }
            member.restart().await;
            cluster.settle().await;
            load.goes_on().await;
        }
    }
    assert!(load.end().await > 0);
    let peer = cluster.nodes[0].address.replace(":8816", ":8826");
    let pool = ConnectionPool::new();
    let mut raft = RaftClient::new(pool.channel(&peer).unwrap());
    let refused = Error::from(raft.vote(Request::new(Default::default())).await.unwrap_err());
    assert!(refused.message.contains("requires the TLS of members"), "{refused}");
}

/// Waits until each member has loaded changed files this often.
async fn reloaded(cluster: &mut TestCluster, times: usize) {
    for id in cluster.member_ids() {
        let member = cluster.member(id);
        let is_done = async || (member.log().matches("certificates were reloaded").count() >= times).then_some(());
        wait_for(LIMIT, "the files are loaded", is_done).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_is_rotated_under_load_without_a_restart() {
    let certificates = Certificates::new();
    let mut cluster = TestCluster::start_with(options(&certificates.peer_flags("{name}"))).await;
    let load = PutGetLoad::start(cluster.coordinators.iter().map(|one| one.address.clone()).collect());
    let ca = certificates.path().join("ca.crt");
    let next = TestAuthority::new("next members");
    replace(&ca, &format!("{}{}", certificates.ca.pem(), next.pem()));
    reloaded(&mut cluster, 1).await;
    next.issue_members(certificates.path(), COORDINATORS, NODES);
    reloaded(&mut cluster, 2).await;
    replace(&ca, next.pem());
    reloaded(&mut cluster, 3).await;
    load.goes_on().await;
    assert_eq!(load.repeated.load(Ordering::SeqCst), 0, "no member has stopped yet");
    // All connections of these members are new.
    cluster.nodes[0].kill();
    cluster.nodes[0].restart().await;
    cluster.settle().await;
    load.goes_on().await;
    assert!(load.end().await > 0);

    // A bad file is reported, and the good one stays in use.
    replace(&certificates.path().join("node1.crt"), "nothing\n");
    let reported = async || {
        let failures = cluster.status().await?["tls_failures"].clone();
        let text = failures.as_array()?.first()?.as_str()?.to_string();
        (text.starts_with("node ") && text.contains("node1.crt: it has no certificate")).then_some(())
    };
    wait_for(LIMIT, "the bad file is in the status", reported).await;
    rows::put(&cluster.client().await, "t", &keyed(), 0..ROWS).await.unwrap();
}
