//! Disks that are full, and files that are not what they were.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use volley_common::PartId;
use volley_common::error::Code;
use volley_common::wire::catalog::{self, Compression};

use super::tests::{batch, files, only_file, open, put, receive, row, served, spec, table};
use super::*;

fn harm(path: &Path, at: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xee], at).unwrap();
}

fn trusted(store: &Store, id: PartId) -> bool {
    store.0.index.lock()[&id].check.is_some_and(|check| check.trusted)
}

#[test]
fn above_the_high_mark_parts_are_refused_and_below_the_low_one_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), Watermarks { high: 80.0, low: 60.0 }).unwrap();
    let pretend = |free: u64| store.pretend(Some(Space { total: 1 << 40, free: (1 << 40) / 100 * free }));
    pretend(90);
    let sealed = put(&store, &[batch()], Compression::None);
    pretend(19);
    let other = catalog::Part { id: Some(PartId::random().into()), ..row(&sealed) };
    for error in [store.create(spec(&batch(), Compression::None)).err(), store.receive(&other, &table()).err()] {
        let error = error.unwrap();
        assert_eq!(error.code, Code::ResourceExhausted);
        for word in [store.node().to_string().as_str(), &dir.path().display().to_string(), "81.0 %", "209 GB free"] {
            assert!(error.message.contains(word), "{word}: {error}");
        }
    }
    assert!(
        store.condition().read_only_reason.contains("high watermark of 80 %")
            && files(&dir.path().join("tmp")).is_empty()
    );
    assert_eq!(served(&store.part(sealed.id).unwrap().unwrap()), [batch()], "it goes on serving");
    pretend(30);
    assert!(store.accepts(0).is_err(), "between the marks it stays as it is");
    pretend(41);
    put(&store, &[batch()], Compression::None);
    assert_eq!(store.condition().read_only_reason, "");
    pretend(21);
    assert!(store.accepts(1 << 30).is_ok() && store.accepts(1 << 38).is_err() && store.accepts(1 << 30).is_ok());
}

#[test]
fn the_space_is_looked_at_while_a_part_grows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let part = catalog::Part { id: Some(PartId(1).into()), write: "w".into(), bytes: 1 << 30, ..Default::default() };
    let mut receiver = store.receive(&part, &table()).unwrap();
    let chunk = vec![0; 16 << 20];
    receiver.write(&chunk).unwrap();
    store.pretend(Some(Space { total: 100, free: 1 }));
    receiver.write(&chunk).unwrap();
    receiver.write(&chunk).unwrap();
    assert_eq!(receiver.write(&chunk).unwrap_err().code, Code::ResourceExhausted);
    drop(receiver);
    assert!(files(&dir.path().join("tmp")).is_empty());
}

/// A file system of a few megabytes, unmounted when it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None, with the reason printed, where nothing may be mounted.
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(dir.path());
        match mount.output() {
            Ok(done) if done.status.success() => Some(SmallDisk(dir)),
            other => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here: {other:?}");
                None
            }
        }
    }

    /// Leaves so many bytes free; `None`: all.
    fn leave(&self, free: Option<u64>) {
        let path = self.0.path().join("ballast");
        let _ = fs::remove_file(&path);
        let Some(free) = free else { return };
        let fs = rustix::fs::statvfs(self.0.path()).unwrap();
        let ballast = (fs.f_bavail * fs.f_frsize).saturating_sub(free);
        fs::write(path, vec![1; ballast as usize]).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
    }
}

