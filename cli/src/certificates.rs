//! Certificates for clusters that have no certificate authority of their own: an authority, and what it issues to members,
//! servers and users. Nothing here touches a file or a clock: texts in PEM and the time come in, texts in PEM go out.
//!
//! All keys are ECDSA P-256. The authority signs end entities only (path length 0).

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use volley_common::clock::span;
use volley_common::{Error, Result};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER};
use x509_parser::pem::Pem;

mod subject;
mod summary;
#[cfg(test)]
mod tests;

pub use subject::{AltName, CertificateSubject};
pub use summary::{CertificateSummary, summaries};

/// How long an authority is valid, days.
pub const CA_DAYS: u32 = 3650;
/// How long a certificate is valid by default, days: the longest that browsers and operating systems accept is 398.
pub const DEFAULT_DAYS: u32 = 397;
/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;
/// Certificates are valid from this long before they are made, because clocks of members and clients differ, milliseconds.
const BACKDATE_MS: u64 = 3_600_000;
/// Digits of the authority's key identifier in its name: two authorities that are trusted at the same time differ.
const CA_ID_BYTES: usize = 4;
/// What helps if the authority's files are unusable.
const CA_REMEDY: &str =
    "restore both files from a copy, or make a new authority in another folder with `volley certs init`";

/// A certificate, or a chain of them, and its private key, in PEM.
pub struct CertificateAndKey {
    /// The certificates, that of the key first.
    pub certificate: String,
    /// The private key as PKCS #8.
    pub key: String,
    /// The end of the certificate's validity, milliseconds since 1970.
    pub not_after_ms: u64,
}

/// Makes a certificate authority that is valid for [`CA_DAYS`] from `now_ms` (milliseconds since 1970).
///
/// # Errors
/// INTERNAL: the key or the certificate cannot be made.
pub fn new_authority(now_ms: u64) -> Result<CertificateAndKey> {
    let key = KeyPair::generate().map_err(not_made)?;
    let mut params = CertificateParams::default();
    let id: String = params.key_identifier(&key).iter().take(CA_ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = common_name(&format!("Volley CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after_ms = end_ms(now_ms, CA_DAYS);
    set_validity(&mut params, now_ms, not_after_ms);
    let certificate = params.self_signed(&key).map_err(not_made)?.pem();
    Ok(CertificateAndKey { certificate, key: key.serialize_pem(), not_after_ms })
}

/// A certificate authority with its private key.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    name: String,
    /// Whether certificates can name the authority's key; they do if the authority's certificate does.
    has_key_id: bool,
    /// The authority's certificate, which follows those that it issues.
    pem: String,
    not_after_ms: u64,
}

impl CertificateAuthority {
    /// The authority of a certificate and its key, which [`new_authority`] made.
    ///
    /// # Errors
    /// One sentence that names `ca.crt` or `ca.key`: no PEM, not an authority, two that do not belong together, an encrypted
    /// key, or an authority that another program made and whose name this one cannot write.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        let key = private_key(key)?;
        let block = Pem::iter_from_buffer(certificate.as_bytes())
            .filter_map(|block| block.ok())
            .find(|block| block.label == "CERTIFICATE")
            .ok_or_else(|| Error::invalid(format!("ca.crt contains no certificate in PEM: {CA_REMEDY}")))?;
        let parsed = block
            .parse_x509()
            .map_err(|e| Error::invalid(format!("the certificate in ca.crt cannot be read ({e}): {CA_REMEDY}")))?;
        if !parsed.is_ca() {
            return Err(Error::invalid(format!(
                "ca.crt is the certificate of {}, not that of an authority: {CA_REMEDY}",
                parsed.subject()
            )));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Error::invalid(format!("ca.key is not the key of ca.crt: {CA_REMEDY}")));
        }
        let mut params = CertificateParams::default();
        let name = writable_name(&parsed)?;
        params.distinguished_name = common_name(name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key_id = subject_key_id(&parsed);
        let has_key_id = key_id.is_some();
        params.key_identifier_method = key_id.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified);
        Ok(CertificateAuthority {
            issuer: Issuer::new(params, key),
            name: name.to_string(),
            has_key_id,
            pem: pem_text(&block),
            not_after_ms: summary::timestamp_ms(parsed.validity().not_after),
        })
    }

    /// The authority's common name, which differs from that of every other one of [`new_authority`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The end of the authority's validity, milliseconds since 1970.
    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// Issues a certificate and its key to `subject`, with `more` names in addition to the subject's own, for `days` days
    /// from `now_ms`, but not longer than the authority is valid.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the authority is no longer valid. INTERNAL: the certificate cannot be made.
    pub fn issue(
        &self,
        subject: &CertificateSubject,
        more: &[AltName],
        days: u32,
        now_ms: u64,
    ) -> Result<CertificateAndKey> {
        if self.not_after_ms <= now_ms {
            return Err(Error::precondition(format!(
                "the authority of ca.crt ended {} ago: make a new one in another folder with `volley certs init`, and let members and clients trust both until every certificate is replaced",
                span(now_ms - self.not_after_ms)
            )));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&subject.common_name());
        params.subject_alt_names = alt_names(subject, more)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = extended_key_usages(subject);
        params.use_authority_key_identifier_extension = self.has_key_id;
        let not_after_ms = self.not_after_ms.min(end_ms(now_ms, days));
        set_validity(&mut params, now_ms, not_after_ms);
        let key = KeyPair::generate().map_err(not_made)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(not_made)?.pem();
        Ok(CertificateAndKey { certificate: certificate + &self.pem, key: key.serialize_pem(), not_after_ms })
    }
}

