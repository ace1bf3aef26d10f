//! Orders to copy a part.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use volley_common::TableName;
use volley_common::wire::catalog;

/// A validated order: which part to copy, and from which peer addresses.
pub struct CopyJob {
    /// The part's row; of an open one without length and checksum.
    pub part: catalog::Part,
    /// Its table.
    pub table: TableName,
    /// Peer addresses of nodes that have it.
    pub sources: Vec<String>,
    /// Why, and from what.
    pub origin: CopyOrigin,
}

/// Why a part is copied, and from what.
pub enum CopyOrigin {
    /// From a holder: for a put, or `background` for repair or rebalancing.
    Holder {
        /// Throttled.
        background: bool,
    },
    /// From the node that may still write it. It has its place among the copies of open parts.
    Writer {
        /// Given back at the end.
        _place: OwnedSemaphorePermit,
    },
    /// From the order itself. It has its place among those.
    Content {
        /// The whole file.
        content: Bytes,
        /// Given back at the end.
        _place: OwnedSemaphorePermit,
    },
}

impl CopyJob {
    /// Whether it is for repair or rebalancing.
    pub fn is_background(&self) -> bool {
        matches!(self.origin, CopyOrigin::Holder { background: true })
    }

    /// Whether its source may still write it.
    pub fn is_open(&self) -> bool {
        matches!(self.origin, CopyOrigin::Writer { .. })
    }
}
