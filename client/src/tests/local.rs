//! Reads by files from a socket on this machine, and by the wire when that fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use arrow_ipc::writer::FileWriter;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use volley_common::local_read::frames::{receive_exact, receive_frame, send_frame};
use volley_common::local_read::machine::machine_id;
use volley_common::local_read::socket_hints::{LOCAL_KEY, to_json};
use volley_common::local_read::{MAX_REQUEST, PREFACE};
use volley_common::wire::catalog::LocalSocket;
use volley_common::wire::cluster::{LocalHello, LocalPart, LocalReadReply, LocalReadRequest};

use super::*;

const SOCKET_ID: u64 = 7;
/// Rows of each part of an endpoint, and parts of each reply.
const PART_ROWS: i64 = 10;
const PARTS_OF_REPLY: u32 = 2;

/// What a socket answers; `None`: nothing, for ever.
type Answer = fn(&LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)>;

/// A socket that serves as a node does.
struct FakeSocket {
    folder: TempDir,
    socket: LocalSocket,
    requests: Arc<Mutex<Vec<LocalReadRequest>>>,
}

impl FakeSocket {
    fn start(answer: Answer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let requests = Arc::<Mutex<Vec<LocalReadRequest>>>::default();
        tokio::spawn(accept(listener, answer, requests.clone()));
        let uid = folder.path().metadata().unwrap().uid();
        let (machine, path) = (machine_id().unwrap().to_string(), path.display().to_string());
        FakeSocket { folder, socket: LocalSocket { machine, path, uid, id: SOCKET_ID }, requests }
    }

    /// A FlightInfo of these endpoints at a member, which offers the socket.
    fn info(&self, member: &RunningFake, ranges: &[(i64, i64)]) -> FlightInfo {
        offering(member, ranges, &self.socket)
    }
}

fn offering(member: &RunningFake, ranges: &[(i64, i64)], socket: &LocalSocket) -> FlightInfo {
    let uri = member.uri();
    let sockets = to_json([(uri.as_str(), socket)].into_iter());
    let app_metadata = json!({ "table": "t", "version": 1, LOCAL_KEY: sockets }).to_string().into();
    FlightInfo { app_metadata, ..info(ranges, &[member.uri()], true) }
}

async fn accept(listener: UnixListener, answer: Answer, requests: Arc<Mutex<Vec<LocalReadRequest>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, answer, requests.clone()));
    }
}

async fn serve(stream: UnixStream, answer: Answer, requests: Arc<Mutex<Vec<LocalReadRequest>>>) {
    let mut preface = [0; PREFACE.len()];
    // A client that finds another user here leaves at once.
    if !receive_exact(&stream, &mut preface).await.unwrap() {
        return;
    }
    assert_eq!(preface, PREFACE);
    send_frame(&stream, &LocalHello { id: SOCKET_ID }, &[]).await.unwrap();
    while let Ok(Some((request, _))) = receive_frame::<LocalReadRequest>(&stream, MAX_REQUEST).await {
        let answered = answer(&request);
        requests.lock().push(request);
        let Some((reply, files)) = answered else { return std::future::pending().await };
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send_frame(&stream, &reply, &files).await.unwrap();
    }
}

fn part(range: std::ops::Range<i64>) -> (LocalPart, OwnedFd) {
    let mut writer = FileWriter::try_new(Vec::new(), &schema()).unwrap();
    for at in range {
        writer.write(&numbers(at..at + 1)).unwrap();
    }
    let bytes = writer.into_inner().unwrap();
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    (LocalPart { bytes: bytes.len() as u64, skip_batches: 0 }, file.into())
}

/// The numbers of the ticket `FROM TO`, as parts of [`PART_ROWS`] rows.
fn files(request: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
    let ticket = String::from_utf8(request.ticket.to_vec()).unwrap();
    let bounds: Vec<i64> = ticket.split(' ').map(|number| number.parse().unwrap()).collect();
    let ticket_parts = ((bounds[1] - bounds[0]) / PART_ROWS) as u32;
    let wanted = request.first_part..ticket_parts.min(request.first_part + PARTS_OF_REPLY);
    let first = |at: u32| bounds[0] + i64::from(at) * PART_ROWS;
    let (parts, files) = wanted.map(|at| part(first(at)..first(at) + PART_ROWS)).unzip();
    Some((LocalReadReply { parts, ticket_parts, ..LocalReadReply::default() }, files))
}

fn refusal(reason: &str) -> (LocalReadReply, Vec<OwnedFd>) {
    let (code, message) = (Code::NotFound as u32, "it is elsewhere".into());
    (LocalReadReply { code, message, reason: reason.into(), ..LocalReadReply::default() }, Vec::new())
}

async fn start() -> (RunningFake, Client) {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    (member, client)
}

fn gets(member: &RunningFake) -> usize {
    member.gets.load(Ordering::SeqCst)
}

