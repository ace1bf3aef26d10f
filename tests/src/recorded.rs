//! A cluster of one coordinator and one node on folders that earlier software wrote: `tests/recorded/`.
//!
//! The catalog knows its members by their addresses, so these are always the same, and two tests cannot have them at once.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::wait_for;

/// Not among those that [`crate::address::Net`] gives out.
const COORDINATOR: &str = "127.255.88.1";
const NODE: &str = "127.255.88.2";
/// Held while the addresses are in use; no member listens there.
const GUARD: (&str, u16) = ("127.255.88.254", 8800);
/// How long another test may have them.
const TURN: Duration = Duration::from_secs(120);

/// The two members, not started.
pub struct Recorded {
    /// Id 1.
    pub coordinator: Process,
    /// The only one.
    pub node: Process,
    folder: TempDir,
    _guard: TcpListener,
}

impl Recorded {
    /// With empty folders.
    pub async fn empty() -> Recorded {
        let guard = wait_for(TURN, "the addresses are free", async || TcpListener::bind(GUARD).ok()).await;
        let folder = TempDir::with_prefix("volley-recorded-").unwrap();
        let member = |name: &str, host: &str, port: u16, more: &[String]| {
            let data = folder.path().join(name);
            let own = [("listen", port), ("peer-listen", port + 10), ("http-listen", port + 20)];
            let addresses = own.iter().flat_map(|(flag, port)| [format!("--{flag}"), format!("{host}:{port}")]);
            let data_dir = ["--data-dir".to_string(), data.display().to_string()];
            let arguments = addresses.chain(data_dir).chain(more.iter().cloned()).collect();
            Process::new(&format!("volley-{name}"), name.into(), format!("{host}:{port}"), data, arguments)
        };
        let coordinator = member("coordinator", COORDINATOR, 8815, &[]);
        let node = member("node", NODE, 8816, &["--coordinators".into(), format!("{COORDINATOR}:8825")]);
        Recorded { coordinator, node, folder, _guard: guard }
    }

    /// With the folders of a format, a name in `tests/recorded/`.
    pub async fn of(format: &str) -> Recorded {
        let recorded = Recorded::empty().await;
        let from = records().join(format);
        for packed in files(&from) {
            let to = recorded.folder.path().join(packed.strip_prefix(&from).unwrap()).with_extension("");
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            zstd::stream::copy_decode(File::open(&packed).unwrap(), File::create(to).unwrap()).unwrap();
        }
        recorded
    }

    /// Keeps the members' folders as a format. They must have stopped.
    pub fn keep(&self, format: &str) {
        let to = records().join(format);
        for member in [&self.coordinator, &self.node] {
            for file in files(&member.folder) {
                let name = format!("{}.zst", file.strip_prefix(self.folder.path()).unwrap().display());
                let packed = to.join(name);
                fs::create_dir_all(packed.parent().unwrap()).unwrap();
                let mut from = io::BufReader::new(File::open(&file).unwrap());
                zstd::stream::copy_encode(&mut from, File::create(packed).unwrap(), 19).unwrap();
            }
        }
    }
}

fn records() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded")
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let below = entries.map(|entry| entry.unwrap().path());
    below.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
