//! Checks of certificates that demand an identity besides the signature of a CA, and log what they refuse.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::identity::{MemberIdentity, MemberRole, subject_of};
use super::provider::provider;
use crate::clock;
use crate::refusal_log::RefusalLog;

/// Whether a certificate names whom the verifier expects.
type Identify = fn(&CertificateDer<'_>) -> crate::Result<()>;

/// Verifies certificates of connecting clients or members: signed by one of the CAs, and naming somebody.
#[derive(Debug)]
pub(super) struct IdentifiedClients {
    inner: Arc<dyn ClientCertVerifier>,
    identify: Identify,
}

impl IdentifiedClients {
    /// `is_optional`: a client without a certificate is accepted.
    ///
    /// # Errors
    /// There is no CA.
    pub(super) fn new(roots: Arc<RootCertStore>, is_optional: bool, identify: Identify) -> Result<Arc<Self>, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
        let inner = builder.build().map_err(|e| e.to_string())?;
        Ok(Arc::new(IdentifiedClients { inner, identify }))
    }

    /// Whether a certificate is accepted.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        (self.identify)(end_entity).map_err(other)?;
        Ok(verified)
    }
}

impl ClientCertVerifier for IdentifiedClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).inspect_err(|error| log_refused(end_entity, error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies the certificate of a member that this process dials: signed by one of the CAs, and naming a member of the
/// expected role. Host names are not checked: the addresses of pods change.
pub(super) struct DialledMember {
    roots: Arc<RootCertStore>,
    expected: Option<MemberRole>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl DialledMember {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Option<MemberRole>) -> Self {
        DialledMember { roots, expected, algorithms: provider().signature_verification_algorithms }
    }

    /// Whether a certificate is a member's of the expected role.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        let member = MemberIdentity::of_certificate(end_entity).map_err(other)?;
        match self.expected {
            Some(role) if role != member.role => Err(other(crate::Error::denied(format!(
                "its certificate names {member}, and a {role} is expected at this address"
            )))),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for DialledMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialledMember").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for DialledMember {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).inspect_err(|error| log_refused(end_entity, error))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn other(error: crate::Error) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Logs whose certificate was refused, and why: the error of the handshake does not know the first. Under a flood, one line a
/// second says how many there were.
fn log_refused(certificate: &CertificateDer<'_>, error: &Error) {
    static LOG: RefusalLog = RefusalLog::new();
    if let Some(unlogged) = LOG.count(clock::now_ms()) {
        tracing::warn!(
            certificate = subject_of(certificate),
            reason = super::failure::describe(error),
            unlogged,
            "certificate refused"
        );
    }
}
