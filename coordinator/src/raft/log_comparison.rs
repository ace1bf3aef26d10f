//! The leader compares the committed entries of its log with those of the other members.
//!
//! Raft compares the ids of entries, not their contents: members whose entries have equal ids and different contents diverge
//! without an error. That takes a fault of memory, of a disk or of the program, or a process that claims to be the leader.
//! So the leader asks every member for the checksums of recent committed entries. A difference is logged, reported by the
//! cluster's status, and counted by a metric.
//!
//! An older program drops the fields that it does not know from the entries that it stores, for example as a follower during
//! a rolling upgrade. So members compare only entries that both appended since they started, and only if the programs that
//! now run define entries in the same way.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use prost::Message;
use volley_common::wire::{ENTRY_DEFINITIONS, raft as wire};
use volley_common::{Error, Result};

use super::context::RaftContext;
use super::rpc::convert::entry_out;
use super::rpc::network::raft_client;
use super::types::RaftPeer;

/// Timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of entries in one request.
const MAX_ENTRIES: u64 = 1024;

/// The version, and a checksum of how entries are defined: builds of one version may differ.
static SOFTWARE: LazyLock<String> = LazyLock::new(|| {
    let definitions = ENTRY_DEFINITIONS.iter().fold(0, |crc, text| crc32c::crc32c_append(crc, text.as_bytes()));
    format!("{}+{definitions:08x}", env!("CARGO_PKG_VERSION"))
});

/// Compares forever, while this coordinator leads.
pub async fn run(ctx: &RaftContext) {
    // By data folder: the index up to which its log was compared.
    let mut compared: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        tokio::time::sleep(ctx.config.log_comparison_interval).await;
        if !ctx.is_leader() {
            compared.clear();
            ctx.diverged.lock().clear();
            continue;
        }
        let members = ctx.committed_members();
        let store_of = |id: &u64| members.get_node(id).map(|peer| peer.store_id);
        // A member that came back with an empty folder has copied the leader's log.
        ctx.diverged.lock().retain(|id, (store, _)| store_of(id) == Some(*store));
        for (id, peer) in members.nodes().filter(|(id, _)| **id != ctx.config.id) {
            let from = compared.entry(peer.store_id).or_insert_with(|| ctx.applied_index().saturating_sub(MAX_ENTRIES));
            match compare(ctx, *id, peer, *from + 1).await {
                Ok(last) => *from = last.unwrap_or(*from),
                // A member that does not answer is reported elsewhere, and compared later.
                Err(error) => tracing::debug!(coordinator = id, %error, "the logs were not compared"),
            }
        }
    }
}

/// Compares entries from `first` on; returns the index of the last one that was compared, or that the member does not have.
async fn compare(ctx: &RaftContext, id: u64, peer: &RaftPeer, first: u64) -> Result<Option<u64>> {
    let ours = checksums(ctx, first).await?;
    if ours.checksums.is_empty() {
        return Ok(None);
    }
    let request = wire::LogChecksumsRequest { first: ours.first };
    let call = async { raft_client(ctx.channel(id, &peer.addr)?).log_checksums(request).await.map_err(Error::from) };
    let reply = tokio::time::timeout(TIMEOUT, call).await.map_err(|_| Error::deadline("no answer in time"))?;
    let theirs = reply?.into_inner();
    if theirs.software != *SOFTWARE {
        return Ok(None);
    }
    let outcome = compared_until(&ours, &theirs);
    if let Err(index) = outcome {
        let text = format!(
            "coordinator {id} at {} has another entry {index} in its log than the leader: stop it, empty its data folder and start it again",
            peer.addr
        );
        tracing::error!("{text}");
        ctx.diverged.lock().insert(id, (peer.store_id, text));
    }
    Ok(outcome.unwrap_or_default())
}

/// The last index that both have; else the last of ours, if theirs begin later; else none, because theirs end earlier.
///
/// # Errors
/// The first index at which they differ.
fn compared_until(
    ours: &wire::LogChecksumsReply,
    theirs: &wire::LogChecksumsReply,
) -> std::result::Result<Option<u64>, u64> {
    let theirs_first = theirs.first;
    let indexed = |reply: &wire::LogChecksumsReply| -> BTreeMap<u64, u32> {
        (reply.first..).zip(reply.checksums.iter().copied()).collect()
    };
    let (ours, theirs) = (indexed(ours), indexed(theirs));
    let our_last = ours.last_key_value().map(|(index, _)| *index);
    let mut last = our_last.filter(|index| theirs_first > *index);
    for (index, checksum) in &ours {
        match theirs.get(index) {
            Some(their_checksum) if their_checksum != checksum => return Err(*index),
            Some(_) => last = Some(*index),
            None => {}
        }
    }
    Ok(last)
}

/// The checksums of committed entries of this coordinator's log, from `first` on: those that it appended since it started,
/// still has, and has applied.
///
/// # Errors
/// INTERNAL: the log cannot be read.
pub async fn checksums(ctx: &RaftContext, first: u64) -> Result<wire::LogChecksumsReply> {
    let first = first.max(ctx.log.first_appended());
    let end = ctx.applied_index().saturating_add(1).min(first.saturating_add(MAX_ENTRIES));
    let entries = ctx.log.entries(first, end).await.map_err(|e| Error::internal(format!("the Raft log: {e}")))?;
    Ok(wire::LogChecksumsReply {
        first: entries.first().map_or(first, |entry| entry.log_id.index),
        checksums: entries.iter().map(|entry| crc32c::crc32c(&entry_out(entry).encode_to_vec())).collect(),
        software: SOFTWARE.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(first: u64, checksums: &[u32]) -> wire::LogChecksumsReply {
        wire::LogChecksumsReply { first, checksums: checksums.to_vec(), software: SOFTWARE.clone() }
    }

    #[test]
    fn entries_that_both_have_are_compared() {
        let ours = reply(10, &[1, 2, 3, 4]);
        assert_eq!(compared_until(&ours, &reply(10, &[1, 2, 3, 4, 5])), Ok(Some(13)));
        assert_eq!(compared_until(&ours, &reply(12, &[3])), Ok(Some(12)));
        assert_eq!(compared_until(&ours, &reply(14, &[9])), Ok(Some(13)), "it has none of these");
        assert_eq!(compared_until(&ours, &reply(10, &[])), Ok(None), "it does not have them yet");
        assert_eq!(compared_until(&ours, &reply(11, &[2, 7, 4])), Err(12));
    }
}
