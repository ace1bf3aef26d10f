//! How many connections each port may have: all ports together fewer than the files that the process may open, so that
//! clients of one port can neither close the others nor keep a node from opening parts.

use rustix::process::{Resource, getrlimit};

use crate::http2::PortKind;

/// Maximum number of connections of a port, whatever the process may open.
const MAX_CONNECTIONS: usize = 10_000;
/// Maximum number of connections of the HTTP port: probes and scrapers are few.
const MAX_HTTP_CONNECTIONS: usize = 512;

/// Maximum number of connections of all ports of this kind together.
pub fn of(port: PortKind) -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    share(port, files.unwrap_or(usize::MAX))
}

/// The share of a process that may open this many files: half for clients, an eighth for members, a sixteenth for HTTP; the
/// rest is for files.
fn share(port: PortKind, files: usize) -> usize {
    match port {
        PortKind::Flight => (files / 2).min(MAX_CONNECTIONS),
        PortKind::Peer => (files / 8).min(MAX_CONNECTIONS),
        PortKind::Http => (files / 16).min(MAX_HTTP_CONNECTIONS),
    }
    .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ports_together_leave_files_over() {
        for files in [64, 1024, 4096, 20_000, 1 << 20] {
            let all: usize =
                [PortKind::Flight, PortKind::Peer, PortKind::Http].map(|port| share(port, files)).iter().sum();
            assert!(all <= files * 3 / 4, "{all} of {files}");
        }
    }
}
