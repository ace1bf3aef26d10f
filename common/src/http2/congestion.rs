//! TCP congestion control of connections within one machine.
//!
//! BBR, the default of many systems, paces packets by the bandwidth that it measured before. Between processes of one
//! machine the measured bandwidth only reflects how little there was to send, and BBR delays a response of some 300 KiB
//! by milliseconds.
#![allow(unsafe_code, reason = "a socket option that no library has")]

use tokio::net::TcpStream;

/// An algorithm that does not pace; every Linux kernel has it, and every process is allowed to select it.
#[cfg(target_os = "linux")]
const UNPACED: &std::ffi::CStr = c"reno";

/// Switches pacing off for a connection whose peer is on the same machine.
pub fn disable_local_pacing(stream: &TcpStream) {
    let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    if !(peer.ip().is_loopback() || peer.ip() == own.ip()) {
        return;
    }
    if let Err(error) = disable_pacing(stream) {
        tracing::debug!(%error, "cannot switch off pacing of a local connection");
    }
}

#[cfg(target_os = "linux")]
fn disable_pacing(stream: &TcpStream) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;

    let name = UNPACED.to_bytes();
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the option is `name.len()` readable bytes.
    let set = unsafe {
        let (option, length) = (name.as_ptr().cast(), name.len() as libc::socklen_t);
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, option, length)
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// No other system is known to pace local connections.
#[cfg(not(target_os = "linux"))]
fn disable_pacing(_: &TcpStream) -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsRawFd;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn local_connection_is_not_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (_client, (server, _)) = (client.unwrap(), server.unwrap());
        disable_local_pacing(&server);
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
