//! Which process made a connection, found by its socket in `/proc` as `ss -p` does.
//!
//! Members connect from 127.0.0.1 and any port, so their address does not identify them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};

use parking_lot::Mutex;
use volley_tests::cluster::MemberId;

use crate::links::LinkEnd;

/// The processes of the cluster, by their process ids.
#[derive(Default)]
pub struct SocketOwners(Mutex<BTreeMap<u32, MemberId>>);

impl SocketOwners {
    /// Records a started process, in place of the member's earlier one.
    pub fn set(&self, pid: u32, member: MemberId) {
        let mut owners = self.0.lock();
        owners.retain(|_, known| *known != member);
        owners.insert(pid, member);
    }

    /// The owner of the connection from `source` to `target`; none if no process of the run has this socket.
    pub fn of(&self, source: SocketAddr, target: SocketAddr) -> Option<LinkEnd> {
        let (SocketAddr::V4(source), SocketAddr::V4(target)) = (source, target) else { return None };
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = table.lines().skip(1).find_map(|line| inode_of(line, source, target))?;
        let socket = format!("socket:[{inode}]");
        let owners: Vec<(u32, LinkEnd)> =
            self.0.lock().iter().map(|(pid, member)| (*pid, LinkEnd::Member(*member))).collect();
        let known = owners.into_iter().chain([(std::process::id(), LinkEnd::Clients)]);
        known.into_iter().find(|(pid, _)| has_open(*pid, &socket)).map(|(_, owner)| owner)
    }
}

/// The inode in a line of `/proc/net/tcp` if the line is that of this connection.
fn inode_of(line: &str, source: SocketAddrV4, target: SocketAddrV4) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (fields.nth(1)?, fields.next()?);
    (parse(local)? == source && parse(remote)? == target).then(|| fields.nth(6)).flatten()
}

/// `0100007F:1F90`: the address as the machine's integer, the port as a number.
fn parse(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    Some(SocketAddrV4::new(address.into(), u16::from_str_radix(port, 16).ok()?))
}

fn has_open(pid: u32, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connection_is_traced_to_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _mine = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, source) = listener.accept().unwrap();
        let (owners, target) = (SocketOwners::default(), accepted.local_addr().unwrap());
        assert_eq!(owners.of(source, target), Some(LinkEnd::Clients));
        owners.set(std::process::id(), MemberId::Node(3));
        assert_eq!(owners.of(source, target), Some(MemberId::Node(3).into()));
        owners.set(1, MemberId::Node(3));
        assert_eq!(owners.of(target, source), Some(LinkEnd::Clients), "this program has the other end too");
        assert_eq!(owners.of(source, "127.0.0.1:1".parse().unwrap()), None);
    }
}
