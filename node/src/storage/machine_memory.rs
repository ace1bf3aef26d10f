//! How much memory the process may use: that of the machine, or the limit of its control group, as a container has one.

use std::fs;
use std::path::Path;

/// Where control groups of version 2 are mounted, and the memory controller of version 1.
const GROUPS: &str = "/sys/fs/cgroup";
const OLD_MEMORY_LIMIT: &str = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
/// What is assumed if the system says nothing, bytes.
const UNKNOWN: u64 = 4 << 30;

/// Bytes of memory that the process may use. Blocks.
pub fn available_memory() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let machine = machine_bytes(&read(Path::new("/proc/meminfo")));
    let group = group_path(&read(Path::new("/proc/self/cgroup")));
    // The limit of each group above holds, too. In a container the group's own folder is the mounted one.
    let groups = group.iter().flat_map(|group| Path::new(group).ancestors());
    let limits = groups.map(|group| {
        let below = group.strip_prefix("/").unwrap_or(group);
        limit_bytes(&read(&Path::new(GROUPS).join(below).join("memory.max")))
    });
    let limits = limits.chain([limit_bytes(&read(Path::new(OLD_MEMORY_LIMIT)))]);
    limits.chain([machine]).flatten().min().unwrap_or(UNKNOWN)
}

/// `MemTotal` of /proc/meminfo, bytes.
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// The path of the process's control group of version 2.
fn group_path(groups: &str) -> Option<String> {
    groups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_string)
}

/// A limit; `None`: there is none.
fn limit_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_system_writes_them() {
        assert_eq!(machine_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(machine_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(group_path("1:memory:/old\n0::/a/b\n").as_deref(), Some("/a/b"));
        assert_eq!((limit_bytes("max\n"), limit_bytes("1048576\n"), limit_bytes("")), (None, Some(1 << 20), None));
    }

    #[test]
    fn process_may_use_some_memory() {
        assert!(available_memory() > 1 << 20);
    }
}
