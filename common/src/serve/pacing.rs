//! Connections within one machine are not paced.
//!
//! BBR, the choice of many systems, spreads what it sends by the bandwidth that it saw before. Between processes of one
//! machine that is a figure of how little there was to send, and an answer of some 300 KiB is held back for milliseconds.

use tokio::net::TcpStream;

/// Always there, always allowed, and does not pace.
#[cfg(target_os = "linux")]
const UNPACED: &std::ffi::CStr = c"reno";

/// Sends to a peer on the same machine as fast as it takes it.
pub fn unpace_local(stream: &TcpStream) {
    let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    if !(peer.ip().is_loopback() || peer.ip() == own.ip()) {
        return;
    }
    if let Err(error) = unpace(stream) {
        tracing::debug!(%error, "a connection within this machine stays paced");
    }
}

#[cfg(target_os = "linux")]
fn unpace(stream: &TcpStream) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;

    let name = UNPACED.to_bytes();
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the option is `name.len()` readable bytes.
    let set = unsafe {
        let (option, length) = (name.as_ptr().cast(), name.len() as libc::socklen_t);
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, option, length)
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Elsewhere nothing is known to pace them.
#[cfg(not(target_os = "linux"))]
fn unpace(_: &TcpStream) -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsRawFd;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_within_the_machine_is_not_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (_client, (server, _)) = (client.unwrap(), server.unwrap());
        unpace_local(&server);
        let (mut name, mut length) = ([0u8; 16], 16 as libc::socklen_t);
        // SAFETY: the descriptor is open, and `name` has room for `length` bytes.
        let got = unsafe {
            let fd = server.as_raw_fd();
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_mut_ptr().cast(), &mut length)
        };
        assert_eq!(got, 0);
        assert!(name.starts_with(UNPACED.to_bytes()), "{}", String::from_utf8_lossy(&name));
    }
}
