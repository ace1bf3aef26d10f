//! Issued certificates, verified as members and clients do.

use std::net::IpAddr;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;

/// 2026-01-01.
const NOW: u64 = 1_767_225_600_000;

fn authority() -> (CertificateAndKey, CertificateAuthority) {
    let made = new_authority(NOW).unwrap();
    let authority = CertificateAuthority::from_pem(&made.certificate, &made.key).unwrap();
    (made, authority)
}

fn issue(subject: CertificateSubject, more: &[&str]) -> CertificateAndKey {
    let more: Vec<AltName> = more.iter().map(|name| name.parse().unwrap()).collect();
    authority().1.issue(&subject, &more, DEFAULT_DAYS, NOW).unwrap()
}

fn only(issued: &CertificateAndKey) -> CertificateSummary {
    summaries(issued.certificate.as_bytes()).unwrap().remove(0)
}

fn der(pem: &str) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem.as_bytes()).map(|block| block.unwrap().contents).collect()
}

/// Whether the chain of `issued` leads to the authority of `ca` at a time, for a use.
fn verify(issued: &CertificateAndKey, ca: &str, at_ms: u64, usage: KeyUsage) -> Result<(), webpki::Error> {
    let ca = CertificateDer::from(der(ca).remove(0));
    let mut chain: Vec<CertificateDer<'_>> = der(&issued.certificate).into_iter().map(CertificateDer::from).collect();
    let end = chain.remove(0);
    let end = EndEntityCert::try_from(&end)?;
    let anchors = [anchor_from_trusted_cert(&ca)?];
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at_ms));
    end.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &chain, at, usage, None, None).map(|_| ())
}

fn is_valid_for(issued: &CertificateAndKey, name: &str) -> bool {
    let end = CertificateDer::from(der(&issued.certificate).remove(0));
    let name = ServerName::try_from(name.to_string()).unwrap();
    EndEntityCert::try_from(&end).unwrap().verify_is_valid_for_subject_name(&name).is_ok()
}

#[test]
fn member_is_server_and_client_with_its_uri() {
    for (member, uri) in [("coordinator/1", "volley://coordinator/1"), ("node/n1", "volley://node/n1")] {
        let (made, authority) = authority();
        let subject = CertificateSubject::member(member).unwrap();
        let issued = authority.issue(&subject, &[], DEFAULT_DAYS, NOW).unwrap();
        assert_eq!((only(&issued).names, only(&issued).uses), (vec![uri.to_string()], vec!["server", "client"]));
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            verify(&issued, &made.certificate, NOW, usage).unwrap();
        }
    }
    let issued = issue(CertificateSubject::Node("n1".into()), &["n1.example", "10.0.0.7"]);
    assert_eq!(only(&issued).names, ["volley://node/n1", "n1.example", "10.0.0.7"]);
}

#[test]
fn server_is_valid_for_its_names_and_loopback_only() {
    let (made, authority) = authority();
    let subject = CertificateSubject::server("volley.example").unwrap();
    let more = ["10.0.0.7", "fd00::7", "*.nodes.example", "localhost"].map(|name| name.parse().unwrap());
    let issued = authority.issue(&subject, &more, DEFAULT_DAYS, NOW).unwrap();
    for name in ["volley.example", "localhost", "127.0.0.1", "::1", "10.0.0.7", "fd00::7", "a.nodes.example"] {
        assert!(is_valid_for(&issued, name), "{name}");
    }
    for name in ["other.example", "10.0.0.8", "nodes.example", "a.b.nodes.example"] {
        assert!(!is_valid_for(&issued, name), "{name}");
    }
    assert_eq!(only(&issued).names.len(), 7, "localhost is there once");
    verify(&issued, &made.certificate, NOW, KeyUsage::server_auth()).unwrap();
    assert!(verify(&issued, &made.certificate, NOW, KeyUsage::client_auth()).is_err());
}

#[test]
fn server_with_an_address_for_a_name_is_valid_for_it() {
    let issued = issue(CertificateSubject::server("10.0.0.7").unwrap(), &[]);
    assert!(is_valid_for(&issued, "10.0.0.7"));
    assert_eq!(only(&issued).names[0].parse::<IpAddr>().unwrap(), IpAddr::from([10, 0, 0, 7]));
}

