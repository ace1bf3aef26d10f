use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use volley_common::Code;

use super::*;

fn put(path: &Path, text: &str) -> Result<u64> {
    let (target, mut file) = OutputTarget::open(path)?;
    file.write_all(text.as_bytes()).map_err(|e| io_error(path, &e))?;
    target.finish(file)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn replaced_file_keeps_its_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(put(&path, "new text").unwrap(), 8);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new text");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(names(folder.path()), ["t"]);
}

#[test]
fn symbolic_link_stays_and_its_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, link) = (folder.path().join("inner"), folder.path().join("link"));
    std::fs::create_dir(&inner).unwrap();
    symlink("inner/t", folder.path().join("middle")).unwrap();
    symlink("middle", &link).unwrap();
    // First to a file that does not exist yet.
    for text in ["one", "two"] {
        put(&link, text).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("middle"));
        assert_eq!(std::fs::read_to_string(inner.join("t")).unwrap(), text);
    }
    assert_eq!(names(&inner), ["t"]);
    symlink("loop", folder.path().join("loop")).unwrap();
    let error = put(&folder.path().join("loop"), "").unwrap_err();
    assert!(error.message.contains("loop"), "{error}");
}

#[test]
fn pipe_is_written_into() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        }
    });
    assert_eq!(put(&path, "through").unwrap(), 7);
    assert_eq!(reader.join().unwrap(), "through");
    assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), ["pipe"]);
}

#[test]
fn device_is_written_into() {
    assert_eq!(put(Path::new("/dev/null"), "gone").unwrap(), 4);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let error = put(Path::new("/dev/full"), "no room").unwrap_err();
    assert!(error.message.contains("/dev/full") && error.message.contains("No space left"), "{error}");
}

#[test]
fn path_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = put(folder.path(), "").unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("is a folder"), "{error}");
    let error = put(&folder.path().join("new/"), "").unwrap_err();
    assert!(error.message.contains("new/ is a folder"), "{error}");
    let error = put(&folder.path().join("no/t"), "").unwrap_err();
    assert!(error.code == Code::NotFound && error.message.contains("there is no folder"), "{error}");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = put(&folder.path().join("file/t"), "").unwrap_err();
    assert!(error.message.contains("file/t"), "{error}");
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn standard_output_has_several_names() {
    assert!(["-", "/dev/stdout", "/proc/self/fd/1"].iter().all(|path| is_stdout(Path::new(path))));
    assert!(!is_stdout(Path::new("./-")));
}
