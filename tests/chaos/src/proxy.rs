//! A TCP proxy in front of every port of a member. It applies the faults of the links.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::links::{LinkDirection, LinkEnd, LinkFault, LinkFaults, Links};
use crate::owner::SocketOwners;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What all proxies share.
#[derive(Clone, Default)]
pub struct ProxyContext {
    /// The links and their faults.
    pub links: Arc<Links>,
    /// Which process a connection comes from.
    pub owners: Arc<SocketOwners>,
}

/// Accepts at `front` until dropped, and connects each connection to `back`, where `to` listens.
///
/// # Errors
/// If `front` cannot be listened on.
pub async fn start(
    context: &ProxyContext,
    to: LinkEnd,
    front: SocketAddr,
    back: SocketAddr,
) -> io::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(front).await?;
    let context = context.clone();
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, source)) => drop(tokio::spawn(carry(context.clone(), to, stream, source, back))),
                // There are no free descriptors: some may be free after a pause.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })))
}

/// Forwards one connection until it ends. Resets it if the link resets connections or nothing listens.
async fn carry(context: ProxyContext, to: LinkEnd, front: TcpStream, source: SocketAddr, back: SocketAddr) {
    let Ok(target) = front.local_addr() else { return };
    let owners = context.owners.clone();
    let Ok(Some(from)) = tokio::task::spawn_blocking(move || owners.of(source, target)).await else { return };
    let mut faults = context.links.watch();
    let refused = faults.borrow().get(&(from, to)) == Some(&LinkFault::Reset);
    if refused {
        return reset(&front);
    }
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(back)).await;
    let Ok(Ok(back)) = connected else { return reset(&front) };
    // An error here means that the socket is closed already.
    let _ = (front.set_nodelay(true), back.set_nodelay(true));
    let ((mut front_read, mut front_write), (mut back_read, mut back_write)) = (front.into_split(), back.into_split());
    let is_reset = |faults: &LinkFaults| {
        [(from, to), (to, from)].iter().any(|direction| faults.get(direction) == Some(&LinkFault::Reset))
    };
    tokio::select! {
        _ = pump(&mut front_read, &mut back_write, context.links.watch(), (from, to)) => {}
        _ = pump(&mut back_read, &mut front_write, context.links.watch(), (to, from)) => {}
        _ = faults.wait_for(is_reset) => {
            reset(front_read.as_ref());
            reset(back_read.as_ref());
        }
    }
}

/// Makes the close of this socket a reset, as if its machine had failed.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Forwards bytes in one direction until their source or their sink ends.
async fn pump(
    read: &mut (impl AsyncReadExt + Unpin),
    write: &mut (impl AsyncWriteExt + Unpin),
    mut faults: watch::Receiver<LinkFaults>,
    direction: LinkDirection,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = read.read(&mut buffer).await?;
        let fault = faults.borrow().get(&direction).copied();
        if let Some(LinkFault::Slow(delay)) = fault {
            tokio::time::sleep(delay).await;
        }
        let is_open = |faults: &LinkFaults| faults.get(&direction) != Some(&LinkFault::Stall);
        if faults.wait_for(is_open).await.is_err() || count == 0 {
            return Ok(());
        }
        write.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use volley_tests::cluster::MemberId;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);
    const NODE: LinkEnd = LinkEnd::Member(MemberId::Node(0));

    /// A proxy before a server that echoes, and a connection through it.
    async fn echo(context: &ProxyContext) -> (AbortOnDropHandle<()>, SocketAddr, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                let (mut read, mut write) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = start(context, NODE, front, back).await.unwrap();
        (proxy, front, TcpStream::connect(front).await.unwrap())
    }

    async fn answers(stream: &mut TcpStream, limit: Duration) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok()
            && tokio::time::timeout(limit, stream.read_exact(&mut byte)).await.is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn slow_link_delays_bytes() {
        let context = ProxyContext::default();
        let (_proxy, _, mut stream) = echo(&context).await;
        assert!(answers(&mut stream, LONG).await);
        context.links.set((LinkEnd::Clients, NODE), LinkFault::Slow(SHORT));
        let begin = std::time::Instant::now();
        assert!(answers(&mut stream, LONG).await);
        assert!(begin.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn stalled_link_delivers_everything_when_healed() {
        for direction in [(LinkEnd::Clients, NODE), (NODE, LinkEnd::Clients)] {
            let context = ProxyContext::default();
            let (_proxy, _, mut stream) = echo(&context).await;
            assert!(answers(&mut stream, LONG).await);
            context.links.set(direction, LinkFault::Stall);
            assert!(!answers(&mut stream, SHORT).await);
            context.links.heal(direction);
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
        }
    }

    #[tokio::test]
    async fn reset_link_ends_its_connections_and_no_others() {
        let context = ProxyContext::default();
        let (_proxy, front, mut stream) = echo(&context).await;
        context.links.set((MemberId::Node(1).into(), NODE), LinkFault::Reset);
        assert!(answers(&mut stream, LONG).await, "the link of another member is reset");
        context.links.set((LinkEnd::Clients, NODE), LinkFault::Reset);
        let mut byte = [0];
        assert!(stream.read_exact(&mut byte).await.is_err());
        assert!(!answers(&mut TcpStream::connect(front).await.unwrap(), LONG).await);
        context.links.heal_all();
        assert!(answers(&mut TcpStream::connect(front).await.unwrap(), LONG).await);
    }
}
