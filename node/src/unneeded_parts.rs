//! Removal of parts on this node's own account: only what the catalog proves to be unneeded at that moment.
//!
//! An error of a commit is no such proof, and neither is the request of another member. What stays is reported with the
//! inventory, and the leader decides.

use std::collections::HashSet;

use volley_common::wire::catalog;
use volley_common::wire::cluster::{DeletablePartsRequest, HeldPart};
use volley_common::{Error, PartId, Result};

use crate::coordinator_client::CoordinatorClient;
use crate::storage::PartStore;

/// Parts in one request.
const PAGE: usize = 10_000;

/// Removes those of the parts that this node holds as parts of `write` and that the catalog does not need here. Returns the
/// number of parts that stay.
///
/// # Errors
/// Those of the coordinators: then nothing more is removed. UNAVAILABLE: a file cannot be removed.
pub async fn remove_unneeded(
    store: &PartStore,
    coordinators: &CoordinatorClient,
    write: &str,
    parts: &[PartId],
) -> Result<usize> {
    let mut held = store.held(parts);
    held.retain(|part| part.write == write);
    let mut kept = held.len();
    for page in held.chunks(PAGE) {
        let request = DeletablePartsRequest { node: store.node().0, parts: page.to_vec() };
        let deletable = deletable_of(page, &coordinators.deletable_parts(request).await?);
        kept -= deletable.len();
        let store = store.clone();
        tokio::task::spawn_blocking(move || store.remove(&deletable))
            .await
            .map_err(|e| Error::internal(format!("removing parts: {e}")))??;
    }
    Ok(kept)
}

/// The parts of a request that the reply names. What else it names was not asked for, and stays.
fn deletable_of(page: &[HeldPart], reply: &[catalog::PartId]) -> Vec<PartId> {
    let named: HashSet<PartId> = reply.iter().map(PartId::from).collect();
    page.iter().filter_map(|part| part.id.as_ref()).map(PartId::from).filter(|id| named.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_that_were_asked_for_are_deletable() {
        let held = |id| HeldPart { id: Some(PartId(id).into()), ..HeldPart::default() };
        let reply: Vec<catalog::PartId> = [3, 2, 2, 9].map(|id| PartId(id).into()).into();
        assert_eq!(deletable_of(&[held(1), held(2), held(3)], &reply), [PartId(2), PartId(3)]);
        assert!(deletable_of(&[], &reply).is_empty());
    }
}