#[test]
fn user_is_a_client_with_its_name() {
    let (made, authority) = authority();
    let subject = CertificateSubject::user("ana@example.com").unwrap();
    let issued = authority.issue(&subject, &[], DEFAULT_DAYS, NOW).unwrap();
    let summary = only(&issued);
    assert_eq!((summary.subject.as_str(), summary.uses), ("ana@example.com", vec!["client"]));
    assert_eq!(summary.names, ["volley://user/ana@example.com"]);
    verify(&issued, &made.certificate, NOW, KeyUsage::client_auth()).unwrap();
    assert!(verify(&issued, &made.certificate, NOW, KeyUsage::server_auth()).is_err());
}

#[test]
fn certificate_of_another_authority_does_not_verify() {
    let issued = issue(CertificateSubject::Coordinator(1), &[]);
    let (other, _) = authority();
    assert!(verify(&issued, &other.certificate, NOW, KeyUsage::server_auth()).is_err());
    let names =
        [&issued.certificate, &other.certificate].map(|pem| summaries(pem.as_bytes()).unwrap()[0].issuer.clone());
    assert_ne!(names[0], names[1], "two authorities have two names");
}

#[test]
fn validity_begins_earlier_and_ends_after_its_days() {
    let (made, authority) = authority();
    let issued = authority.issue(&CertificateSubject::Coordinator(1), &[], 10, NOW).unwrap();
    let valid = |at| verify(&issued, &made.certificate, at, KeyUsage::server_auth()).is_ok();
    assert_eq!((issued.not_after_ms, only(&issued).not_after_ms), (NOW + 10 * DAY_MS, NOW + 10 * DAY_MS));
    assert!(valid(NOW - 600_000) && valid(NOW + 10 * DAY_MS - 1000));
    assert!(!valid(NOW + 10 * DAY_MS + 1000) && !valid(NOW - DAY_MS));
}

#[test]
fn certificate_does_not_outlive_its_authority() {
    let (made, authority) = authority();
    let late = NOW + u64::from(CA_DAYS - 1) * DAY_MS;
    let issued = authority.issue(&CertificateSubject::Coordinator(1), &[], DEFAULT_DAYS, late).unwrap();
    assert_eq!((issued.not_after_ms, authority.not_after_ms()), (made.not_after_ms, made.not_after_ms));
    let after = authority.issue(&CertificateSubject::Coordinator(1), &[], 1, made.not_after_ms + 3 * DAY_MS);
    let error = after.err().unwrap().message;
    assert!(error.contains("ended 3 days ago") && error.contains("volley certs init"), "{error}");
}

#[test]
fn authority_signs_end_entities_only() {
    let (made, authority) = authority();
    assert_eq!(summaries(made.certificate.as_bytes()).unwrap()[0].uses, ["authority"]);
    let issued = authority.issue(&CertificateSubject::Coordinator(1), &[], 1, NOW).unwrap();
    let why = CertificateAuthority::from_pem(&issued.certificate, &issued.key).err().unwrap().message;
    assert!(why.contains("of CN=coordinator-1, not that of an authority"), "{why}");
    let chain = summaries(issued.certificate.as_bytes()).unwrap();
    assert_eq!((chain.len(), &chain[0].issuer), (2, &chain[1].subject));
}

#[test]
fn unusable_authority_is_refused_with_the_reason() {
    let (made, _) = authority();
    let (other, _) = authority();
    let why = |certificate: &str, key: &str| {
        let why = CertificateAuthority::from_pem(certificate, key).err().unwrap().message;
        assert!(!why.contains('\n'), "{why}");
        why
    };
    assert!(why("", &made.key).contains("ca.crt contains no certificate"));
    assert!(why(&made.key, &made.key).contains("ca.crt contains no certificate"));
    assert!(why(&made.certificate, &made.certificate).contains("ca.key contains no private key"));
    assert!(why(&made.certificate, &other.key).contains("ca.key is not the key of ca.crt"));
    let encrypted = made.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert!(why(&made.certificate, &encrypted).contains("openssl pkey"));
    let cut = made.certificate.replacen("MII", "MIA", 1);
    assert!(why(&cut, &made.key).contains("ca.crt cannot be read"));
    let empty = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(why(&made.certificate, empty).contains("ca.key cannot be read"));
}