/// The disk fills up at every step of a part: its first bytes, its middle, its footer, what is received.
#[test]
fn a_disk_that_is_really_full_leaves_nothing_behind() {
    let Some(disk) = SmallDisk::mount("4m") else { return };
    let source_dir = tempfile::tempdir().unwrap();
    let source = open(source_dir.path());
    let wanted = put(&source, &[batch(), batch(), batch()], Compression::None);
    let bytes = fs::read(only_file(source_dir.path())).unwrap();
    let never = Watermarks { high: 100.0, low: 100.0 };
    let store = Store::open_with(&disk.0.path().join("data"), never).unwrap();
    let (tmp, parts) = (disk.0.path().join("data/tmp"), disk.0.path().join("data/parts"));
    let (mut failed, mut fitted) = (0, 0);
    for free in (0..bytes.len() as u64 + (256 << 10)).step_by(8 << 10) {
        disk.leave(Some(free));
        let written = store.create(spec(&batch(), Compression::None)).and_then(|mut writer| {
            (0..3).try_for_each(|_| writer.write(&batch()).map(drop))?;
            writer.seal().map(|sealed| sealed.id)
        });
        if let Ok(id) = written {
            assert_eq!(served(&store.part(id).unwrap().unwrap()), [batch(), batch(), batch()]);
            store.remove(&[id]).unwrap();
        }
        let received = receive(&store, &row(&wanted), &bytes).map(|()| wanted.id);
        store.remove(&[wanted.id]).unwrap();
        for result in [written, received] {
            match result {
                Ok(_) => fitted += 1,
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.code, Code::ResourceExhausted, "with {free} bytes free: {error}");
                    assert!(error.message.contains(&store.node().to_string()) && error.message.contains("free of"));
                }
            }
        }
        assert!(files(&tmp).is_empty() && files(&parts).is_empty(), "with {free} bytes free");
        assert!(store.stopped().is_none() && store.inventory().is_empty());
    }
    assert!(failed > 8 && fitted > 8, "{failed} failed, {fitted} fitted: this shows too little");
    disk.leave(None);
    put(&store, &[batch()], Compression::None);
}

#[test]
fn after_a_clean_stop_untouched_files_are_trusted_and_after_any_other_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (put(&store, &[batch()], Compression::None), put(&store, &[batch()], Compression::Lz4));
    store.remember(true);
    drop(store);
    let store = open(dir.path());
    assert!(trusted(&store, one.id) && trusted(&store, two.id));
    drop(store);
    // This time it did not stop cleanly.
    let store = open(dir.path());
    assert!(!trusted(&store, one.id) && !trusted(&store, two.id));
    assert_eq!(served(&store.part(one.id).unwrap().unwrap()), [batch()]);
    store.remember(true);
    drop(store);
    let store = open(dir.path());
    assert!(trusted(&store, one.id), "it was verified");
    assert!(!trusted(&store, two.id), "a clean stop says nothing of what was not verified since the unclean one");
}

#[test]
fn a_file_that_was_touched_while_the_node_was_down_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    store.remember(true);
    drop(store);
    harm(&only_file(dir.path()), 300);
    let store = open(dir.path());
    assert!(!trusted(&store, sealed.id));
    assert_eq!(store.part(sealed.id).unwrap_err().code, Code::DataLoss);
    assert_eq!(store.take_lost().0, [sealed.id]);
}

#[test]
fn a_file_that_is_changed_while_it_is_mapped_is_not_served_on() {
    let harms: [fn(&Path); 4] = [
        |path| harm(path, 300),
        |path| drop(File::options().write(true).open(path).unwrap().set_len(10)),
        |path| drop(File::options().write(true).truncate(true).open(path).unwrap()),
        |path| fs::remove_file(path).unwrap(),
    ];
    for harm in harms {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let sealed = put(&store, &[batch()], Compression::None);
        let part = store.part(sealed.id).unwrap().unwrap();
        let path = only_file(dir.path());
        harm(&path);
        assert_eq!(part.vouch().is_ok(), !path.exists(), "who has a removed file mapped may go on");
        if path.exists() {
            let error = store.part(sealed.id).unwrap_err();
            assert_eq!(error.code, Code::DataLoss, "{error}");
            assert_eq!((store.take_lost().0, store.condition().damaged), (vec![sealed.id], 1));
            assert!(store.condition().degraded_reason.contains("read errors: 1"));
            assert!(!store.holds(sealed.id));
        }
    }
}