fn fallbacks<const N: usize>(counts: [(&'static str, u64); N]) -> BTreeMap<&'static str, u64> {
    BTreeMap::from(counts)
}

#[tokio::test]
async fn endpoints_are_read_by_files_in_order() {
    let (member, client) = start().await;
    let socket = FakeSocket::start(files);
    let info = socket.info(&member, &[(0, 50), (50, 80), (80, 80)]);
    assert_eq!(values(&client, info, 2).await.unwrap(), (0..80).collect::<Vec<_>>());
    assert_eq!(gets(&member), 0);
    let counts = client.clone().local_reads();
    assert_eq!((counts.endpoints, counts.rows, counts.fallbacks), (3, 80, fallbacks([])));
    let requests = socket.requests.lock();
    assert!(requests.iter().all(|request| !request.request_id.is_empty() && request.authorization.is_empty()));
    assert_eq!(requests.len(), 3 + 2 + 1);
}

#[tokio::test]
async fn limit_and_skipped_batches_hold_for_files() {
    fn cut(request: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        let (mut reply, files) = files(request)?;
        reply.limit = Some(22);
        if request.first_part == 0 {
            reply.parts[0].skip_batches = 3;
        }
        Some((reply, files))
    }
    let (member, client) = start().await;
    let socket = FakeSocket::start(cut);
    let mut info = socket.info(&member, &[(0, 50)]);
    info.total_records = 22;
    assert_eq!(values(&client, info, 1).await.unwrap(), (3..25).collect::<Vec<_>>());
    assert_eq!((gets(&member), client.local_reads().rows), (0, 22));
}

#[tokio::test]
async fn read_continues_by_the_wire_at_the_next_row() {
    fn half(request: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        if request.first_part == 0 { files(request) } else { Some(refusal("absent")) }
    }
    let (member, client) = start().await;
    let socket = FakeSocket::start(half);
    let info = socket.info(&member, &[(0, 50)]);
    assert_eq!(values(&client, info, 1).await.unwrap(), (0..50).collect::<Vec<_>>());
    let counts = client.local_reads();
    assert_eq!((gets(&member), counts.endpoints, counts.rows), (1, 0, 20));
    assert_eq!(counts.fallbacks, fallbacks([("absent", 1)]));
}

#[tokio::test]
async fn wrong_replies_are_read_by_the_wire() {
    fn without_files(request: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        Some((files(request)?.0, Vec::new()))
    }
    fn without_parts(_: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        Some((LocalReadReply { ticket_parts: 1, ..LocalReadReply::default() }, Vec::new()))
    }
    fn of_other_length(request: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        let (mut reply, files) = files(request)?;
        reply.parts[0].bytes += 1;
        Some((reply, files))
    }
    fn of_no_column(request: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        let (mut reply, files) = files(request)?;
        reply.columns = Some(volley_common::wire::cluster::Columns { index: Vec::new() });
        Some((reply, files))
    }
    fn made_up(_: &LocalReadRequest) -> Option<(LocalReadReply, Vec<OwnedFd>)> {
        Some(refusal("made up"))
    }
    let cases: [(Answer, &'static str); 5] = [
        (without_files, "descriptors"),
        (without_parts, "protocol"),
        (of_other_length, "damaged"),
        (of_no_column, "schema"),
        (made_up, "protocol"),
    ];
    for (answer, reason) in cases {
        let (member, client) = start().await;
        let socket = FakeSocket::start(answer);
        let info = socket.info(&member, &[(0, 30)]);
        assert_eq!(values(&client, info, 1).await.unwrap(), (0..30).collect::<Vec<_>>(), "{reason}");
        assert_eq!(client.local_reads().fallbacks, fallbacks([(reason, 1)]));
        assert_eq!(gets(&member), 1);
    }
}

#[tokio::test]
async fn hung_node_is_left_after_a_second_and_avoided() {
    let (member, client) = start().await;
    let socket = FakeSocket::start(|_| None);
    let info = socket.info(&member, &[(0, 30), (30, 60)]);
    assert_eq!(values(&client, info, 1).await.unwrap(), (0..60).collect::<Vec<_>>());
    assert_eq!(client.local_reads().fallbacks, fallbacks([("timeout", 1)]));
    assert_eq!((gets(&member), socket.requests.lock().len()), (2, 1));
}

#[tokio::test]
async fn socket_of_another_process_gets_no_request() {
    let socket = FakeSocket::start(files);
    for (offered, reason) in [
        (LocalSocket { id: SOCKET_ID + 1, ..socket.socket.clone() }, "other_node"),
        (LocalSocket { uid: socket.socket.uid + 1, ..socket.socket.clone() }, "owner"),
        (
            LocalSocket { path: socket.folder.path().join("none").display().to_string(), ..socket.socket.clone() },
            "unreachable",
        ),
    ] {
        let (member, client) = start().await;
        let info = offering(&member, &[(0, 30)], &offered);
        assert_eq!(values(&client, info, 1).await.unwrap(), (0..30).collect::<Vec<_>>());
        assert_eq!(client.local_reads().fallbacks, fallbacks([(reason, 1)]));
    }
    assert!(socket.requests.lock().is_empty());
}

#[tokio::test]
async fn other_machines_and_the_setting_never_read_by_the_wire() {
    let socket = FakeSocket::start(files);
    let (member, client) = start().await;
    let elsewhere = LocalSocket { machine: "another".into(), ..socket.socket.clone() };
    values(&client, offering(&member, &[(0, 30)], &elsewhere), 1).await.unwrap();
    assert_eq!(client.local_reads(), LocalReadCounts::default());
    let client = Client::builder().address(&member.address).local(LocalMode::Never).connect().await.unwrap();
    assert_eq!(values(&client, socket.info(&member, &[(0, 30)]), 1).await.unwrap(), (0..30).collect::<Vec<_>>());
    assert_eq!((gets(&member), client.local_reads()), (2, LocalReadCounts::default()));
    assert!(socket.requests.lock().is_empty());
}

#[tokio::test]
async fn credential_of_the_session_goes_with_the_request() {
    let socket = FakeSocket::start(files);
    let (member, _) = start().await;
    member.logins.accept("secret");
    let client = Client::builder().address(&member.address).token("secret").connect().await.unwrap();
    let info = socket.info(&member, &[(0, 30)]);
    assert_eq!(values(&client, info, 1).await.unwrap(), (0..30).collect::<Vec<_>>());
    assert!(socket.requests.lock().iter().all(|request| request.authorization == "Bearer secret"));
    assert_eq!(gets(&member), 0);
}
