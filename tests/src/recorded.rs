//! A coordinator and a node on data folders that earlier versions wrote: `tests/recorded/`.
//!
//! The catalog contains the addresses of its members. So these are always the same, and two tests cannot use them at
//! the same time.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::cluster::files_below;
use crate::launch::{MemberKind, ServerOptions};
use crate::loopback::{COORDINATOR_PORT, PEER_OFFSET};
use crate::process::ServerProcess;
use crate::wait_for;

/// Hosts that [`crate::loopback::LoopbackNetwork`] never allocates.
const COORDINATOR_HOST: &str = "127.255.88.1";
const NODE_HOST: &str = "127.255.88.2";
/// Bound while the addresses are in use; no member listens there.
const GUARD: (&str, u16) = ("127.255.88.254", 8800);
/// How long another test may use the addresses.
const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// One coordinator and one node, not started.
pub struct RecordedCluster {
    /// The coordinator, with id 1.
    pub coordinator: ServerProcess,
    /// The node.
    pub node: ServerProcess,
    folder: TempDir,
    _guard: TcpListener,
}

impl RecordedCluster {
    /// Members with empty data folders, and with the configuration files of this record if it has some.
    pub async fn empty(record: &str) -> RecordedCluster {
        let guard = wait_for(WAIT_LIMIT, "the addresses are free", async || TcpListener::bind(GUARD).ok()).await;
        let folder = TempDir::with_prefix("volley-recorded-").unwrap();
        let member = |role: MemberKind, host: &str, mut flags: Vec<String>| {
            if let Some(config) = config_file(record, role) {
                flags.extend(["--config".into(), config.display().to_string()]);
            }
            let name = role.name().to_string();
            let options =
                ServerOptions { role, name, listen_host: host, advertised_host: host, folder: folder.path(), flags };
            options.process()
        };
        let coordinators = format!("{COORDINATOR_HOST}:{}", COORDINATOR_PORT + PEER_OFFSET);
        let coordinator = member(MemberKind::Coordinator, COORDINATOR_HOST, Vec::new());
        let node = member(MemberKind::Node, NODE_HOST, vec!["--coordinators".into(), coordinators]);
        RecordedCluster { coordinator, node, folder, _guard: guard }
    }

    /// Members with the data folders of a record.
    pub async fn open(record: &str) -> RecordedCluster {
        let cluster = RecordedCluster::empty(record).await;
        let from = record_folder(record);
        let packed: Vec<PathBuf> = files_below(&from).into_iter().filter(|file| has_extension(file, "zst")).collect();
        assert!(!packed.is_empty(), "{} holds no data folder: see tests/recorded/README.md", from.display());
        for file in packed {
            let to = cluster.folder.path().join(file.strip_prefix(&from).unwrap()).with_extension("");
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            zstd::stream::copy_decode(File::open(&file).unwrap(), File::create(to).unwrap()).unwrap();
        }
        cluster
    }

    /// Packs the members' data folders as a record. The members must have stopped.
    pub fn save(&self, record: &str) {
        for member in [&self.coordinator, &self.node] {
            for file in files_below(&member.folder) {
                let name = format!("{}.zst", file.strip_prefix(self.folder.path()).unwrap().display());
                let packed = record_folder(record).join(name);
                fs::create_dir_all(packed.parent().unwrap()).unwrap();
                let mut from = io::BufReader::new(File::open(&file).unwrap());
                zstd::stream::copy_encode(&mut from, File::create(packed).unwrap(), 19).unwrap();
            }
        }
    }
}

/// The names of all records, in order.
pub fn records() -> Vec<String> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The configuration file that a record has for a role, if it has one.
pub fn config_file(record: &str, role: MemberKind) -> Option<PathBuf> {
    Some(record_folder(record).join(format!("{}.toml", role.name()))).filter(|file| file.exists())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded")
}

fn record_folder(record: &str) -> PathBuf {
    root().join(record)
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|own| own == extension)
}