#[test]
fn pages_that_are_gone_are_an_error_and_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    let part = store.part(sealed.id).unwrap().unwrap();
    part.bring_in(std::iter::once(0..part.len())).unwrap();
    File::options().write(true).open(only_file(dir.path())).unwrap().set_len(4096).unwrap();
    part.bring_in(std::iter::once(0..4096)).unwrap();
    assert_eq!(part.bring_in(std::iter::once(0..part.len())).unwrap_err().code, Code::DataLoss);
}

#[test]
fn a_messages_last_page_is_its_own() {
    let all = bytes::Bytes::from((0..40_000_u32).map(|at| at as u8).collect::<Vec<_>>());
    for (start, end) in [(0, 40_000), (5, 6), (0, 8192), (100, 20_001), (8191, 8193)] {
        for cuts in [vec![], vec![start + 1], vec![(start + end) / 2, end - 1]] {
            let mut edges = [vec![start], cuts, vec![end]].concat();
            edges.dedup();
            let mut slices: Vec<_> = edges.windows(2).map(|edge| all.slice(edge[0]..edge[1])).collect();
            own_last_page(&mut slices);
            assert_eq!(slices.concat(), all.slice(start..end));
            let last = (all.as_ptr() as usize + end - 1) / 4096 * 4096;
            let mapped = all.as_ptr() as usize..all.as_ptr() as usize + all.len();
            let ends = slices.iter().map(|slice| (slice.as_ptr() as usize, slice.as_ptr() as usize + slice.len()));
            let ends = ends.filter(|(from, _)| mapped.contains(from)).map(|(_, end)| end);
            let first_byte = (mapped.start + start <= last).then_some(last + 1);
            assert_eq!(ends.max(), first_byte, "{start}..{end}: the last page's first byte tells of a cut before it");
        }
    }
    // A last page whose first byte is not in the message tells of nothing: the page before it does.
    let page = (all.as_ptr() as usize).next_multiple_of(4096) - all.as_ptr() as usize;
    let mut slices = vec![all.slice(page..page + 5000), all.slice(page + 9000..page + 9010)];
    own_last_page(&mut slices);
    let lengths: Vec<usize> = slices.iter().map(bytes::Bytes::len).collect();
    assert_eq!(lengths, [4097, 903, 10]);
    assert_ne!(slices[2].as_ptr(), all[page + 9000..].as_ptr());
    own_last_page(&mut Vec::new());
    own_last_page(&mut vec![bytes::Bytes::new()]);
}

#[test]
fn the_part_that_was_not_verified_for_longest_is_next() {
    const HOUR: u64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids = [(); 3].map(|()| put(&store, &[batch()], Compression::None).id);
    assert_eq!(store.next_to_verify(HOUR), None, "they were verified as they were written");
    let age = |id: PartId, hours: u64| {
        store.0.index.lock().get_mut(&id).unwrap().check.as_mut().unwrap().at_ms -= hours * HOUR;
    };
    age(ids[1], 3);
    age(ids[2], 2);
    assert_eq!(store.next_to_verify(HOUR), Some(ids[1]));
    store.remember(false);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.next_to_verify(HOUR), Some(ids[1]), "that survives a restart");
    store.verify(ids[1]).unwrap();
    assert_eq!(store.next_to_verify(HOUR), Some(ids[2]));
    assert_eq!(store.verify_slowly(ids[2], |_| false).unwrap_err().code, Code::Cancelled);
    assert_eq!(store.next_to_verify(HOUR), Some(ids[2]), "not read to its end");
    let path = store.0.index.lock()[&ids[2]].path();
    harm(&path, 300);
    assert_eq!(store.verify(ids[2]).unwrap_err().code, Code::DataLoss);
    assert_eq!(store.next_to_verify(HOUR), None);
    assert_eq!(store.take_lost().0, [ids[2]]);
}
