//! Certificates for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::provider::{ALPN_HTTP2, VERSIONS, provider};

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

    /// A member's certificate with this extended key usage only.
    pub fn issue_member_for(&self, member: &str, usage: ExtendedKeyUsagePurpose) -> TestCertificate {
        let mut params = TestCa::params(&[], member, &[&format!("volley://{member}")]);
        params.extended_key_usages = vec![usage];
        self.issue(params)
    }

    /// A server's certificate that has expired.
    pub fn issue_expired(&self, hosts: &[&str]) -> TestCertificate {
        self.issue_in_2001(TestCa::params(hosts, "server", &[]))
    }

    /// A member's certificate that has expired.
    pub fn issue_expired_member(&self, member: &str) -> TestCertificate {
        self.issue_in_2001(TestCa::params(&[], member, &[&format!("volley://{member}")]))
    }

    fn issue_in_2001(&self, mut params: CertificateParams) -> TestCertificate {
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        self.issue(params)
    }
}

/// A client that accepts every server: whether a connection is possible is the server's decision alone.
pub(crate) fn credulous_client(own: Option<&TestCertificate>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptsEveryServer));
    let mut config = match own {
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config
}

/// Verifies nothing.
#[derive(Debug)]
struct AcceptsEveryServer;

impl ServerCertVerifier for AcceptsEveryServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Writes a file by a rename, as a careful administrator does.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.new")));
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(&temporary, &path).unwrap();
    path
}
