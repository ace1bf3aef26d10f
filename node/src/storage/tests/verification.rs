//! When a part is trusted, verified or quarantined; what happens when its file changes.

use std::fs::{self, File};
use std::path::Path;

use volley_common::PartId;
use volley_common::error::Code;
use volley_common::wire::catalog::Compression;

use super::super::*;
use super::{batch, corrupt, only_file, open, put, served};

fn is_trusted(store: &PartStore, id: PartId) -> bool {
    store.0.inventory.get(id).unwrap().trusted().is_some()
}

#[test]
fn only_a_clean_stop_keeps_files_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (put(&store, &[batch()], Compression::None), put(&store, &[batch()], Compression::Lz4));
    store.save_verification_log(true);
    drop(store);
    let store = open(dir.path());
    assert!(is_trusted(&store, one.id) && is_trusted(&store, two.id));
    drop(store);
    // No clean stop this time.
    let store = open(dir.path());
    assert!(!is_trusted(&store, one.id) && !is_trusted(&store, two.id));
    assert_eq!(served(&store.part(one.id).unwrap().unwrap()), [batch()]);
    store.save_verification_log(true);
    drop(store);
    let store = open(dir.path());
    assert!(is_trusted(&store, one.id), "it was verified");
    assert!(!is_trusted(&store, two.id), "not verified since the unclean stop");
}

#[test]
fn file_changed_while_down_is_verified_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    store.save_verification_log(true);
    drop(store);
    corrupt(&only_file(dir.path()), 300);
    let store = open(dir.path());
    assert!(!is_trusted(&store, sealed.id));
    assert_eq!(store.part(sealed.id).unwrap_err().code, Code::DataLoss);
    assert_eq!(store.take_lost().0, [sealed.id]);
}

#[test]
fn file_changed_while_mapped_is_quarantined() {
    let changes: [fn(&Path); 4] = [
        |path| corrupt(path, 300),
        |path| drop(File::options().write(true).open(path).unwrap().set_len(10)),
        |path| drop(File::options().write(true).truncate(true).open(path).unwrap()),
        |path| fs::remove_file(path).unwrap(),
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let sealed = put(&store, &[batch()], Compression::None);
        let part = store.part(sealed.id).unwrap().unwrap();
        let path = only_file(dir.path());
        change(&path);
        assert_eq!(part.check_unchanged().is_ok(), !path.exists(), "a removed file stays readable through its mapping");
        if path.exists() {
            let error = store.part(sealed.id).unwrap_err();
            assert_eq!(error.code, Code::DataLoss, "{error}");
            assert_eq!((store.take_lost().0, store.status().quarantined), (vec![sealed.id], 1));
            assert!(store.status().degraded_reason.contains("read errors: 1"));
            assert!(!store.holds(sealed.id));
        }
    }
}

#[test]
fn prefault_of_truncated_pages_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    let part = store.part(sealed.id).unwrap().unwrap();
    part.prefault(std::iter::once(0..part.len())).unwrap();
    File::options().write(true).open(only_file(dir.path())).unwrap().set_len(4096).unwrap();
    part.prefault(std::iter::once(0..4096)).unwrap();
    assert_eq!(part.prefault(std::iter::once(0..part.len())).unwrap_err().code, Code::DataLoss);
}

#[test]
fn least_recently_verified_part_is_next() {
    const HOUR: u64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids = [(); 3].map(|()| put(&store, &[batch()], Compression::None).id);
    assert_eq!(store.next_to_verify(HOUR), None, "writing counts as verification");
    let age = |id: PartId, hours: u64| store.0.inventory.age_verification(id, hours * HOUR);
    age(ids[1], 3);
    age(ids[2], 2);
    assert_eq!(store.next_to_verify(HOUR), Some(ids[1]));
    store.save_verification_log(false);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.next_to_verify(HOUR), Some(ids[1]), "after a restart");
    store.verify(ids[1]).unwrap();
    assert_eq!(store.next_to_verify(HOUR), Some(ids[2]));
    assert_eq!(store.verify_throttled(ids[2], |_| false).unwrap_err().code, Code::Cancelled);
    assert_eq!(store.next_to_verify(HOUR), Some(ids[2]), "a cancelled verification does not count");
    let path = store.0.inventory.get(ids[2]).unwrap().path();
    corrupt(&path, 300);
    assert_eq!(store.verify(ids[2]).unwrap_err().code, Code::DataLoss);
    assert_eq!(store.next_to_verify(HOUR), None);
    assert_eq!(store.take_lost().0, [ids[2]]);
}
