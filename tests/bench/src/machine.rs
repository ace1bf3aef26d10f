//! The machine: its description, the rate of its disk, and touching its memory.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

use crate::measure::status_bytes;

/// Blocks that are written to measure the rate of a disk: 1 GiB.
const DISK_BLOCKS: usize = 1024;
const BLOCK: usize = 1 << 20;
const PAGE: usize = 4096;

/// The machine on which the figures were measured.
#[derive(Clone, Debug, Serialize)]
pub struct MachineInfo {
    /// The processor's name.
    pub processor: String,
    /// Processors.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The default TCP congestion control: reno, cubic, bbr, ...
    pub congestion_control: String,
    /// The commit of this tree, with a + if files have changed.
    pub commit: String,
}

impl MachineInfo {
    /// Describes this machine.
    pub fn describe(root: &Path) -> MachineInfo {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        MachineInfo {
            processor: name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.to_string()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: status_bytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_string(),
            commit: commit(root),
        }
    }
}

impl fmt::Display for MachineInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MachineInfo { processor, processors, memory, kernel, congestion_control, commit } = self;
        let memory = *memory as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "{processors} × {processor}, {memory:.0} GiB, Linux {kernel}, TCP {congestion_control}, commit {commit}"
        )
    }
}

fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    git(&["rev-parse", "--short", "HEAD"]).map_or_else(|| "unknown".into(), |id| if changed { id + "+" } else { id })
}

/// Bytes of memory that are available now.
pub fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    status_bytes(&meminfo, "MemAvailable").unwrap_or(0)
}

/// Touches this many bytes of memory once, because the first use of a page is slower than later ones. Returns seconds.
pub fn touch(bytes: u64) -> f64 {
    let begin = Instant::now();
    let mut block = vec![0u8; bytes as usize];
    block.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    std::hint::black_box(&block);
    begin.elapsed().as_secs_f64()
}

/// Bytes a second of a file that is written from front to end in writes of 1 MiB, and fsynced.
///
/// # Errors
/// Errors of the file.
pub fn disk_rate(folder: &Path) -> std::io::Result<f64> {
    let block = vec![1u8; BLOCK];
    let mut file: File = tempfile::tempfile_in(folder)?;
    let begin = Instant::now();
    (0..DISK_BLOCKS).try_for_each(|_| file.write_all(&block))?;
    file.sync_all()?;
    Ok((DISK_BLOCKS * BLOCK) as f64 / begin.elapsed().as_secs_f64())
}

/// Free bytes of a folder's file system.
pub fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
}
