//! Raw HTTP/2 frames at a server: floods end the connection that sends them, or take no memory, and nobody else notices; and
//! the limits of a listener, each exceeded.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The payload of the PING after a flood.
const MARK: [u8; 8] = *b"the end.";
const CANCEL: u32 = 8;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

struct RawFrame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a DoGet, by the static table of HPACK.
fn do_get() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(0x04, "/arrow.flight.protocol.FlightService/DoGet"), (0x01, "v")] {
        block.extend([name, value.len() as u8]);
        block.extend(value.as_bytes());
    }
    block.extend([0x0f, 0x10, 16]);
    block.extend(b"application/grpc");
    block
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A client that has sent its preface.
async fn connect(addr: &str) -> (OwnedReadHalf, OwnedWriteHalf) {
    let (read, mut write) = TcpStream::connect(addr).await.unwrap().into_split();
    write.write_all(PREFACE).await.unwrap();
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    (read, write)
}

/// The next frame; `None` if the connection has ended.
async fn next_frame(read: &mut OwnedReadHalf) -> Option<RawFrame> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, _, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    read.read_exact(&mut payload).await.ok()?;
    Some(RawFrame { kind, stream: u32::from_be_bytes(stream), payload })
}

/// How a server ended a flood.
#[derive(Debug, PartialEq)]
enum FloodEnd {
    /// It answered what followed the flood.
    Answered,
    /// It closed the connection; with this reason, if that arrived.
    Closed(Option<u32>),
}

/// Sends a flood and then a PING, and reads until the server answers that, or closes the connection.
async fn flood(addr: String, frames: Vec<u8>) -> FloodEnd {
    let (mut read, mut write) = connect(&addr).await;
    let sending = tokio::spawn(async move {
        // That the server does not take all is one of the outcomes.
        let _ = write.write_all(&frames).await;
        let _ = write.write_all(&frame(PING, 0, 0, &MARK)).await;
        write
    });
    let mut reason = None;
    let end = loop {
        match next_frame(&mut read).await {
            None => break FloodEnd::Closed(reason),
            Some(RawFrame { kind: GOAWAY, payload, .. }) => {
                reason = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
            }
            Some(RawFrame { kind: PING, payload, .. }) if payload == MARK => break FloodEnd::Answered,
            Some(_) => {}
        }
    };
    sending.await.unwrap();
    end
}

/// A server that answers each call with an error.
async fn refusing() -> TestServer {
    TestServer::start(|_| async { grpc_error(Error::not_found("x")) }).await
}

async fn assert_serves(server: &TestServer) {
    let answer = soon(async { server.client().await.do_get(Ticket::default()).await }).await;
    assert_eq!(answer.unwrap_err().code(), Code::NotFound);
}

/// Floods a server while another client calls it.
async fn flooded(frames: Vec<u8>) -> FloodEnd {
    flooded_at(refusing().await, frames).await
}

async fn flooded_at(server: TestServer, frames: Vec<u8>) -> FloodEnd {
    let flooding = tokio::spawn(flood(server.addr.clone(), frames));
    while !flooding.is_finished() {
        assert_serves(&server).await;
    }
    assert_serves(&server).await;
    soon(flooding).await.unwrap()
}

/// The connection is closed. The reason is lost if the client was still sending.
fn assert_calmed(end: FloodEnd) {
    assert!(matches!(end, FloodEnd::Closed(None | Some(ENHANCE_YOUR_CALM))), "{end:?}");
}

/// Calls of which each is reset at once.
fn given_up_calls(count: u32) -> Vec<u8> {
    let call = |at: u32| [frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &do_get()), reset(2 * at + 1)].concat();
    (0..count).flat_map(call).collect()
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let limits = ServerLimits { streams: 20, ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_error(Error::not_found("x")) }).await;
    assert_calmed(flooded_at(server, given_up_calls(10_000)).await);
}

/// As after a pause of the server, which reads them at once.
#[tokio::test]
async fn many_calls_that_were_given_up_do_not_end_the_connection() {
    assert_eq!(flooded(given_up_calls(1_000)).await, FloodEnd::Answered);
}

#[tokio::test]
async fn endless_continuation_ends_the_connection() {
    // Each continuation adds a header of one byte.
    let more = frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'a']);
    let frames = [frame(HEADERS, END_STREAM, 1, &do_get()), more.repeat(10_000)].concat();
    assert_calmed(flooded(frames).await);
}

#[tokio::test]
async fn endless_header_list_ends_the_connection() {
    // One header of 4,000 bytes in each frame: far more than the limit in few frames.
    let header = [&[0, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4_000]].concat();
    let of_frame = header.repeat(4);
    let frames = [frame(HEADERS, END_STREAM, 1, &do_get()), frame(CONTINUATION, 0, 1, &of_frame).repeat(100)].concat();
    assert_calmed(flooded(frames).await);
}

#[tokio::test]
async fn ping_and_settings_floods_delay_nobody_else() {
    for one in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        assert_eq!(flooded(one.repeat(100_000)).await, FloodEnd::Answered);
    }
}

/// Each PING and each SETTINGS wants an answer: a server that kept them for a client that reads none would run out of memory.
#[tokio::test]
async fn client_that_reads_no_answers_is_not_read_any_more() {
    /// Far more than the buffers of both sockets.
    const MOST: usize = 256 << 20;
    for one in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        let server = refusing().await;
        let (_unread, mut write) = connect(&server.addr).await;
        let chunk = one.repeat(4096);
        let (mut sent, mut at) = (0, 0);
        // Until the server has read nothing for a second.
        while let Ok(Ok(written)) = tokio::time::timeout(Duration::from_secs(1), write.write(&chunk[at..])).await {
            sent += written;
            at = (at + written) % chunk.len();
            assert!(sent < MOST, "{sent} bytes were read without sending one answer");
        }
        assert_serves(&server).await;
    }
}

