//! A part of a put and its copies.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use volley_common::wire::catalog;
use volley_common::{NodeId, PartId};

use crate::put::part_events::{PendingPart, UnsyncedFile};

/// A part and its copies.
pub struct ReplicatedPart {
    /// What is known from the start: id, shard, write and position.
    new_row: catalog::Part,
    /// This node is one of its holders.
    is_local: bool,
    /// The whole row, without holders, once the part is complete.
    finished: watch::Sender<Option<catalog::Part>>,
    /// The file and the content, from then on until no copy needs them.
    pending: Mutex<Option<Box<PendingPart>>>,
    holders: Mutex<Vec<NodeId>>,
    /// Nodes that were ordered to copy it.
    ordered: Mutex<Vec<NodeId>>,
}

impl ReplicatedPart {
    /// A part that is not complete. `is_local`: its shard is placed on this node.
    pub fn new(new_row: catalog::Part, is_local: bool) -> Arc<Self> {
        Arc::new(ReplicatedPart {
            new_row,
            is_local,
            finished: watch::Sender::new(None),
            pending: Mutex::default(),
            holders: Mutex::default(),
            ordered: Mutex::default(),
        })
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.new_row.part_id()
    }

    /// Its shard.
    pub fn shard(&self) -> u32 {
        self.new_row.shard
    }

    /// What is known from the start.
    pub fn new_row(&self) -> catalog::Part {
        self.new_row.clone()
    }

    /// Its last byte is written.
    pub fn finish(&self, mut pending: Box<PendingPart>) {
        if !self.is_local {
            pending.release_seals();
        }
        let row = pending.row.clone();
        *self.pending.lock() = Some(pending);
        self.finished.send_replace(Some(row));
    }

    /// Waits until the part is complete; returns its row, without holders.
    pub async fn finished(&self) -> catalog::Part {
        let mut finished = self.finished.subscribe();
        let row = finished.wait_for(Option::is_some).await.map(|row| row.clone());
        match row {
            Ok(Some(row)) => row,
            // The sender is in this part: it is not closed.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Whether it is complete.
    pub fn is_finished(&self) -> bool {
        self.finished.borrow().is_some()
    }

    /// The catalog's row, with the present holders, if the part is complete.
    pub fn row(&self) -> Option<catalog::Part> {
        let row = self.finished.borrow().clone()?;
        Some(catalog::Part { holders: self.holders().iter().map(|id| id.0).collect(), ..row })
    }

    /// Row and bytes of a small part that is complete.
    pub fn content(&self) -> Option<(catalog::Part, Bytes)> {
        let pending = self.pending.lock();
        let pending = pending.as_ref()?;
        Some((pending.row.clone(), pending.content.clone()?))
    }

    /// The file of a part that is complete, to make it durable here; none if it was taken or released before.
    pub fn take_file(&self) -> Option<UnsyncedFile> {
        self.pending.lock().as_mut()?.take_file()
    }

    /// No further copy needs the file or the content.
    pub fn release(&self) {
        let pending = self.pending.lock().take();
        drop(pending);
    }

    /// A node has made it durable. This node comes first.
    pub fn add_holder(&self, node: NodeId, is_this_node: bool) {
        let mut holders = self.holders.lock();
        let at = if is_this_node { 0 } else { holders.len() };
        holders.insert(at, node);
    }

    /// The nodes that have made it durable.
    pub fn holders(&self) -> Vec<NodeId> {
        self.holders.lock().clone()
    }

    /// A node is ordered to copy it.
    pub fn add_ordered(&self, node: NodeId) {
        self.ordered.lock().push(node);
    }

    /// The nodes that were ordered to copy it.
    pub fn ordered(&self) -> Vec<NodeId> {
        self.ordered.lock().clone()
    }
}
