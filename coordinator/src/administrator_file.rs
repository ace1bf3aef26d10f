//! A file with an administrator, one line `name:password`: that of the setting `bootstrap_admin_file` or `reset_admin_file`.

use std::io::Read;
use std::path::Path;

use volley_common::identity::{Secret, check_password, check_principal_name};
use volley_common::{Error, Result};

/// The longest file: a name and a password have at most 1,152 bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// The setting with the file of the first administrator.
const BOOTSTRAP: &str = "bootstrap_admin_file";
/// The setting with the file of an administrator who was lost.
const RESET: &str = "reset_admin_file";

/// Checks the files of both settings, where they are given, as `--check-config` does. Blocks.
///
/// # Errors
/// INVALID_ARGUMENT: a file cannot be read, is not one line `name:password`, or its password may not be chosen. It names the
/// setting, the file and the remedy.
pub fn check_administrator_files(bootstrap: Option<&Path>, reset: Option<&Path>) -> Result<()> {
    [(BOOTSTRAP, bootstrap), (RESET, reset)].into_iter().try_for_each(|(setting, path)| check_file(setting, path))
}

/// The same at a start. A file whose work is done may be gone, since both are to be removed: a warning is logged.
/// `has_administrators`: the cluster has users or grants; `was_reset`: an administrator was reset before.
///
/// # Errors
/// INVALID_ARGUMENT, as [`check_administrator_files`]: the file is needed now.
pub async fn check_at_start(
    bootstrap: Option<&Path>,
    reset: Option<&Path>,
    has_administrators: bool,
    was_reset: bool,
) -> Result<()> {
    for (setting, path, is_done) in [(BOOTSTRAP, bootstrap, has_administrators), (RESET, reset, was_reset)] {
        let path = path.map(Path::to_path_buf);
        let check = tokio::task::spawn_blocking(move || check_file(setting, path.as_deref())).await;
        match check.map_err(|e| Error::internal(format!("reading the file: {e}"))).flatten() {
            Err(error) if is_done => {
                tracing::warn!(%error, "{setting} cannot be used, and need not be: remove the setting")
            }
            checked => checked?,
        }
    }
    Ok(())
}

fn check_file(setting: &str, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let read = read_blocking(path).and_then(|(_, password)| check_password(&password));
    read.map_err(|error| {
        Error::invalid(format!(
            "{setting} {}: {}. Write one line name:password into it, or remove the setting",
            path.display(),
            error.message
        ))
    })
}

/// The name and the password in a file. No error repeats what it contains.
///
/// # Errors
/// INVALID_ARGUMENT: it cannot be read, or is not one line `name:password`.
pub async fn read_administrator(path: &Path) -> Result<(String, Secret)> {
    let path = path.to_path_buf();
    let read = tokio::task::spawn_blocking(move || read_blocking(&path)).await;
    read.map_err(|e| Error::internal(format!("reading the file: {e}"))).flatten()
}

fn read_blocking(path: &Path) -> Result<(String, Secret)> {
    let cannot_read =
        |e: std::io::Error| Error::invalid(format!("it cannot be read ({e}): check the path and its permissions"));
    // A FIFO would block the thread until somebody writes to it.
    if !std::fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(Error::invalid("it is not a file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot_read)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    parse_administrator(&bytes)
}

fn parse_administrator(bytes: &[u8]) -> Result<(String, Secret)> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::invalid(format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Error::invalid("it is not UTF-8 text"))?;
    let line = text.trim_end_matches(['\r', '\n']);
    let parts = line.split_once(':').filter(|_| !line.contains(['\r', '\n']));
    let (name, password) = parts.ok_or_else(|| Error::invalid("it is not one line \"name:password\""))?;
    // The error of a name would repeat it, and it may be a password in the wrong place.
    check_principal_name(name).map_err(|_| {
        Error::invalid("the name before the colon cannot be a user's: at most 128 bytes, no blanks around it, no control characters")
    })?;
    Ok((name.to_string(), Secret::new(password)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn administrator_is_one_line_with_a_name_and_a_password() {
        for text in ["root:pass:word ", "root:pass:word \n", "root:pass:word \r\n"] {
            let (name, password) = parse_administrator(text.as_bytes()).unwrap();
            assert_eq!((name.as_str(), password.expose()), ("root", "pass:word "));
        }
    }

    #[test]
    fn malformed_file_is_refused_without_its_content() {
        let long = format!("root:{}", "hunter2".repeat(1000));
        for text in
            ["", "\n", "hunter2", "root:hunter2\nother:hunter2", ":hunter2", " hunter2:x", "hunter2\u{1}:x", &long]
        {
            let error = parse_administrator(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(!error.message.contains("hunter2"), "{error}");
        }
        assert!(parse_administrator(b"root:\xff").unwrap_err().message.contains("UTF-8"));
    }

    #[tokio::test]
    async fn file_is_checked_until_its_work_is_done() {
        let dir = tempfile::TempDir::new().unwrap();
        let (missing, short, good) = (dir.path().join("none"), dir.path().join("short"), dir.path().join("good"));
        std::fs::write(&short, "root:hunter2\n").unwrap();
        std::fs::write(&good, "root:a password\n").unwrap();
        for (path, why) in [(&missing, "cannot be read"), (&short, "7 bytes")] {
            for (bootstrap, reset, setting) in
                [(Some(path.as_path()), None, BOOTSTRAP), (Some(good.as_path()), Some(path.as_path()), RESET)]
            {
                let error = check_administrator_files(bootstrap, reset).unwrap_err();
                assert_eq!(error.code, Code::InvalidArgument);
                let said = &error.message;
                assert!(said.starts_with(&format!("{setting} {}", path.display())) && said.contains(why), "{said}");
                assert!(said.contains("remove the setting") && !said.contains("hunter2"), "{said}");
                assert_eq!(check_at_start(bootstrap, reset, false, false).await, Err(error));
                check_at_start(bootstrap, reset, true, true).await.unwrap();
            }
        }
        check_at_start(Some(&missing), None, false, true).await.unwrap_err();
        check_at_start(None, Some(&missing), true, false).await.unwrap_err();
        check_administrator_files(Some(&good), Some(&good)).unwrap();
        check_administrator_files(None, None).unwrap();
    }

    #[test]
    fn missing_file_and_folder_are_named_as_such() {
        let dir = tempfile::TempDir::new().unwrap();
        assert!(read_blocking(dir.path()).unwrap_err().message.contains("not a file"));
        assert!(read_blocking(&dir.path().join("none")).unwrap_err().message.contains("cannot be read"));
        let file = dir.path().join("admin");
        std::fs::write(&file, "root:a password\n").unwrap();
        assert_eq!(read_blocking(&file).unwrap().0, "root");
    }
}
