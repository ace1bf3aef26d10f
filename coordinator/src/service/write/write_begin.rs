//! How the begin of a planned write is proposed. That of a plain put is not waited for: its node gets the plan as soon as the begin is on its
//! way into the leader's log, and the commit, which comes later in the log, finds it there.

use futures::FutureExt;
use volley_common::Result;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{BeginWrite, Node, Write};
use volley_common::wire::cluster::{BeginWriteRequest, WritePlan};

use super::WriteService;
use crate::catalog::Catalog;
use crate::catalog::replies::unexpected_reply;
use crate::planner::write_targets::retarget;

/// The write that a plain put will begin, if its plan may be sent before that is committed: its id is new, and the catalog would not refuse
/// it now. What does not fit goes the ordinary way, which says why it is refused.
pub(super) fn preview(catalog: &Catalog, command: &BeginWrite, request: &BeginWriteRequest) -> Option<Write> {
    let is_plain = request.may_begin_early
        && command.writer != 0
        && !command.staged
        && !command.query_result
        && command.transaction.is_empty();
    let is_new = is_plain && catalog.write(&command.id).is_none();
    if is_new { catalog.preview_write(command).ok() } else { None }
}

impl WriteService {
    /// Begins a write, and returns its plan when that is committed.
    pub(super) async fn propose_begin(&self, command: BeginWrite, nodes: Vec<Node>) -> Result<WritePlan> {
        match self.raft.propose(Op::BeginWrite(command)).await? {
            Reply::Write(write) => {
                let write = Some(retarget(write, &nodes));
                Ok(WritePlan { write, nodes, lease_ms: self.lease_ms, early: false })
            }
            other => Err(unexpected_reply("begin_write", &other)),
        }
    }

    /// Begins a write, and returns its plan before that is committed; none if this coordinator cannot. `write`: the one that is begun.
    pub(super) async fn begin_early(&self, command: &BeginWrite, write: Write, nodes: &[Node]) -> Option<WritePlan> {
        if !self.raft.is_leader() {
            return None;
        }
        // Before anything of the write can be reported.
        let pending = self.pending_begins.add(&command.id)?;
        // Boxed: the futures around it nest as deep as the compiler allows.
        let outcome = self.raft.propose_early(Op::BeginWrite(command.clone())).boxed().await.ok()?;
        let id = command.id.clone();
        tokio::spawn(async move {
            if let Err(error) = outcome.await {
                tracing::warn!(write = id, %error, "a write whose plan was sent was not begun");
            }
            drop(pending);
        });
        let (write, nodes) = (Some(retarget(write, nodes)), nodes.to_vec());
        Some(WritePlan { write, nodes, lease_ms: self.lease_ms, early: true })
    }
}
