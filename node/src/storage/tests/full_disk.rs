//! Disks that fill up.

use std::fs;
use std::process::Command;

use volley_common::PartId;
use volley_common::error::Code;
use volley_common::wire::catalog::{self, Compression};

use super::super::*;
use super::{batch, files, only_file, open, put, receive, row, served, spec, table};

#[test]
fn watermarks_refuse_and_readmit_parts() {
    let dir = tempfile::tempdir().unwrap();
    let store = PartStore::open_with(dir.path(), Watermarks { high: 80.0, low: 60.0 }).unwrap();
    let leave = |free: u64| store.override_space(Some(DiskSpace { total: 1 << 40, free: (1 << 40) / 100 * free }));
    leave(90);
    let sealed = put(&store, &[batch()], Compression::None);
    leave(19);
    let other = catalog::Part { id: Some(PartId::random().into()), ..row(&sealed) };
    for error in [store.create(spec(&batch(), Compression::None)).err(), store.receive(&other, &table()).err()] {
        let error = error.unwrap();
        assert_eq!(error.code, Code::ResourceExhausted);
        for word in [store.node().to_string().as_str(), &dir.path().display().to_string(), "81.0 %", "209 GB free"] {
            assert!(error.message.contains(word), "{word}: {error}");
        }
    }
    assert!(
        store.status().read_only_reason.contains("high watermark of 80 %") && files(&dir.path().join("tmp")).is_empty()
    );
    assert_eq!(served(&store.part(sealed.id).unwrap().unwrap()), [batch()], "a full node still serves");
    leave(30);
    assert!(store.check_writable(0).is_err(), "between the watermarks nothing changes");
    leave(41);
    put(&store, &[batch()], Compression::None);
    assert_eq!(store.status().read_only_reason, "");
    leave(21);
    assert!(
        store.check_writable(1 << 30).is_ok()
            && store.check_writable(1 << 38).is_err()
            && store.check_writable(1 << 30).is_ok()
    );
}

#[test]
fn growing_part_is_refused_when_space_runs_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let part = catalog::Part { id: Some(PartId(1).into()), write: "w".into(), bytes: 1 << 30, ..Default::default() };
    let mut receiver = store.receive(&part, &table()).unwrap();
    let chunk = vec![0; 16 << 20];
    receiver.write(&chunk).unwrap();
    store.override_space(Some(DiskSpace { total: 100, free: 1 }));
    receiver.write(&chunk).unwrap();
    receiver.write(&chunk).unwrap();
    assert_eq!(receiver.write(&chunk).unwrap_err().code, Code::ResourceExhausted);
    drop(receiver);
    assert!(files(&dir.path().join("tmp")).is_empty());
}

/// A tmpfs of a few megabytes, unmounted on drop.
struct SmallTmpfs(tempfile::TempDir);

impl SmallTmpfs {
    /// `None`, with the reason printed, where mounting is not permitted.
    fn mount(size: &str) -> Option<SmallTmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(dir.path());
        match mount.output() {
            Ok(done) if done.status.success() => Some(SmallTmpfs(dir)),
            other => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here: {other:?}");
                None
            }
        }
    }

    /// Leaves this many bytes free; `None`: all.
    fn leave(&self, free: Option<u64>) {
        let path = self.0.path().join("ballast");
        let _ = fs::remove_file(&path);
        let Some(free) = free else { return };
        let fs = rustix::fs::statvfs(self.0.path()).unwrap();
        let ballast = (fs.f_bavail * fs.f_frsize).saturating_sub(free);
        fs::write(path, vec![1; ballast as usize]).unwrap();
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
    }
}

/// The disk fills up at every step: first bytes, middle, footer, a received part.
#[test]
fn full_disk_leaves_nothing_behind() {
    let Some(disk) = SmallTmpfs::mount("4m") else { return };
    let source_dir = tempfile::tempdir().unwrap();
    let source = open(source_dir.path());
    let wanted = put(&source, &[batch(), batch(), batch()], Compression::None);
    let bytes = fs::read(only_file(source_dir.path())).unwrap();
    let never = Watermarks { high: 100.0, low: 100.0 };
    let store = PartStore::open_with(&disk.0.path().join("data"), never).unwrap();
    store.override_space(None);
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
        assert!(store.write_failure().is_none() && store.inventory().is_empty());
    }
    assert!(failed > 8 && fitted > 8, "{failed} failed, {fitted} fitted: too few of one kind");
    disk.leave(None);
    put(&store, &[batch()], Compression::None);
}

#[test]
fn lack_of_files_or_memory_fails_one_write_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
        let error = store.0.volume.write_error("a new part", &std::io::Error::from_raw_os_error(code));
        assert_eq!(error.code, Code::Unavailable, "{error}");
        assert!(error.message.contains("just now") && store.write_failure().is_none(), "{error}");
    }
    put(&store, &[batch()], Compression::None);
    store.0.volume.write_error("a new part", &std::io::Error::from_raw_os_error(libc::EIO));
    assert!(store.write_failure().is_some_and(|why| why.contains("stopped accepting parts")));
}
