//! Which opens of a part share one mapping.

use std::sync::{Arc, Barrier};
use std::thread;

use volley_common::wire::catalog::Compression;

use super::{batch, open, put, served};

#[test]
fn concurrent_readers_open_a_part_once() {
    const READERS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = put(&store, &[batch()], Compression::None).id;
    let barrier = Barrier::new(READERS);
    let parts: Vec<_> = thread::scope(|scope| {
        let read = || {
            barrier.wait();
            store.part(id).unwrap().unwrap()
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(parts.iter().all(|part| Arc::ptr_eq(part, &parts[0])));
    assert!(store.cached(id).is_some_and(|part| Arc::ptr_eq(&part, &parts[0])));
}

#[test]
fn evicted_part_is_found_only_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = put(&store, &[batch()], Compression::None).id;
    let reader = store.part(id).unwrap().unwrap();
    store.evict(id);
    assert!(store.cached(id).is_some());
    drop(reader);
    assert!(store.cached(id).is_none());
    assert_eq!(served(&store.part(id).unwrap().unwrap()), [batch()]);
    assert!(store.cached(id).is_some(), "kept for the next reader");
}

#[test]
fn removed_part_is_not_found_though_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = put(&store, &[batch()], Compression::None).id;
    let reader = store.part(id).unwrap().unwrap();
    store.remove(&[id]).unwrap();
    assert!(store.cached(id).is_none() && store.part(id).unwrap().is_none());
    assert_eq!(served(&reader), [batch()]);
}
