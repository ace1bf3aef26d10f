#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::PermissionsExt;

use super::*;

fn write(file: &mut RotatingFile, line: &str) {
    file.write_line(format!("{line}\n").as_bytes()).unwrap();
}

fn text(dir: &Path, name: &str) -> Option<String> {
    fs::read_to_string(dir.join(name)).ok()
}

#[test]
fn full_file_is_renamed_and_the_oldest_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut file = RotatingFile::open(&path, 10, 2).unwrap();
    for line in ["1111", "2222", "3333", "longer than a file", "4444"] {
        write(&mut file, line);
    }
    let found = |name| text(dir.path(), name);
    assert_eq!(found("a").as_deref(), Some("4444\n"));
    assert_eq!(found("a.1").as_deref(), Some("longer than a file\n"));
    assert_eq!((found("a.2").as_deref(), found("a.3")), (Some("3333\n"), None));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn file_that_another_program_renamed_is_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let (mut one, mut other) = (RotatingFile::open(&path, 100, 1).unwrap(), RotatingFile::open(&path, 100, 1).unwrap());
    write(&mut one, "1");
    fs::rename(&path, dir.path().join("moved")).unwrap();
    write(&mut one, "2");
    write(&mut other, "3");
    assert_eq!(text(dir.path(), "a").as_deref(), Some("2\n3\n"));
    assert_eq!(text(dir.path(), "moved").as_deref(), Some("1\n"));
}

#[test]
fn file_that_ends_within_a_line_gets_a_new_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "half a li").unwrap();
    let mut file = RotatingFile::open(&path, 100, 1).unwrap();
    write(&mut file, "whole");
    write(&mut file, "whole");
    assert_eq!(text(dir.path(), "a").as_deref(), Some("half a li\nwhole\nwhole\n"));
}

/// A folder in place of `a.1` cannot be overwritten by a file.
#[test]
fn file_that_cannot_be_renamed_grows() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a.1/in use")).unwrap();
    let mut file = RotatingFile::open(&dir.path().join("a"), 10, 1).unwrap();
    for line in ["1111", "2222", "3333"] {
        write(&mut file, line);
    }
    assert_eq!(text(dir.path(), "a").as_deref(), Some("1111\n2222\n3333\n"));
    fs::remove_dir_all(dir.path().join("a.1")).unwrap();
    write(&mut file, "4444");
    assert_eq!(text(dir.path(), "a").as_deref(), Some("4444\n"));
}

#[test]
fn check_refuses_what_cannot_be_opened_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    RotatingFile::check(&path).unwrap();
    assert!(!path.exists());
    fs::write(&path, "1\n").unwrap();
    RotatingFile::check(&path).unwrap();
    assert_eq!(text(dir.path(), "a").as_deref(), Some("1\n"));
    for bad in [dir.path().to_path_buf(), dir.path().join("no/a"), path.join("a")] {
        let error = RotatingFile::check(&bad).unwrap_err().message;
        assert_eq!(RotatingFile::open(&bad, 10, 1).err().map(|e| e.message), Some(error));
    }
}
