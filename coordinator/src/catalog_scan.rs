//! Long reads of the catalog, on a blocking thread so that the async tasks are not delayed.

use std::ops::Deref;

use volley_common::{Error, Result};

use crate::catalog::{Catalog, PartRow};
use crate::raft::Handle;

/// Parts of a slice: some ten milliseconds of work.
const SLICE: usize = 100_000;

/// Runs `work` on the local catalog. The local catalog may lag: for a linearizable read call [`Handle::read`] first, after
/// which it contains everything that was acknowledged before.
///
/// # Errors
/// INTERNAL: `work` panicked.
pub async fn scan_catalog<T: Send + 'static>(
    raft: &Handle,
    work: impl FnOnce(&Catalog) -> T + Send + 'static,
) -> Result<T> {
    let raft = raft.clone();
    let scan = tokio::task::spawn_blocking(move || work(&raft.view()));
    scan.await.map_err(|e| Error::internal(format!("a scan of the catalog failed: {e}")))
}

/// Runs `work` on all parts of the local catalog, by table and then in row order, in slices: commands are applied between them, which
/// would wait for seconds in a catalog of many million parts. What changes meanwhile may be seen or not. `state` goes from slice to
/// slice, and then to `finish`.
///
/// # Errors
/// INTERNAL: `work` or `finish` panicked.
pub async fn scan_parts<S: Send + 'static, T: Send + 'static>(
    raft: &Handle,
    state: S,
    work: impl Fn(&Catalog, &[&PartRow], &mut S) + Send + 'static,
    finish: impl FnOnce(S) -> T + Send + 'static,
) -> Result<T> {
    let raft = raft.clone();
    let scan = tokio::task::spawn_blocking(move || finish(in_slices(|| raft.view(), SLICE, state, work)));
    scan.await.map_err(|e| Error::internal(format!("a scan of the catalog's parts failed: {e}")))
}

fn in_slices<V: Deref<Target = Catalog>, S>(
    view: impl Fn() -> V,
    slice: usize,
    mut state: S,
    work: impl Fn(&Catalog, &[&PartRow], &mut S),
) -> S {
    let mut last = None;
    loop {
        let catalog = view();
        let parts: Vec<&PartRow> = catalog.parts_after(last).take(slice).collect();
        let Some(end) = parts.last().map(|part| (part.table, part.sort_key())) else { break };
        work(&catalog, &parts, &mut state);
        last = Some(end);
    }
    state
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use volley_common::PartId;
    use volley_common::wire::catalog::{Part, Row, row};

    use super::*;

    /// Parts with these ids; each table has the ids of one ten.
    fn catalog(ids: impl Iterator<Item = u64>) -> Catalog {
        let mut catalog = Catalog::default();
        for id in ids {
            let part = Part { id: Some(PartId(id.into()).into()), table: id / 10, seq: id, ..Part::default() };
            catalog.insert_row(Row { row: Some(row::Row::Part(part)) });
        }
        catalog
    }

    fn slices(catalogs: &[Catalog], slice: usize) -> Vec<Vec<u128>> {
        let views = Cell::new(0);
        let view = || {
            let number = views.replace(views.get() + 1);
            &catalogs[number.min(catalogs.len() - 1)]
        };
        in_slices(view, slice, Vec::new(), |_, parts, seen| {
            seen.push(parts.iter().map(|part| part.part_id().0).collect());
        })
    }

    #[test]
    fn slices_have_each_part_once_and_in_order() {
        let all: Vec<u128> = (1..=25).collect();
        for slice in [1, 7, 25, 26] {
            let slices = slices(&[catalog(1..=25)], slice);
            assert_eq!((slices.concat(), slices.len()), (all.clone(), 25_usize.div_ceil(slice)), "{slice}");
        }
        assert!(slices(&[Catalog::default()], 3).is_empty());
    }

    #[test]
    fn scan_goes_on_after_a_part_that_was_removed_meanwhile() {
        let (before, after) = (catalog(1..=25), catalog((1..=30).filter(|id| !(8..=12).contains(id))));
        let ids = |first: u128, last: u128| (first..=last).collect::<Vec<u128>>();
        assert_eq!(slices(&[before, after], 10), [ids(1, 10), ids(13, 22), ids(23, 30)]);
    }
}