/// Members are servers and clients of each other.
fn extended_key_usages(subject: &CertificateSubject) -> Vec<ExtendedKeyUsagePurpose> {
    match subject {
        CertificateSubject::Coordinator(_) | CertificateSubject::Node(_) => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        CertificateSubject::Server(_) => vec![ExtendedKeyUsagePurpose::ServerAuth],
        CertificateSubject::User(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
    }
}

/// The subject alternative names: the identity's URI first, then the addresses, each once.
fn alt_names(subject: &CertificateSubject, more: &[AltName]) -> Result<Vec<SanType>> {
    let mut names = Vec::new();
    if let Some(uri) = subject.uri() {
        names.push(SanType::URI(uri.try_into().map_err(not_made)?));
    }
    for name in subject.own_names().iter().chain(more) {
        let name = match name {
            AltName::Dns(host) => SanType::DnsName(host.as_str().try_into().map_err(not_made)?),
            AltName::Ip(address) => SanType::IpAddress(*address),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The end of a validity of `days` from `now_ms`; certificates have whole seconds.
fn end_ms(now_ms: u64, days: u32) -> u64 {
    (now_ms - now_ms % 1000) + u64::from(days) * DAY_MS
}

fn set_validity(params: &mut CertificateParams, now_ms: u64, not_after_ms: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(now_ms.saturating_sub(BACKDATE_MS));
    params.not_after = epoch + Duration::from_millis(not_after_ms);
}

/// The authority's name, if it is what [`common_name`] writes: the issuer of a certificate must be its subject, byte by byte.
fn writable_name<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str> {
    let mut attributes = certificate.subject().iter_attributes();
    let name = attributes.next().filter(|first| {
        first.attr_type() == &OID_X509_COMMON_NAME && first.attr_value().tag() == x509_parser::asn1_rs::Tag::Utf8String
    });
    match (name.and_then(|name| name.as_str().ok()), attributes.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(Error::invalid(format!(
            "ca.crt was made by another program, and its name ({}) is not a single common name in UTF-8: issue certificates with that program, or make an authority with `volley certs init`",
            certificate.subject()
        ))),
    }
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).ok()??;
    match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    }
}

/// The authority's private key: the first block of the text that is one.
fn private_key(text: &str) -> Result<KeyPair> {
    let block = Pem::iter_from_buffer(text.as_bytes())
        .filter_map(|block| block.ok())
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or_else(|| Error::invalid(format!("ca.key contains no private key in PEM: {CA_REMEDY}")))?;
    if block.label.starts_with("ENCRYPTED") {
        return Err(Error::invalid(
            "ca.key is encrypted: write it without a password, with `openssl pkey -in ca.key -out ca.key.plain`",
        ));
    }
    KeyPair::try_from(block.contents.as_slice())
        .map_err(|e| Error::invalid(format!("the private key in ca.key cannot be read ({e}): {CA_REMEDY}")))
}

/// The block as text again, without what may surround it in its file.
fn pem_text(block: &Pem) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&block.contents);
    let lines: Vec<&str> = (0..encoded.len()).step_by(64).map(|at| &encoded[at..encoded.len().min(at + 64)]).collect();
    format!("-----BEGIN {0}-----\n{1}\n-----END {0}-----\n", block.label, lines.join("\n"))
}

fn not_made(error: rcgen::Error) -> Error {
    Error::internal(format!("the certificate cannot be made: {error}"))
}
