//! The contexts of a user: clusters, each with what it takes to reach it, in one file of TOML.
//!
//! The file has tokens, so that it is for its owner alone: mode 0600, in a folder of mode 0700. It is replaced as a whole, by one
//! command at a time. docs/command-line.md describes its format, which other programs read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use volley_common::identity::Secret;
use volley_common::{Error, Result};

/// The file's name.
const FILE: &str = "contexts.toml";
/// A larger file is none of contexts.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The longest name of a context.
const MAX_NAME: usize = 64;
/// What the file begins with.
const HEADER: &str =
    "# Written by `volley login` and `volley context`, which keep no comments. It has tokens: for its owner alone.\n";

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFile {
    /// The context of commands that name no cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, ClusterContext>,
}

/// A cluster, and what it takes to reach it. There is never a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterContext {
    /// Addresses of members, `grpc://HOST:PORT` or `grpc+tls://HOST:PORT`.
    pub cluster: Vec<String>,
    /// The CAs that servers' certificates must be signed by (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate of the client, and its key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// See `tls_cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// The name that servers' certificates must have, if it is not the host of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// The token that calls carry.
    #[serde(default, with = "secret_text", skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file with the token that calls carry, which may be replaced. Not together with `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The id of `token`, if `volley login` created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// When `token` ends, milliseconds since 1970, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_ms: Option<u64>,
    /// Whom the cluster took the client for at the login: for people, not for logins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether tokens go to other machines without TLS, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plaintext_login: bool,
}

/// Secrets as strings of the file.
mod secret_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use volley_common::identity::Secret;

    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::expose).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Secret::new))
    }
}

impl ClusterContext {
    /// The addresses as one text.
    pub fn addresses(&self) -> String {
        self.cluster.join(",")
    }

    /// Takes out the token, and what is known about it.
    pub fn forget_login(&mut self) {
        (self.token, self.token_file, self.token_id) = (None, None, None);
        (self.token_expires_ms, self.user) = (None, None);
    }
}

impl ContextFile {
    /// The context of this name.
    ///
    /// # Errors
    /// NOT_FOUND: there is none; the error lists those that there are.
    pub fn context(&self, name: &str) -> Result<&ClusterContext> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = match known.is_empty() {
                true => "there is no context yet".into(),
                false => format!("there are {}", known.join(", ")),
            };
            Error::not_found(format!("there is no context {name:?}: {known}; `volley login --context NAME` makes one"))
        })
    }
}

/// The file and its folder.
#[derive(Clone, Debug)]
pub struct ContextStore {
    folder: PathBuf,
}

impl ContextStore {
    /// That of the user who runs this process: `$XDG_CONFIG_HOME/volley`, or `~/.config/volley`.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: neither variable names a folder.
    pub fn of_user() -> Result<Self> {
        ContextStore::found_by(|name| std::env::var_os(name)).ok_or_else(|| {
            Error::precondition(
                "contexts need a folder: set HOME, or XDG_CONFIG_HOME to the absolute path of a folder for settings",
            )
        })
    }

