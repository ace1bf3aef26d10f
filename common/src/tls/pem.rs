//! Certificates and keys, from PEM files. Every error names the setting, the file, what is wrong, and the remedy.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use super::identity::validity_of;
use super::provider::provider;
use crate::{Error, clock};

/// Larger files are no certificates: a bundle of all public CAs has a quarter of that.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// A certificate that expires within this time is reported: 14 days.
const EXPIRES_SOON_SECONDS: i64 = 14 * 86_400;

/// A file that a setting names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFile {
    /// The setting, as `tls_cert`.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl TlsFile {
    /// The file `path` of `setting`.
    pub fn new(setting: &'static str, path: impl Into<PathBuf>) -> Self {
        TlsFile { setting, path: path.into() }
    }

    fn bad(&self, why: impl fmt::Display) -> FileError {
        let message = format!("{self}: {why}");
        FileError { setting: self.setting, message }
    }

    fn read(&self) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        let read =
            std::fs::File::open(&self.path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Ok(length) if length as u64 > MAX_FILE_BYTES => Err(self
                .bad(format!("it has more than {MAX_FILE_BYTES} bytes: give a file of certificates or a key in PEM"))),
            Ok(_) => Ok(bytes),
            Err(e) => Err(self.bad(format!("it cannot be read ({e}): check the path and its permissions"))),
        }
    }
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.setting.replace('_', "-"), self.path.display())
    }
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The setting that names the file.
    pub setting: &'static str,
    /// The setting, the file, what is wrong, and the remedy.
    pub message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<FileError> for Error {
    /// INVALID_ARGUMENT.
    fn from(error: FileError) -> Self {
        Error::invalid(error.message)
    }
}

/// The certificates of a file, in their order; at least one.
///
/// # Errors
/// It cannot be read, is not PEM, or has no certificate.
pub fn certificates(file: &TlsFile) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = file.read()?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|e| file.bad(format!("it is not valid PEM ({e}): write it again")))?;
    if certificates.is_empty() {
        let holds_key = PrivateKeyDer::from_pem_slice(&bytes).is_ok();
        let found = if holds_key { "a private key and no certificate" } else { "no certificate" };
        return Err(file.bad(format!(
            "it has {found}: give a PEM file with BEGIN CERTIFICATE, the own certificate first and then its intermediate CAs"
        )));
    }
    Ok(certificates)
}

/// The private key of a file.
///
/// # Errors
/// It cannot be read, has no key, or the key is encrypted.
pub fn private_key(file: &TlsFile) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = file.read()?;
    if is_encrypted(&bytes) {
        return Err(file.bad(
            "the key is encrypted, and a server cannot ask for its passphrase: decrypt it with `openssl pkey -in KEY -out FILE`",
        ));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let holds_certificate = CertificateDer::from_pem_slice(&bytes).is_ok();
        let found = if holds_certificate { "a certificate and no private key" } else { "no private key" };
        file.bad(format!("it has {found}: give a PEM file with BEGIN PRIVATE KEY"))
    })
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// A certificate chain and its key. One that has expired, or is not valid yet, is no error: the clock may be wrong, and the
/// other side decides. The caller logs it, see [`CertificateValidity`].
///
/// # Errors
/// Those of [`certificates`] and [`private_key`]; the key belongs to another certificate, or is of an unknown kind.
pub fn certified_key(cert: &TlsFile, key: &TlsFile) -> Result<Arc<CertifiedKey>, FileError> {
    let (chain, private) = (certificates(cert)?, private_key(key)?);
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            key.bad(format!("the key does not belong to the first certificate of {cert}: give both files of one issue"))
        }
        rustls::Error::InvalidCertificate(e) => {
            cert.bad(format!("its first certificate cannot be used ({e:?}): issue another one"))
        }
        e => key.bad(format!("the key cannot be used ({e}): give an ECDSA, RSA or Ed25519 key")),
    })?;
    Ok(Arc::new(certified))
}

/// From when until when the own certificate of a file is valid.
#[derive(Clone, Debug)]
pub struct CertificateValidity {
    file: TlsFile,
    /// Seconds since 1970.
    from: i64,
    /// Seconds since 1970.
    until: i64,
}

impl CertificateValidity {
    /// That of the first certificate of a chain, which was read from `file`; `None` if it cannot be parsed.
    pub fn of(file: &TlsFile, certified: &CertifiedKey) -> Option<Self> {
        let (from, until) = validity_of(certified.cert.first()?)?;
        Some(CertificateValidity { file: file.clone(), from, until })
    }

