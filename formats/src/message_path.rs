//! Paths in messages.

use std::path::{Path, PathBuf};

/// A path as messages name it: the URL of a file of an HTTP server without its query, in which a secret may be, and without a login.
pub fn message_path(path: &Path) -> PathBuf {
    let url = path.to_str().and_then(|text| text.split_once("://"));
    let Some((scheme @ ("http" | "https"), rest)) = url else { return path.to_path_buf() };
    let (host, file) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let named = format!("{scheme}://{host}{file}");
    PathBuf::from(named.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, file_error, io_error};

    #[test]
    fn names_of_http_files_have_no_secret() {
        let name = |text: &str| message_path(Path::new(text));
        assert_eq!(name("https://h:1/d/x.csv?signature=s#f"), Path::new("https://h:1/d/x.csv"));
        assert_eq!(name("https://user:secret@h/d/x.csv?q=1"), Path::new("https://h/d/x.csv"));
        assert_eq!(name("https://user:secret@h?q=1"), Path::new("https://h"));
        assert_eq!(name("https://user:a?b@h/x.csv"), Path::new("https://h/x.csv"));
        assert_eq!(name("a?b"), Path::new("a?b"));
        assert_eq!(name("s3://b/y=%2F/a?b#c.csv"), Path::new("s3://b/y=%2F/a?b#c.csv"));
        let url = Path::new("https://user:secret@h/x?signature=secret");
        let error = std::io::Error::other("it broke");
        for error in [Format::of(url).unwrap_err(), io_error(url, &error), file_error(url, error.into())] {
            assert!(error.message.contains("https://h/x") && !error.message.contains("secret"), "{error}");
        }
    }
}
