//! Parts before they are durable: on the node that writes them, and on those that copy them meanwhile.

use bytes::BytesMut;
use volley_common::error::Code;
use volley_common::wire::cluster::PartEnd;

use super::*;

#[test]
fn finished_part_is_held_only_after_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for keeps in [false, true] {
        let mut writer = store.create(spec(&batch(), Compression::None)).unwrap();
        if !keeps {
            writer.keep_off_disk();
        }
        writer.write(&batch()).unwrap();
        let finished = writer.finish().unwrap();
        let (sealed, content) = (finished.sealed(), finished.content().unwrap());
        assert_eq!((content.len() as u64, crc32c::crc32c(&content)), (sealed.bytes, sealed.crc32c));
        assert!(store.open_part_of(sealed.id).unwrap().is_complete() && !store.holds(sealed.id));
        match keeps {
            true => assert_eq!(finished.commit().unwrap(), sealed),
            false => drop(finished),
        }
        assert_eq!(store.holds(sealed.id), keeps);
        assert!(store.open_part_of(sealed.id).is_none() && files(&dir.path().join("tmp")).is_empty());
        assert_eq!(files(&dir.path().join("parts")).len(), usize::from(keeps));
    }
}

#[test]
fn open_part_that_stays_open_can_be_read_after_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.create(spec(&batch(), Compression::None)).unwrap();
    writer.write(&batch()).unwrap();
    let reader = store.open_part_of(writer.id()).unwrap();
    let sealed = writer.seal().unwrap();
    store.remove(&[sealed.id]).unwrap();
    let mut bytes = BytesMut::zeroed(sealed.bytes as usize);
    reader.read(0, &mut bytes).unwrap();
    assert_eq!(crc32c::crc32c(&bytes), sealed.crc32c);
}

#[test]
fn received_open_part_is_verified_by_the_end_that_comes_last() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (theirs, store) = (open(source.path()), open(target.path()));
    let sealed = put(&theirs, &[batch()], Compression::None);
    let part = theirs.part(sealed.id).unwrap().unwrap();
    let bytes = part.slice(0..part.len());
    let new_row = catalog::Part { bytes: 0, crc32c: 0, ..row(&sealed) };
    let receive = |end: Option<PartEnd>| {
        let mut receiver = store.receive_open(&new_row, &table()).unwrap();
        bytes.chunks(1000).for_each(|chunk| receiver.write(chunk).unwrap());
        end.into_iter().for_each(|end| receiver.set_end(end));
        receiver.finish()
    };
    let end = PartEnd { bytes: sealed.bytes, crc32c: sealed.crc32c };
    for (bad, code) in [
        (None, Code::Unavailable),
        (Some(PartEnd { crc32c: end.crc32c ^ 1, ..end }), Code::DataLoss),
        (Some(PartEnd { bytes: end.bytes + 1, ..end }), Code::DataLoss),
    ] {
        assert_eq!(receive(bad).unwrap_err().code, code, "{bad:?}");
        assert!(!store.holds(sealed.id) && files(&target.path().join("tmp")).is_empty());
    }
    receive(Some(end)).unwrap();
    store.verify(sealed.id).unwrap();
    assert_eq!(store.held(&[sealed.id]).len(), 1);
    assert_eq!(only_file(target.path()).file_name(), only_file(source.path()).file_name());
}
