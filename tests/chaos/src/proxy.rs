//! What stands before every port of a member: bytes pass as the links allow.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::links::{Links, Member, Mode, Modes};
use crate::owner::Owners;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What all proxies share.
#[derive(Clone, Default)]
pub struct Wiring {
    /// What is cut.
    pub links: Arc<Links>,
    /// Whose sockets they are.
    pub owners: Arc<Owners>,
}

/// Accepts at `front` until dropped, and connects each to `back`, where `to` listens.
///
/// # Errors
/// If `front` cannot be listened on.
pub async fn start(
    wiring: &Wiring,
    to: Member,
    front: SocketAddr,
    back: SocketAddr,
) -> io::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(front).await?;
    let wiring = wiring.clone();
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, source)) => drop(tokio::spawn(carry(wiring.clone(), to, stream, source, back))),
                // Out of descriptors: the next turn may find some.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })))
}

/// One connection, to its end; reset if the link is cut or nobody listens.
async fn carry(wiring: Wiring, to: Member, front: TcpStream, source: SocketAddr, back: SocketAddr) {
    let Ok(target) = front.local_addr() else { return };
    let owners = wiring.owners.clone();
    let Ok(Some(from)) = tokio::task::spawn_blocking(move || owners.of(source, target)).await else { return };
    let mut modes = wiring.links.watch();
    let there = modes.borrow().get(&(from, to)) != Some(&Mode::Refuse);
    let back = match there {
        true => tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(back)).await,
        false => return reset(&front),
    };
    let Ok(Ok(back)) = back else { return reset(&front) };
    // Errors here mean that the socket is dead already.
    let _ = (front.set_nodelay(true), back.set_nodelay(true));
    let ((mut front_read, mut front_write), (mut back_read, mut back_write)) = (front.into_split(), back.into_split());
    tokio::select! {
        _ = pump(&mut front_read, &mut back_write, wiring.links.watch(), (from, to)) => {}
        _ = pump(&mut back_read, &mut front_write, wiring.links.watch(), (to, from)) => {}
        _ = modes.wait_for(|modes| [(from, to), (to, from)].iter().any(|way| modes.get(way) == Some(&Mode::Refuse))) => {
            reset(front_read.as_ref());
            reset(back_read.as_ref());
        }
    }
}

/// Lets the end of this socket be a reset, as if the machine were gone.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Carries bytes one way, until their source or their sink has ended.
async fn pump(
    read: &mut (impl AsyncReadExt + Unpin),
    write: &mut (impl AsyncWriteExt + Unpin),
    mut modes: watch::Receiver<Modes>,
    way: (Member, Member),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = read.read(&mut buffer).await?;
        if let Some(Mode::Delay(delay)) = mode(&modes, way) {
            tokio::time::sleep(delay).await;
        }
        if modes.wait_for(|modes| modes.get(&way) != Some(&Mode::Hole)).await.is_err() || count == 0 {
            return Ok(());
        }
        write.write_all(&buffer[..count]).await?;
    }
}

fn mode(modes: &watch::Receiver<Modes>, way: (Member, Member)) -> Option<Mode> {
    modes.borrow().get(&way).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    /// A proxy before something that echoes, and a connection through it.
    async fn echo(wiring: &Wiring) -> (AbortOnDropHandle<()>, SocketAddr, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                let (mut read, mut write) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = start(wiring, Member::Node(0), front, back).await.unwrap();
        (proxy, front, TcpStream::connect(front).await.unwrap())
    }

    async fn answers(stream: &mut TcpStream, limit: Duration) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok()
            && tokio::time::timeout(limit, stream.read_exact(&mut byte)).await.is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn bytes_pass_when_nothing_is_cut_and_late_when_delayed() {
        let wiring = Wiring::default();
        let (_proxy, _, mut stream) = echo(&wiring).await;
        assert!(answers(&mut stream, LONG).await);
        wiring.links.cut(Member::Client, Member::Node(0), Mode::Delay(SHORT));
        let begin = std::time::Instant::now();
        assert!(answers(&mut stream, LONG).await);
        assert!(begin.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_hole_one_way_stalls_and_lets_all_through_afterwards() {
        for (from, to) in [(Member::Client, Member::Node(0)), (Member::Node(0), Member::Client)] {
            let wiring = Wiring::default();
            let (_proxy, _, mut stream) = echo(&wiring).await;
            assert!(answers(&mut stream, LONG).await);
            wiring.links.cut(from, to, Mode::Hole);
            assert!(!answers(&mut stream, SHORT).await);
            wiring.links.heal(from, to);
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_refused_link_resets_what_is_open_and_what_is_new_and_no_other() {
        let wiring = Wiring::default();
        let (_proxy, front, mut stream) = echo(&wiring).await;
        wiring.links.cut(Member::Node(1), Member::Node(0), Mode::Refuse);
        assert!(answers(&mut stream, LONG).await, "another's link is cut");
        wiring.links.cut(Member::Client, Member::Node(0), Mode::Refuse);
        let mut byte = [0];
        assert!(stream.read_exact(&mut byte).await.is_err());
        assert!(!answers(&mut TcpStream::connect(front).await.unwrap(), LONG).await);
        wiring.links.heal_all();
        assert!(answers(&mut TcpStream::connect(front).await.unwrap(), LONG).await);
    }
}
