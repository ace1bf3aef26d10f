//! Parts that the catalog does not know after a recovery.

use volley_common::PartId;
use volley_common::wire::catalog::Compression;

use super::super::*;
use super::{batch, files, open, put};

#[test]
fn orphans_are_kept_whole_and_removed_when_their_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (lost, kept) = (put(&store, &[batch()], Compression::None), put(&store, &[batch()], Compression::None));
    let before = files(&dir.path().join("parts"));
    store.move_to_orphans(&[lost.id, PartId(1)]).unwrap();
    assert!(!store.holds(lost.id) && store.holds(kept.id) && store.part(lost.id).unwrap().is_none());
    let orphans = OrphanCount { files: 1, bytes: lost.bytes };
    assert_eq!(store.status().orphans, orphans);
    drop(store);

    // They are no parts after a restart either; their path below the time is the one that they had.
    let store = open(dir.path());
    assert_eq!((store.status().orphans, store.inventory().len()), (orphans, 1));
    let moved = files(&dir.path().join("orphaned"));
    let tail = |path: &std::path::Path| {
        path.components().rev().take(3).map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>()
    };
    assert!(moved.len() == 1 && before.iter().any(|path| tail(path) == tail(&moved[0])), "{moved:?}");

    store.remove_expired_orphans(60_000).unwrap();
    assert_eq!(store.status().orphans, orphans, "its time is not over");
    // Moved in an hour ago, as far as the folder tells.
    let batch_dir = moved[0].ancestors().nth(3).unwrap();
    let an_hour_ago = volley_common::clock::now_ms() / 1000 - 3600;
    std::fs::rename(batch_dir, batch_dir.with_file_name(an_hour_ago.to_string())).unwrap();
    store.remove_expired_orphans(60_000).unwrap();
    assert_eq!(store.status().orphans, OrphanCount::default());
    assert!(files(&dir.path().join("orphaned")).is_empty());
}

#[test]
fn part_that_cannot_be_moved_stays_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    // A file in place of the folder.
    std::fs::write(dir.path().join("orphaned"), b"").unwrap();
    let error = store.move_to_orphans(&[sealed.id]).unwrap_err();
    assert!(error.message.contains("cannot be moved"), "{error}");
    assert!(store.holds(sealed.id) && store.part(sealed.id).unwrap().is_some());
}

#[test]
fn node_stays_unreconciled_after_a_recovery_until_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.reconciled(), None);
    store.join("c").unwrap();
    store.seen_catalog().note(CatalogPosition { index: 70, epoch: 7 });
    store.record_seen_catalog(true);
    assert_eq!(store.reconciled().as_deref(), Some("c"), "it had no parts");
    store.join("c.1.00000007").unwrap();
    drop(store);
    let store = open(dir.path());
    let state = (store.cluster(), store.reconciled(), store.seen_catalog().position());
    assert_eq!(state, (Some("c.1.00000007".into()), Some("c".into()), CatalogPosition { index: 70, epoch: 7 }));
    let behind = CatalogPosition { index: 50, epoch: 8 };
    store.seen_catalog().note(behind);
    store.seen_catalog().freeze(true);
    store.seen_catalog().note(CatalogPosition { index: 71, epoch: 8 });
    assert_eq!(store.seen_catalog().position().index, 70);
    store.set_reconciled("c.1.00000007", behind).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.reconciled().as_deref(), store.seen_catalog().position()), (Some("c.1.00000007"), behind));
}