    /// The setting that names the file.
    pub fn setting(&self) -> &'static str {
        self.file.setting
    }

    /// When it expires, seconds since 1970.
    pub fn until(&self) -> i64 {
        self.until
    }

    /// Why it is not valid now, with the remedy.
    pub fn problem(&self) -> Option<FileError> {
        self.problem_at(now_seconds())
    }

    /// Why it is not valid now or soon will not be, with the remedy.
    pub fn warning(&self) -> Option<FileError> {
        let now = now_seconds();
        let left = self.until.saturating_sub(now);
        let soon = || {
            let left = clock::span(u64::try_from(left).unwrap_or(0).saturating_mul(1000));
            self.file.bad(format!("the certificate expires in {left}: replace it by a new one"))
        };
        self.problem_at(now).or_else(|| (left < EXPIRES_SOON_SECONDS).then(soon))
    }

    fn problem_at(&self, now: i64) -> Option<FileError> {
        let why = if now > self.until {
            "the certificate has expired: replace it by a new one, or correct this machine's clock"
        } else if now < self.from {
            "the certificate is not valid yet: correct this machine's clock, or issue another one"
        } else {
            return None;
        };
        Some(self.file.bad(why))
    }
}

fn now_seconds() -> i64 {
    i64::try_from(clock::now_ms() / 1000).unwrap_or(i64::MAX)
}

/// The CAs of a file, as trust anchors.
///
/// # Errors
/// Those of [`certificates`]; one of them cannot be a trust anchor.
pub fn trust_anchors(file: &TlsFile) -> Result<Arc<RootCertStore>, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|e| file.bad(format!("a certificate in it cannot be used as a CA ({e}): remove it")))?;
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{TestCa, TestCertificate, write};
    use super::*;

    fn error(result: Result<impl Sized, FileError>) -> String {
        result.err().expect("an error").message
    }

    #[test]
    fn good_files_are_read() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
        let (cert, key) = ca.issue_server(&["localhost"]).write(dir.path(), "server");
        let (cert, key) = (TlsFile::new("tls_cert", cert), TlsFile::new("tls_key", key));
        assert_eq!(certified_key(&cert, &key).unwrap().cert.len(), 1);
        let roots = TlsFile::new("peer_ca", ca.write(dir.path(), "ca"));
        assert_eq!(trust_anchors(&roots).unwrap().len(), 1);
    }

    #[test]
    fn bad_file_error_names_setting_file_and_remedy() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
        let (first, second) = (ca.issue_server(&["a"]), ca.issue_server(&["b"]));
        let (cert, key) = first.write(dir.path(), "first");
        let (_, other_key) = second.write(dir.path(), "second");
        let (cert, key) = (TlsFile::new("tls_cert", cert), TlsFile::new("tls_key", key));
        let other_key = TlsFile::new("tls_key", other_key);
        let file = |text: &str| TlsFile::new("tls_key", write(dir.path(), "made.pem", text));

        let text = error(certificates(&TlsFile::new("tls_cert", "/nowhere.crt")));
        assert!(text.starts_with("--tls-cert /nowhere.crt: it cannot be read"), "{text}");
        assert!(error(certificates(&key)).contains("a private key and no certificate"));
        assert!(error(private_key(&cert)).contains("a certificate and no private key"));
        assert!(error(certificates(&file(""))).contains("BEGIN CERTIFICATE"));
        assert!(error(certified_key(&cert, &other_key)).contains("does not belong to the first certificate"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(error(private_key(&file(encrypted))).contains("openssl pkey"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(error(trust_anchors(&file(broken))).contains("cannot be used as a CA"));
    }

    #[test]
    fn certificate_that_expires_is_reported() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
        let validity = |certificate: &TestCertificate| {
            let (cert, key) = certificate.write(dir.path(), "own");
            let (cert, key) = (TlsFile::new("tls_cert", &cert), TlsFile::new("tls_key", &key));
            CertificateValidity::of(&cert, &certified_key(&cert, &key).unwrap()).unwrap()
        };
        let expired = validity(&ca.issue_expired(&["localhost"]));
        assert!(expired.problem().unwrap().message.contains("has expired"));
        assert_eq!(expired.warning(), expired.problem());
        let good = validity(&ca.issue_server(&["localhost"]));
        assert_eq!((good.problem(), good.warning()), (None, None));
        let soon = CertificateValidity { until: now_seconds() + 3 * 86_400 - 60, ..good.clone() };
        assert_eq!(soon.problem(), None);
        assert!(soon.warning().unwrap().message.contains("expires in 2 days"));
        let early = CertificateValidity { from: now_seconds() + 3_600, ..good };
        assert!(early.problem().unwrap().message.contains("not valid yet"));
    }
}
