//! The cluster under faults: real processes behind proxies, one node on a small disk.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio_util::task::AbortOnDropHandle;
use volley_tests::cluster::{ClusterOptions, MemberId, TestCluster};

use crate::links::Links;
use crate::proxy::{self, ProxyContext};

/// The cluster. Dropping it ends its processes and removes its mounts.
pub struct FaultyCluster {
    /// The processes.
    pub servers: TestCluster,
    /// The index of the node whose disk is small, if one could be mounted.
    pub small_disk: Option<usize>,
    context: ProxyContext,
    _proxies: Vec<AbortOnDropHandle<()>>,
}

impl FaultyCluster {
    /// Makes the processes, their proxies and folders; nothing runs yet. The last node gets a disk of `small_disk` bytes.
    pub async fn create(options: ClusterOptions, small_disk: u64) -> FaultyCluster {
        let servers = TestCluster::create(ClusterOptions { behind_proxies: true, ..options });
        let context = ProxyContext::default();
        let mut proxies = Vec::new();
        for (member, front, back) in servers.proxy_routes() {
            proxies.push(proxy::start(&context, member.into(), front, back).await.unwrap());
        }
        let last = servers.nodes.len() - 1;
        let small_disk = mount_disk(&servers.nodes[last].folder, small_disk).then_some(last);
        FaultyCluster { servers, small_disk, context, _proxies: proxies }
    }

    /// The links between the members.
    pub fn links(&self) -> &Links {
        &self.context.links
    }

    /// Starts a member, without waiting until it is ready.
    pub fn start(&mut self, member: MemberId) {
        let process = self.servers.member(member);
        process.start();
        let pid = process.pid().unwrap();
        self.context.owners.set(pid, member);
    }

    /// Starts all members that do not run.
    pub fn start_stopped(&mut self) {
        for member in self.servers.member_ids() {
            if self.servers.member(member).pid().is_none() {
                self.start(member);
            }
        }
    }

    /// Removes everything that a stopped member has on its disk.
    pub fn wipe(&mut self, member: MemberId) {
        let folder = &self.servers.member(member).folder;
        // The folder itself may be a mount.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
    }

    /// Ends all processes and keeps the folder; returns its path.
    pub fn keep(mut self) -> PathBuf {
        self.end();
        self.servers.keep()
    }

    fn end(&mut self) {
        self.servers.kill_all();
        if let Some(node) = self.small_disk.take() {
            let _ = unmount(&self.servers.nodes[node].folder, UnmountFlags::DETACH);
        }
    }
}

impl Drop for FaultyCluster {
    fn drop(&mut self) {
        self.end();
    }
}

/// Mounts a disk of `bytes` on a folder; false where that is not permitted.
fn mount_disk(folder: &Path, bytes: u64) -> bool {
    fs::create_dir_all(folder).unwrap();
    let options = CString::new(format!("size={bytes}")).unwrap();
    mount("none", folder, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).is_ok()
}