#[test]
fn authority_with_another_form_of_name_is_refused() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    let certificate = params.self_signed(&key).unwrap().pem();
    let why = CertificateAuthority::from_pem(&certificate, &key.serialize_pem()).err().unwrap().message;
    assert!(why.contains("made by another program") && why.contains("Example"), "{why}");
}

#[test]
fn authority_of_another_program_with_a_plain_name_issues() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = common_name("Example Ω");
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![1, 2, 3]);
    let certificate = params.self_signed(&key).unwrap().pem();
    let text = format!("a comment\n{}{certificate}", key.serialize_pem());
    let authority = CertificateAuthority::from_pem(&text, &key.serialize_pem()).unwrap();
    let issued = authority.issue(&CertificateSubject::Coordinator(1), &[], 1, NOW).unwrap();
    assert!(!issued.certificate.contains("PRIVATE") && issued.certificate.ends_with(&certificate));
    verify(&issued, &certificate, NOW, KeyUsage::client_auth()).unwrap();
}

#[test]
fn names_that_are_no_part_of_a_path_are_refused() {
    for name in ["", ".", "..", "a/b", "a\\b", ".hidden", "-f", "ca", "CA", "a b", "a\nb", "a\0b", "ü", "a:b", "*.a"] {
        assert!(CertificateSubject::node(name).is_err(), "{name:?}");
        assert!(CertificateSubject::user(name).is_err(), "{name:?}");
        assert!(CertificateSubject::server(name).is_err(), "{name:?}");
    }
    let long = "n".repeat(65);
    assert!(CertificateSubject::node(&long).is_err() && CertificateSubject::node(&long[1..]).is_ok());
    for id in ["0", "-1", "+1", "01", "1.0", "", "18446744073709551616", "one"] {
        assert!(CertificateSubject::coordinator(id).is_err(), "{id:?}");
    }
    for member in ["", "1", "n1", "coordinator", "coordinator/", "coordinator/n1", "node/", "node/a/b", "user/ana"] {
        assert!(CertificateSubject::member(member).is_err(), "{member:?}");
    }
    assert_eq!(CertificateSubject::member("node/N_1.x-y").unwrap().file_stem(), "node-N_1.x-y");
    assert_eq!(CertificateSubject::member("coordinator/12").unwrap(), CertificateSubject::Coordinator(12));
}

#[test]
fn alternative_names_are_hosts_and_addresses() {
    let parsed = |text: &str| text.parse::<AltName>().map(|name| name.to_string()).map_err(|e| e.message);
    for text in ["localhost", "a.example", "*.a.example", "my_host", "10.0.0.7", "::1", "xn--bcher-kva.example"] {
        assert_eq!(parsed(text).as_deref(), Ok(text));
    }
    assert_eq!((parsed("[::1]").as_deref(), parsed("Volley.Example").as_deref()), (Ok("::1"), Ok("volley.example")));
    let label = "a".repeat(64);
    let long = ["a"; 128].join(".");
    let wrong = "* a..b .a a. -a a- 10.0.0.256 1 a:8815 grpc://a a*.b bücher";
    for text in wrong.split(' ').chain(["", "a b", &label, &long]) {
        assert!(parsed(text).is_err_and(|why| why.contains("host name")), "{text}");
    }
}

#[test]
fn file_without_a_certificate_says_what_it_has() {
    let (made, _) = authority();
    let why = |text: &str| summaries(text.as_bytes()).unwrap_err().message;
    assert!(why(&made.key).contains("a PRIVATE KEY"), "{}", why(&made.key));
    assert!(why("").contains("no certificate in PEM"));
    let half = &made.certificate[..made.certificate.len() / 2];
    assert!(why(half).contains("cut off"), "{}", why(half));
}
