//! Certificates for tests.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

/// A CA.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
pub(crate) struct TestCertificate {
    pub pem: String,
    pub key: String,
    der: CertificateDer<'static>,
}

impl TestCertificate {
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Writes NAME.crt and NAME.key into a folder.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        (write(dir, &format!("{name}.crt"), &self.pem), write(dir, &format!("{name}.key"), &self.key))
    }
}

impl TestCa {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        TestCa { issuer: Issuer::new(params, key), pem }
    }

    /// The certificate of the CA.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes NAME.crt into a folder.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        write(dir, &format!("{name}.crt"), &self.pem)
    }

    fn issue(&self, params: CertificateParams) -> TestCertificate {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TestCertificate { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    fn params(names: &[&str], cn: &str, uris: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !cn.is_empty() {
            params.distinguished_name.push(DnType::CommonName, cn);
        }
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    /// A server's certificate for these hosts.
    pub fn issue_server(&self, hosts: &[&str]) -> TestCertificate {
        self.issue(TestCa::params(hosts, "server", &[]))
    }

    /// A certificate with a common name and URIs.
    pub fn issue_named(&self, cn: &str, uris: &[&str]) -> TestCertificate {
        self.issue(TestCa::params(&[], cn, uris))
    }

    /// A member's certificate, for the role and name in `member`: `node/n1`.
    pub fn issue_member(&self, member: &str) -> TestCertificate {
        self.issue_named(member, &[&format!("volley://{member}")])
    }

    /// A server's certificate that has expired.
    pub fn issue_expired(&self, hosts: &[&str]) -> TestCertificate {
        let mut params = TestCa::params(hosts, "server", &[]);
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        self.issue(params)
    }
}

/// Writes a file by a rename, as a careful administrator does.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.new")));
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(&temporary, &path).unwrap();
    path
}