/// A client that resets each call as soon as it runs leaves nothing behind.
#[tokio::test]
async fn reset_calls_end() {
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (running, begun) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, calls) = (running.clone(), begun.clone());
    let server = TestServer::start(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        calls.fetch_add(1, Ordering::SeqCst);
        let running = Running(counted.clone());
        async move {
            std::future::pending::<()>().await;
            drop(running);
            grpc_error(Error::not_found("x"))
        }
    })
    .await;
    let (_read, mut write) = connect(&server.addr).await;
    for at in 0..500 {
        write.write_all(&frame(HEADERS, END_HEADERS, 2 * at + 1, &do_get())).await.unwrap();
        soon(async {
            while begun.load(Ordering::SeqCst) <= at as usize {
                tokio::task::yield_now().await
            }
        })
        .await;
        write.write_all(&reset(2 * at + 1)).await.unwrap();
    }
    soon(async {
        while running.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
}

#[tokio::test]
async fn streams_over_the_limit_are_refused() {
    let limits = ServerLimits { streams: 2, ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_frames(stream::pending()) }).await;
    let (mut read, mut write) = connect(&server.addr).await;
    for stream in [1, 3, 5] {
        write.write_all(&frame(HEADERS, END_HEADERS, stream, &do_get())).await.unwrap();
    }
    let refused = soon(async {
        loop {
            let frame = next_frame(&mut read).await.expect("the connection stays open");
            if frame.kind == RST_STREAM {
                return (frame.stream, u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
            }
        }
    })
    .await;
    assert_eq!(refused, (5, REFUSED_STREAM));
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let limits = ServerLimits { header_bytes: 8 << 10, ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_error(Error::not_found("x")) }).await;
    let mut client = server.client().await;
    for (bytes, code) in [(6 << 10, Code::NotFound), (9 << 10, Code::Unknown), (6 << 10, Code::NotFound)] {
        let mut request = Request::new(Ticket::default());
        request.metadata_mut().insert("x-large", "x".repeat(bytes).parse().unwrap());
        // Without a body, the client learns from the stream's end that the answer is no gRPC.
        let status = match client.do_get(request).await {
            Err(status) => status,
            Ok(reply) => reply.into_inner().message().await.unwrap_err(),
        };
        assert_eq!(status.code(), code, "{bytes} bytes: {status}");
        assert!(code != Code::Unknown || status.message().contains("431"), "{status}");
    }
}

#[tokio::test]
async fn connection_that_does_not_begin_is_closed_in_time() {
    let limits = ServerLimits { opening: Duration::from_millis(50), ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_error(Error::not_found("x")) }).await;
    for begin in [&b""[..], &PREFACE[..20]] {
        let mut slow = TcpStream::connect(&server.addr).await.unwrap();
        slow.write_all(begin).await.unwrap();
        let read = tokio::time::timeout(OPENING_TIMEOUT / 2, slow.read(&mut [0])).await.expect("it is closed");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let limits = ServerLimits::default().with_connections(4, 0);
    let server = TestServer::with_limits(limits, |_| async { grpc_error(Error::not_found("x")) }).await;
    let held = [server.client().await, server.client().await];
    for mut client in held.clone() {
        assert_eq!(client.do_get(Ticket::default()).await.unwrap_err().code(), Code::NotFound);
    }
    let mut third = TcpStream::connect(&server.addr).await.unwrap();
    let read = soon(third.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(soon(is_served(&server.addr, "127.0.0.2:0")).await, "another address");
    drop(held);
    soon(async { while !is_served(&server.addr, "127.0.0.1:0").await {} }).await;
}

#[tokio::test]
async fn connections_that_do_not_begin_keep_nobody_out() {
    // Sixteen places for those that have not begun, eight of them for one address.
    let limits = ServerLimits { opening: Duration::from_secs(600), ..ServerLimits::default() }.with_connections(64, 0);
    let server = TestServer::with_limits(limits, |_| async { grpc_error(Error::not_found("x")) }).await;
    let begin = async |from: &str| {
        let mut connection = connect_from(&server.addr, from).await.unwrap();
        connection.write_all(&PREFACE[..20]).await.unwrap();
        connection
    };
    let mut held = Vec::new();
    for at in 0..16 {
        held.push(begin(if at < 8 { "127.0.0.2:0" } else { "127.0.0.3:0" }).await);
    }
    assert!(soon(is_served(&server.addr, "127.0.0.4:0")).await, "another address");
    held.push(begin("127.0.0.2:0").await);
    assert!(soon(is_served(&server.addr, "127.0.0.2:0")).await, "a client behind an address that holds half");
    for (at, connection) in held.into_iter().enumerate() {
        assert_eq!(soon(begins(connection, &PREFACE[20..])).await, at >= 2, "{at}: only the two oldest are closed");
    }
}

async fn connect_from(addr: &str, from: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from.parse().unwrap())?;
    socket.connect(addr.parse().unwrap()).await
}

/// Whether a connection from this address is served.
async fn is_served(addr: &str, from: &str) -> bool {
    match connect_from(addr, from).await {
        Ok(stream) => begins(stream, PREFACE).await,
        Err(_) => false,
    }
}

/// Whether a connection is answered once it has sent the rest of its preface.
async fn begins(stream: TcpStream, rest: &[u8]) -> bool {
    let (mut read, mut write) = stream.into_split();
    // A refused connection may be closed before.
    let _ = write.write_all(&[rest, &frame(SETTINGS, 0, 0, &[])[..]].concat()).await;
    next_frame(&mut read).await.is_some()
}
