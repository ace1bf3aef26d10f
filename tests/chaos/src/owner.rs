//! Which process made a connection, found by its socket in `/proc` as `ss -p` does.
//!
//! Members connect from 127.0.0.1 and any port, so their address does not identify them. Reading all sockets takes a while
//! when there are thousands: lookups that wait at the same time share one reading, and there are pauses between readings, so
//! that they do not take the processors from the cluster.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use volley_tests::cluster::MemberId;

use crate::links::LinkEnd;

/// A reading follows the one before after this many times as long as that took, at most [`LONGEST_PAUSE`].
const PAUSES: u32 = 9;
/// A new connection is carried after this time at the latest.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The processes of the cluster, by their process ids.
#[derive(Default)]
pub struct SocketOwners {
    members: Mutex<BTreeMap<u32, MemberId>>,
    /// The last reading; locked while one is made.
    table: Mutex<Option<SocketTable>>,
}

/// The established connections of the machine, and the processes of the run that have their sockets.
struct SocketTable {
    read_after: Instant,
    /// When the next one may be read.
    next_after: Instant,
    /// Inodes by local and remote address.
    inodes: HashMap<(SocketAddrV4, SocketAddrV4), u64>,
    owners: HashMap<u64, LinkEnd>,
}

impl SocketOwners {
    /// Records a started process, in place of the member's earlier one.
    pub fn set(&self, pid: u32, member: MemberId) {
        let mut members = self.members.lock();
        members.retain(|_, known| *known != member);
        members.insert(pid, member);
    }

    /// The owner of the connection from `source` to `target`, which exists; none if no process of the run has this socket.
    pub fn of(&self, source: SocketAddr, target: SocketAddr) -> Option<LinkEnd> {
        let (SocketAddr::V4(source), SocketAddr::V4(target)) = (source, target) else { return None };
        let asked = Instant::now();
        let mut table = self.table.lock();
        let found = match table.take() {
            Some(table) if table.read_after >= asked => table,
            last => {
                if let Some(last) = last {
                    #[expect(clippy::disallowed_methods, reason = "bounds how often a thread of its own reads")]
                    thread::sleep(last.next_after.saturating_duration_since(Instant::now()));
                }
                self.read()?
            }
        };
        let found = table.insert(found);
        found.owners.get(found.inodes.get(&(source, target))?).copied()
    }

    fn read(&self) -> Option<SocketTable> {
        let read_after = Instant::now();
        let text = fs::read_to_string("/proc/net/tcp").ok()?;
        let inodes = text.lines().skip(1).filter_map(connection).collect();
        // A member that shares the process id of this program comes after it: it counts.
        let mut processes = vec![(std::process::id(), LinkEnd::Clients)];
        processes.extend(self.members.lock().iter().map(|(pid, member)| (*pid, LinkEnd::Member(*member))));
        let sockets = processes.into_iter().flat_map(|(pid, end)| sockets_of(pid).into_iter().map(move |at| (at, end)));
        let owners = sockets.collect();
        let pause = LONGEST_PAUSE.min(read_after.elapsed() * PAUSES);
        Some(SocketTable { read_after, next_after: Instant::now() + pause, inodes, owners })
    }
}

/// The addresses and the inode in a line of `/proc/net/tcp`.
fn connection(line: &str) -> Option<((SocketAddrV4, SocketAddrV4), u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (parse(fields.nth(1)?)?, parse(fields.next()?)?);
    Some(((local, remote), fields.nth(6)?.parse().ok()?))
}

/// `0100007F:1F90`: the address as the machine's integer, the port as a number.
fn parse(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    Some(SocketAddrV4::new(address.into(), u16::from_str_radix(port, 16).ok()?))
}

/// The inodes of the sockets that a process has open.
fn sockets_of(pid: u32) -> Vec<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
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
