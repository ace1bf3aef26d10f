//! PEM files and certificates: of an operator, and of whoever connects.
//!
//! A chunk with the certificates, then the key.

use rustls_pki_types::CertificateDer;
use volley_common::tls::pem::{
    CertificateValidity, FileError, TlsFile, certificates, certified_key, private_key, trust_anchors,
};
use volley_common::tls::{ClientIdentity, MemberIdentity};

use crate::input::{FuzzInput, check_error, chunk};
use crate::process::ScratchDir;

thread_local! {
    static SCRATCH: ScratchDir = ScratchDir::new();
}

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let chain = input.chunk();
    let (cert, key) = SCRATCH.with(|scratch| {
        let (cert, key) = (scratch.write("tls.crt", chain), scratch.write("tls.key", input.rest()));
        (TlsFile::new("tls_cert", cert), TlsFile::new("tls_key", key))
    });
    let check = |error: FileError| {
        assert!(error.message.starts_with("--tls-cert ") || error.message.starts_with("--tls-key "), "{error}");
        check_error(&error.into(), data.len());
    };
    identify(&CertificateDer::from(chain), data.len());
    match certificates(&cert) {
        Ok(found) => {
            assert!(!found.is_empty());
            for certificate in &found {
                identify(certificate, data.len());
            }
        }
        Err(error) => check(error),
    }
    trust_anchors(&cert).err().into_iter().for_each(check);
    private_key(&key).err().into_iter().for_each(check);
    match certified_key(&cert, &key) {
        Ok(certified) => {
            if let Some(validity) = CertificateValidity::of(&cert, &certified) {
                validity.problem().into_iter().chain(validity.warning()).for_each(check);
            }
        }
        Err(error) => check(error),
    }
}

/// Whom a certificate names.
fn identify(certificate: &CertificateDer<'_>, input: usize) {
    match ClientIdentity::of_certificate(certificate) {
        Ok(client) => assert!(!client.name.is_empty() && !client.name.chars().any(char::is_control)),
        Err(error) => check_error(&error, input),
    }
    match MemberIdentity::of_certificate(certificate) {
        Ok(member) => assert_eq!(member.to_string().parse::<MemberIdentity>().as_ref(), Ok(&member)),
        Err(error) => check_error(&error, input),
    }
}

/// Inputs to begin with.
///
/// # Panics
/// A certificate cannot be made.
pub fn seeds() -> Vec<Vec<u8>> {
    let own = |name: &str| rcgen::generate_simple_self_signed([name.to_string()]).expect("a certificate");
    let (host, other) = (own("localhost"), own("other"));
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("volley://coordinator/1".try_into().expect("ASCII"))];
    let member = params.self_signed(&host.signing_key).expect("a certificate");
    let (cert, key) = (host.cert.pem(), host.signing_key.serialize_pem());
    let of = |cert: &[u8], key: &str| [chunk(cert), key.as_bytes().to_vec()].concat();
    vec![
        of(cert.as_bytes(), &key),
        of(format!("{cert}{}", other.cert.pem()).as_bytes(), &other.signing_key.serialize_pem()),
        of(member.pem().as_bytes(), &key),
        of(host.cert.der(), ""),
        of(member.der(), ""),
        of(key.as_bytes(), &cert),
        of(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
        ),
    ]
}
