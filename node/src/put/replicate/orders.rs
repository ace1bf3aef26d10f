//! Orders to other nodes to copy a part.
//!
//! | the part | order |
//! |---|---|
//! | grows | CopyOpenPart: the node fetches the bytes while they are written |
//! | is complete and small | CopyOpenPart with all of its bytes |
//! | is complete otherwise, or the node cannot do the others now | CopyPart: the node fetches the complete part |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::wire::catalog;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{CopyOpenPartRequest, CopyPart, PartEnd, WritePlan};
use volley_common::{Code, Error, NodeId, Result};

use super::replicated_part::ReplicatedPart;
use crate::context::PutContext;

/// The timeout of a copy once the part is complete, to which one second is added for every ten megabytes.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_SECOND: u64 = 10_000_000;

/// How the nodes of one write are ordered to copy its parts.
pub struct CopyOrders {
    /// What the put uses of its node.
    pub context: Arc<PutContext>,
    /// The write's plan.
    pub plan: Arc<WritePlan>,
    /// The table's name.
    pub table: Vec<String>,
    permits: Semaphore,
    /// Nodes of an earlier version, which copy complete parts only.
    only_complete: Mutex<BTreeSet<NodeId>>,
}

impl CopyOrders {
    /// `permits`: for the copies of complete parts.
    pub fn new(context: Arc<PutContext>, plan: Arc<WritePlan>, table: Vec<String>, permits: Semaphore) -> Self {
        CopyOrders { context, plan, table, permits, only_complete: Mutex::default() }
    }

    /// The node that writes the parts.
    pub fn this_node(&self) -> NodeId {
        self.context.store.node()
    }

    /// The address of a node of the plan.
    pub fn peer_addr(&self, node: NodeId) -> Option<&str> {
        self.plan.nodes.iter().find(|n| n.id == node.0).map(|n| n.peer_addr.as_str())
    }

    /// Orders `node` to copy the part. Returns when its copy is verified and durable.
    ///
    /// # Errors
    /// Those of the node. UNAVAILABLE: it hangs, is too slow, or is not in the cluster. DATA_LOSS: it has other bytes than were written.
    pub async fn copy_to(&self, part: &ReplicatedPart, node: NodeId) -> Result<()> {
        let addr = self.peer_addr(node).ok_or_else(|| Error::unavailable("it is not in the cluster"))?;
        part.add_ordered(node);
        if self.copy_open(part, node, addr).await? { Ok(()) } else { self.copy_complete(part, addr).await }
    }

    /// Orders a copy that needs no complete part, or has it. Returns false if nothing was copied: the node or this one cannot do it now.
    async fn copy_open(&self, part: &ReplicatedPart, node: NodeId, addr: &str) -> Result<bool> {
        if self.only_complete.lock().contains(&node) {
            return Ok(false);
        }
        let Some((request, _follower)) = self.open_order(part) else { return Ok(false) };
        let mut client = NodeClient::new(self.context.pool.channel(addr)?);
        let call = async { Ok::<_, Error>(client.copy_open_part(request).await?.into_inner()) };
        let reply = match self.in_time(part, addr, call).await {
            Err(error) if error.code == Code::Unimplemented => {
                self.only_complete.lock().insert(node);
                return Ok(false);
            }
            reply => reply?,
        };
        if reply.busy {
            return Ok(false);
        }
        let row = part.finished().await;
        match reply.end {
            Some(end) if end == (PartEnd { bytes: row.bytes, crc32c: row.crc32c }) => Ok(true),
            _ => Err(Error::data_loss(format!(
                "its copy of part {} is not the part of {} bytes that was written",
                part.id(),
                row.bytes
            ))),
        }
    }

    /// The order for a part that grows, with the permit to follow it, or for a small one that is complete.
    fn open_order(&self, part: &ReplicatedPart) -> Option<(CopyOpenPartRequest, Option<OwnedSemaphorePermit>)> {
        let order = |row: catalog::Part| CopyOpenPartRequest {
            part: Some(row),
            table: self.table.clone(),
            source: self.context.peer_addr.clone(),
            ..CopyOpenPartRequest::default()
        };
        if let Some((row, content)) = part.content() {
            return Some((CopyOpenPartRequest { content, ..order(row) }, None));
        }
        if part.is_finished() {
            return None;
        }
        let follower = self.context.resources.followers.clone().try_acquire_owned().ok()?;
        Some((order(part.new_row()), Some(follower)))
    }

    /// Orders the node to fetch the part once it is complete.
    async fn copy_complete(&self, part: &ReplicatedPart, addr: &str) -> Result<()> {
        let row = part.finished().await;
        let _permit = self.permits.acquire().await.map_err(|_| Error::cancelled("the node is stopping"))?;
        let order = CopyPart {
            part: Some(row),
            table: self.table.clone(),
            sources: self.sources(&part.holders()),
            background: false,
        };
        let mut client = NodeClient::new(self.context.pool.channel(addr)?);
        let call = async { client.copy_part(order).await.map(|_| ()).map_err(Error::from) };
        self.in_time(part, addr, call).await
    }

    /// Waits for a copy while its node answers probes, and not too long after the part is complete.
    async fn in_time<T>(&self, part: &ReplicatedPart, addr: &str, copy: impl Future<Output = Result<T>>) -> Result<T> {
        let late = async {
            let row = part.finished().await;
            let timeout = COPY_TIMEOUT + Duration::from_secs(row.bytes / SLOWEST_BYTES_PER_SECOND);
            tokio::time::sleep(timeout).await;
            Error::unavailable(format!("it took more than {} s", timeout.as_secs()))
        };
        tokio::select! {
            copied = self.context.pool.while_answering(addr, copy) => copied,
            error = late => Err(error),
        }
    }

    /// Peer addresses that have the part: this node, then the other holders.
    fn sources(&self, holders: &[NodeId]) -> Vec<String> {
        let this_node = self.this_node();
        let others = holders.iter().filter(|id| **id != this_node).filter_map(|id| self.peer_addr(*id));
        std::iter::once(self.context.peer_addr.clone()).chain(others.map(String::from)).collect()
    }
}