    /// The same from these variables. A path that is not absolute does not count, as the specification of XDG says.
    fn found_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let folder = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")))?;
        Some(ContextStore { folder: config.join("volley") })
    }

    /// The path of the file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// The contexts; none if there is no file.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: others can read the file, or it belongs to somebody else. INVALID_ARGUMENT: it is not a file of
    /// contexts, or cannot be read.
    pub fn read(&self) -> Result<ContextFile> {
        let path = self.path();
        let shown = path.display();
        let text = match read_private(&path) {
            Ok(text) => text,
            Err(ReadFailure::Missing) => return Ok(ContextFile::default()),
            Err(ReadFailure::Io(e)) => return Err(Error::invalid(format!("cannot read {shown}: {e}"))),
            Err(ReadFailure::Refused(why)) => return Err(Error::precondition(format!("{shown} {why}"))),
        };
        toml::from_str(&text).map_err(|e| {
            // Its own text would show the line, which may have a token.
            let line = e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let why = e.message();
            Error::invalid(format!(
                "{shown}, line {line}: {why}; repair the line, or use the `volley` that wrote the file"
            ))
        })
    }

    /// Changes the contexts. Other commands that change them wait meanwhile.
    ///
    /// # Errors
    /// Those of [`ContextStore::read`] and of `change`, after which the file is as before. UNAVAILABLE: it cannot be written.
    pub fn update<T>(&self, change: impl FnOnce(&mut ContextFile) -> Result<T>) -> Result<T> {
        let failed = |e: io::Error| Error::unavailable(format!("cannot write {}: {e}", self.path().display()));
        let _lock = self.locked().map_err(failed)?;
        let mut file = self.read()?;
        let result = change(&mut file)?;
        let text = toml::to_string(&file)
            .map_err(|e| Error::invalid(format!("the contexts cannot be written as TOML: {e}")))?;
        self.write(&format!("{HEADER}{text}")).map_err(failed)?;
        Ok(result)
    }

    /// The folder, for its owner alone, locked against other commands until the result is dropped.
    fn locked(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let folder = File::open(&self.folder)?;
        let permissions = folder.metadata()?.permissions();
        if permissions.mode() & 0o077 != 0 {
            folder.set_permissions(Permissions::from_mode(permissions.mode() & 0o700))?;
        }
        folder.lock()?;
        Ok(folder)
    }

    /// Replaces the file at once. A symbolic link stays one: its target is replaced.
    fn write(&self, text: &str) -> io::Result<()> {
        let path = fs::canonicalize(self.path()).unwrap_or_else(|_| self.path());
        let folder = path.parent().unwrap_or(&self.folder);
        // Created with mode 0600.
        let mut temporary = tempfile::Builder::new().prefix(".contexts").tempfile_in(folder)?;
        temporary.write_all(text.as_bytes())?;
        temporary.as_file().sync_all()?;
        temporary.persist(&path)?;
        File::open(folder)?.sync_all()
    }
}

/// Why the file was not read.
enum ReadFailure {
    Missing,
    Io(io::Error),
    /// It is not as secrets are kept; the text follows its path.
    Refused(String),
}

/// The text of a file that only its owner can read.
fn read_private(path: &Path) -> Result<String, ReadFailure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(ReadFailure::Missing);
        }
        // A service may run with the home folder of somebody else.
        Err(e) if e.kind() == ErrorKind::PermissionDenied && path.symlink_metadata().is_err() => {
            return Err(ReadFailure::Missing);
        }
        Err(e) => return Err(ReadFailure::Io(e)),
    };
    let metadata = file.metadata().map_err(ReadFailure::Io)?;
    check_private(path, &metadata).map_err(ReadFailure::Refused)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(ReadFailure::Io)?;
    Ok(text)
}

fn check_private(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let (mode, owner) = (metadata.mode(), metadata.uid());
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return Err("is no file".into());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("has more than {MAX_FILE_BYTES} bytes, so it is no file of contexts: remove it"));
    }
    // Root can read everything, and a system may mount what root owns.
    if owner != user && owner != 0 && user != 0 {
        return Err(format!(
            "belongs to another user ({owner}): remove it, or set XDG_CONFIG_HOME to a folder of yours"
        ));
    }
    if mode & 0o077 != 0 {
        return Err(format!(
            "has tokens, and others than its owner can use it (mode {:04o}): run `chmod 600 {}`, and if others may have read it, replace its tokens by `volley logout` and `volley login`",
            mode & 0o7777,
            path.display()
        ));
    }
    Ok(())
}

/// The name of a context, as an argument.
///
/// # Errors
/// What a name is.
pub fn context_name(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match (1..=MAX_NAME).contains(&text.len()) && text.chars().all(is_name) && !text.starts_with('-') {
        true => Ok(text.into()),
        false => {
            Err(format!("must be a name of at most {MAX_NAME} letters, digits, '.', '_' and '-', not with '-' first"))
        }
    }
}

#[cfg(test)]
mod tests;
