//! The memory of the servers during a run, and its bound.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::check::{ChaosViolation, ViolationKind};

/// Interval of the samples.
const INTERVAL: Duration = Duration::from_millis(250);
/// The bound of a node's anonymous memory, MiB: what its puts may have together, and what the streams of this workload need.
const NODE_MIB: u64 = 512;
/// The bound of a coordinator's anonymous memory, MiB: the catalog of this workload is small.
const COORDINATOR_MIB: u64 = 384;

/// Samples the anonymous memory of all servers that this process started.
pub struct MemoryWatch {
    /// The largest amount of each program, MiB.
    most: Arc<Mutex<BTreeMap<String, u64>>>,
    _sampler: AbortOnDropHandle<()>,
}

impl MemoryWatch {
    /// Begins to sample.
    pub fn start() -> Self {
        let most = Arc::new(Mutex::new(BTreeMap::new()));
        let samples = most.clone();
        let sampler = tokio::spawn(async move {
            loop {
                for (program, mib) in servers(std::process::id()) {
                    let mut samples = samples.lock();
                    let most = samples.entry(program).or_default();
                    *most = mib.max(*most);
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        MemoryWatch { most, _sampler: AbortOnDropHandle::new(sampler) }
    }

    /// The largest amount of anonymous memory of each program so far, MiB.
    pub fn most(&self) -> BTreeMap<String, u64> {
        self.most.lock().clone()
    }

    /// Programs that had more than their bound.
    pub fn violations(&self) -> Vec<ChaosViolation> {
        self.most().into_iter().filter_map(|(program, mib)| excess(&program, mib)).collect()
    }
}

/// The violation of a program that had this much memory.
fn excess(program: &str, mib: u64) -> Option<ChaosViolation> {
    let bound = if program == "volley-node" { NODE_MIB } else { COORDINATOR_MIB };
    (mib > bound).then(|| ChaosViolation {
        kind: ViolationKind::Memory,
        what: format!("a {program} had {mib} MiB of anonymous memory, more than {bound} MiB"),
        operations: Vec::new(),
    })
}

/// Name and anonymous memory in MiB of every server that is a child of `parent`.
fn servers(parent: u32) -> Vec<(String, u64)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = processes.filter(|process| process.file_name().to_string_lossy().parse::<u32>().is_ok());
    // A process may end meanwhile.
    let statuses = numbered.filter_map(|process| fs::read_to_string(process.path().join("status")).ok());
    statuses.filter_map(|status| server(&status, parent)).collect()
}

fn server(status: &str, parent: u32) -> Option<(String, u64)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("PPid")?.parse() != Ok(parent) {
        return None;
    }
    // The kernel cuts names after 15 bytes.
    let program = ["volley-node", "volley-coordinator"]
        .into_iter()
        .find(|program| program.starts_with(field("Name").unwrap_or("?")))?;
    let kib: u64 = field("RssAnon")?.split(' ').next()?.parse().ok()?;
    Some((program.to_string(), kib >> 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_recognised_by_name_and_parent() {
        let status = |name: &str, parent: u32| format!("Name:\t{name}\nPPid:\t{parent}\nRssAnon:\t   20480 kB\n");
        assert_eq!(server(&status("volley-coordina", 7), 7), Some(("volley-coordinator".into(), 20)));
        assert_eq!(server(&status("volley-node", 7), 7), Some(("volley-node".into(), 20)));
        assert_eq!(server(&status("volley-node", 8), 7), None);
        assert_eq!(server(&status("sh", 7), 7), None);
    }

    #[test]
    fn program_above_its_bound_is_a_violation() {
        assert_eq!(excess("volley-node", NODE_MIB), None);
        let found = excess("volley-coordinator", COORDINATOR_MIB + 1).unwrap();
        assert!(found.kind == ViolationKind::Memory && found.what.contains("volley-coordinator"), "{found}");
    }
}
