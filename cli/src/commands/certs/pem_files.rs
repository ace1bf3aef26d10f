//! The files of certificates: read whole, and written so that none is ever incomplete, replaced by accident, or a key that
//! others can read.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use volley_common::{Code, Error, Result};

use crate::certificates::{CertificateAndKey, CertificateAuthority};
use crate::formats::io_error;

/// The name of an authority's files, without extension.
const CA: &str = "ca";
/// The file with an authority's certificate.
pub const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// Only the owner reads keys.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFiles {
    /// The certificate, and what it is issued by.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl PemFiles {
    /// The files `STEM.crt` and `STEM.key` of a folder.
    pub fn new(folder: &Path, stem: &str) -> Self {
        PemFiles { certificate: folder.join(format!("{stem}.crt")), key: folder.join(format!("{stem}.key")) }
    }
}

/// A whole file.
///
/// # Errors
/// Those of the system, with the file's path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| io_error(path, &e))
}

/// The authority of a folder.
///
/// # Errors
/// A missing or unreadable file, or one that is no authority's; each says what to do.
pub fn read_authority(folder: &Path) -> Result<CertificateAuthority> {
    let text = |name: &str| {
        let bytes = read(&folder.join(name)).map_err(|error| unreadable_authority(folder, error))?;
        // What is not UTF-8 is no PEM, which the parser reports.
        Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    CertificateAuthority::from_pem(&text(CA_CERTIFICATE)?, &text(CA_KEY)?).map_err(|e| e.at(folder.display()))
}

/// Adds what helps to the error of reading an authority's file.
fn unreadable_authority(folder: &Path, mut error: Error) -> Error {
    let folder = folder.display();
    error.message += &match error.code {
        Code::NotFound => {
            format!("; make an authority with `volley certs init {folder}`, or name the folder that has one")
        }
        Code::PermissionDenied => {
            format!("; run this as the owner of that file, who ran `volley certs init {folder}`")
        }
        _ => format!("; {folder} must be the folder of `volley certs init`"),
    };
    error
}

/// Writes the files of an authority; the folder is created if it is missing.
///
/// # Errors
/// ALREADY_EXISTS: the folder has an authority, and not `force`. Otherwise those of the system.
pub fn write_authority(folder: &Path, made: &CertificateAndKey, force: bool) -> Result<PemFiles> {
    std::fs::create_dir_all(folder).map_err(|e| io_error(folder, &e))?;
    write(folder, CA, made, force)
}

/// Writes a key and its certificate as `STEM.key` and `STEM.crt`. Each file appears whole; if one cannot be written, a new
/// one of the other is removed.
///
/// # Errors
/// ALREADY_EXISTS: one of them is there, and not `force`. Otherwise those of the system.
pub fn write(folder: &Path, stem: &str, pair: &CertificateAndKey, force: bool) -> Result<PemFiles> {
    let files = PemFiles::new(folder, stem);
    if !force {
        // Before the first is written, so that none is left alone.
        let present = [&files.key, &files.certificate].into_iter().find(|path| path.symlink_metadata().is_ok());
        present.map_or(Ok(()), |path| Err(exists(path)))?;
    }
    write_file(&files.key, &pair.key, KEY_MODE, force)?;
    write_file(&files.certificate, &pair.certificate, CERTIFICATE_MODE, force).inspect_err(|_| {
        if !force {
            let _ = std::fs::remove_file(&files.key);
        }
    })?;
    Ok(files)
}

fn exists(path: &Path) -> Error {
    let what = match path.file_name().is_some_and(|name| name == CA_CERTIFICATE || name == CA_KEY) {
        true => {
            "--force replaces the authority, and then nothing that it has issued is trusted; another folder keeps both"
        }
        false => "--force replaces the certificate and its key",
    };
    Error::exists(format!("{} exists: {what}", path.display()))
}

/// Writes a file under a temporary name in the same folder, with its mode from the beginning, and renames it.
fn write_file(path: &Path, text: &str, mode: u32, replace: bool) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let failed = |e: std::io::Error| io_error(path, &e);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".volley-certs-").permissions(Permissions::from_mode(mode));
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let persisted = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    match persisted {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(e) => Err(failed(e.error)),
    }
}
