//! Which process made a connection: by its socket in `/proc`, as `ss -p` finds it.
//!
//! Members connect from 127.0.0.1 and any port, so an address does not tell who they are.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};

use parking_lot::Mutex;

use crate::links::Member;

/// The cluster's processes by their ids.
#[derive(Default)]
pub struct Owners(Mutex<BTreeMap<u32, Member>>);

impl Owners {
    /// A process that has been started; what was known of this member's earlier one is forgotten.
    pub fn set(&self, pid: u32, member: Member) {
        let mut owners = self.0.lock();
        owners.retain(|_, known| *known != member);
        owners.insert(pid, member);
    }

    /// Who connected from `source` to `target`; none if nobody of ours has such a socket (any more).
    pub fn of(&self, source: SocketAddr, target: SocketAddr) -> Option<Member> {
        let (SocketAddr::V4(source), SocketAddr::V4(target)) = (source, target) else { return None };
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = table.lines().skip(1).find_map(|line| inode_of(line, source, target))?;
        let socket = format!("socket:[{inode}]");
        let owners: Vec<(u32, Member)> = self.0.lock().iter().map(|(pid, member)| (*pid, *member)).collect();
        let known = owners.into_iter().chain([(std::process::id(), Member::Client)]);
        known.into_iter().find(|(pid, _)| has_open(*pid, &socket)).map(|(_, member)| member)
    }
}

/// The inode of a line of `/proc/net/tcp`, if it is of this connection.
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
    fn the_maker_of_a_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _mine = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, source) = listener.accept().unwrap();
        let (owners, target) = (Owners::default(), accepted.local_addr().unwrap());
        assert_eq!(owners.of(source, target), Some(Member::Client));
        owners.set(std::process::id(), Member::Node(3));
        assert_eq!(owners.of(source, target), Some(Member::Node(3)));
        owners.set(1, Member::Node(3));
        assert_eq!(owners.of(target, source), Some(Member::Client), "the other end is ours too");
        assert_eq!(owners.of(source, "127.0.0.1:1".parse().unwrap()), None);
    }
}
