//! The certificates of `volley dev --tls`: made at the first start on a data folder, reused at later ones.

use std::path::{Path, PathBuf};

use volley_common::server::TlsConfig;
use volley_common::{Error, Result};

use crate::certificates::{self, CertificateAuthority, CertificateSubject, DAY_MS, DEFAULT_DAYS};
use crate::commands::certs::pem_files::{self, PemFiles};
use crate::formats::io_error;

/// The folder of the certificates, in the cluster's data folder.
pub const FOLDER: &str = "tls";
/// The holder of the certificate that all members show to clients. It is valid for loopback, where they listen.
const SERVER: &str = "localhost";
/// Certificates that end earlier than this are made again at the start, milliseconds.
const RENEW_MS: u64 = 30 * DAY_MS;

/// The certificates of a cluster in this process.
pub struct DevCertificates {
    folder: PathBuf,
}

impl DevCertificates {
    /// Makes the certificates that are missing or end soon: those of the authority, the clients' listeners and each member.
    ///
    /// # Errors
    /// A file that cannot be read or written, with its path.
    pub fn prepare(data: &Path, members: &[CertificateSubject], now_ms: u64) -> Result<Self> {
        // Absolute, because the path is printed for clients that run elsewhere.
        let folder = std::path::absolute(data).map_err(|e| io_error(data, &e))?.join(FOLDER);
        let authority = authority(&folder, now_ms).map_err(|e| rebuildable(&folder, e))?;
        let server = CertificateSubject::Server(SERVER.into());
        for subject in members.iter().chain([&server]) {
            if !is_usable(&PemFiles::new(&folder, &subject.file_stem()), authority.name(), now_ms) {
                let issued = authority.issue(subject, &[], DEFAULT_DAYS, now_ms)?;
                pem_files::write(&folder, &subject.file_stem(), &issued, true)?;
            }
        }
        Ok(DevCertificates { folder })
    }

    /// The authority's certificate, for clients.
    pub fn ca(&self) -> PathBuf {
        self.folder.join(pem_files::CA_CERTIFICATE)
    }

    /// The settings of a member: TLS for clients on all its ports, and only TLS between members.
    pub fn settings(&self, member: &CertificateSubject) -> TlsConfig {
        let server = PemFiles::new(&self.folder, SERVER);
        let member = PemFiles::new(&self.folder, &member.file_stem());
        TlsConfig {
            tls_cert: vec![server.certificate.display().to_string()],
            tls_key: vec![server.key.display().to_string()],
            peer_ca: Some(self.ca()),
            peer_cert: Some(member.certificate),
            peer_key: Some(member.key),
            ..TlsConfig::default()
        }
    }
}

/// The authority of the folder; a new one if there is none, or if it ends soon.
fn authority(folder: &Path, now_ms: u64) -> Result<CertificateAuthority> {
    if folder.join(pem_files::CA_CERTIFICATE).exists() {
        let present = pem_files::read_authority(folder)?;
        if present.not_after_ms() > now_ms + RENEW_MS {
            return Ok(present);
        }
    }
    pem_files::write_authority(folder, &certificates::new_authority(now_ms)?, true)?;
    pem_files::read_authority(folder)
}

/// Whether both files are there, of this authority, and not about to end. What is unreadable is made again.
fn is_usable(files: &PemFiles, authority: &str, now_ms: u64) -> bool {
    let Ok(Ok(found)) = pem_files::read(&files.certificate).map(|pem| certificates::summaries(&pem)) else {
        return false;
    };
    let is_current = found.first().is_some_and(|own| own.issuer == authority && own.not_after_ms > now_ms + RENEW_MS);
    is_current && files.key.exists()
}

fn rebuildable(folder: &Path, mut error: Error) -> Error {
    error.message += &format!("; or remove {}, which the next start makes again", folder.display());
    error
}

/// The first steps with TLS, printed below the address.
pub fn shell_example(address: &str, ca: &Path) -> String {
    format!(
        "
In a shell:

    export VOLLEY_CLUSTER={address} VOLLEY_TLS_CA={}
    volley cluster status",
        ca.display()
    )
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use volley_common::clock;

    use super::*;

    fn members() -> [CertificateSubject; 2] {
        [CertificateSubject::Coordinator(1), CertificateSubject::Node("1".into())]
    }

    fn texts(certificates: &DevCertificates) -> Vec<Vec<u8>> {
        let names = ["ca.crt", "ca.key", "localhost.crt", "localhost.key", "coordinator-1.crt", "node-1.key"];
        names.map(|name| std::fs::read(certificates.folder.join(name)).unwrap()).to_vec()
    }

    fn differences(a: &[Vec<u8>], b: &[Vec<u8>]) -> usize {
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn certificates_are_reused_until_they_end_soon() {
        let data = TempDir::new().unwrap();
        let now = clock::now_ms();
        let days = |days: u64| now + days * DAY_MS;
        let prepare = |at| texts(&DevCertificates::prepare(data.path(), &members(), at).unwrap());
        let first = prepare(now);
        assert_eq!(prepare(days(366)), first);
        let renewed = prepare(days(368));
        assert_eq!((differences(&renewed, &first), &renewed[..2]), (4, &first[..2]), "the authority stays");
        assert_eq!(differences(&prepare(days(3640)), &renewed), 6, "the authority ends too");
    }

    #[test]
    fn missing_or_foreign_files_are_made_again() {
        let data = TempDir::new().unwrap();
        let now = clock::now_ms();
        let prepare = || DevCertificates::prepare(data.path(), &members(), now);
        let made = prepare().unwrap();
        let first = texts(&made);
        std::fs::remove_file(made.folder.join("node-1.key")).unwrap();
        std::fs::write(made.folder.join("coordinator-1.crt"), "no certificate").unwrap();
        assert_eq!(differences(&texts(&prepare().unwrap()), &first), 2);
        std::fs::remove_file(made.ca()).unwrap();
        assert_eq!(differences(&texts(&prepare().unwrap()), &first), 6);

        std::fs::write(made.folder.join("ca.key"), "no key").unwrap();
        let error = prepare().err().unwrap().message;
        assert!(error.contains("ca.key contains no private key") && error.contains("or remove"), "{error}");
    }

    #[test]
    fn settings_name_existing_files() {
        let data = TempDir::new().unwrap();
        let certificates = DevCertificates::prepare(data.path(), &members(), clock::now_ms()).unwrap();
        for member in members() {
            let tls = certificates.settings(&member);
            let listeners = tls.tls_cert.iter().chain(&tls.tls_key).map(PathBuf::from);
            let peers = [tls.peer_ca, tls.peer_cert, tls.peer_key].into_iter().flatten();
            let files: Vec<PathBuf> = listeners.chain(peers).collect();
            assert!(files.len() == 5 && files.iter().all(|file| file.is_absolute() && file.exists()), "{files:?}");
        }
    }
}
