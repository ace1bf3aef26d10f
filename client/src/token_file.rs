//! Reads the token of a file, as Kubernetes and other systems replace it from time to time.
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use volley_common::identity::Secret;
use volley_common::{Error, Result};

/// Larger files are no tokens.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The text of a file.
///
/// # Errors
/// INVALID_ARGUMENT naming the file, never its content: it cannot be read, is too large, or is not text.
pub(super) async fn read_token(path: &Path) -> Result<Secret> {
    let path = PathBuf::from(path);
    // A network file system that hangs stalls no other task.
    let read = tokio::task::spawn_blocking(move || read_blocking(&path));
    read.await.unwrap_or_else(|_| Err(Error::internal("the thread that reads the token file panicked")))
}

fn read_blocking(path: &Path) -> Result<Secret> {
    let bad = |why: String| Err(Error::invalid(format!("the token file {}: {why}", path.display())));
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 > MAX_FILE_BYTES => {
            bad(format!("it has more than {MAX_FILE_BYTES} bytes: give a file with a token alone"))
        }
        Ok(_) => Ok(Secret::new(text)),
        Err(e) => bad(format!("it cannot be read ({e}): check the path and its permissions")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unusable_file_is_named_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let error = async || read_token(&path).await.err().unwrap().message;
        assert!(error().await.contains("cannot be read"));
        std::fs::write(&path, vec![b'x'; MAX_FILE_BYTES as usize + 1]).unwrap();
        let text = error().await;
        assert!(text.contains("more than 65536 bytes") && text.contains("token") && !text.contains("xxx"), "{text}");
        std::fs::write(&path, b"a\xff").unwrap();
        assert!(error().await.contains("cannot be read"));
        std::fs::write(&path, "volley_1_2\n").unwrap();
        assert_eq!(read_token(&path).await.unwrap().expose(), "volley_1_2\n");
    }
}
