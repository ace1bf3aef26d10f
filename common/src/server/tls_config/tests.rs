//! Which files are for which listener, what is refused, and when certificates are valid.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::tls::testing::{TestCa, TestCertificate};

fn config(certs: &[&str], keys: &[&str]) -> TlsConfig {
    let list = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
    TlsConfig { tls_cert: list(certs), tls_key: list(keys), ..TlsConfig::default() }
}

fn with_peers(config: TlsConfig) -> TlsConfig {
    let file = || Some(PathBuf::from("f"));
    TlsConfig { peer_ca: file(), peer_cert: file(), peer_key: file(), ..config }
}

#[test]
fn listener_takes_its_own_file_before_the_one_for_all() {
    let config = config(&["all.crt", "external=own.crt"], &["all.key", "external=own.key", "http=http.key"]);
    let of = |listener| config.files_of(listener).unwrap().map(|files| (files.cert.path, files.key.path));
    assert_eq!(of("internal"), Some(("all.crt".into(), "all.key".into())));
    assert_eq!(of("external"), Some(("own.crt".into(), "own.key".into())));
    assert_eq!(of("http"), Some(("all.crt".into(), "http.key".into())));
    assert!(with_peers(config).check(&["internal", "external"]).is_ok());
}

#[test]
fn half_a_configuration_is_refused_with_its_remedy() {
    let refused = |config: TlsConfig, why: &str| {
        let text = config.check(&["", "external"]).unwrap_err().message;
        assert!(text.contains(why), "{text}");
    };
    refused(with_peers(config(&["a"], &[])), "--tls-cert a has no key");
    refused(with_peers(config(&[], &["a"])), "--tls-key a has no certificate");
    refused(with_peers(config(&["x=a"], &["x=a"])), "names the listener \"x\"");
    refused(with_peers(config(&["a", "b"], &["a"])), "given twice");
    refused(config(&["a"], &["a"]), "without TLS: give --peer-ca");
    refused(TlsConfig { peer_tls: Some(PeerTlsMode::Accept), ..with_peers(config(&["a"], &["a"])) }, "prefer");
    refused(TlsConfig { tls_client_ca: vec!["a".into()], ..config(&[], &[]) }, "add --tls-cert");
    let for_one = config(&["internal=a"], &["internal=a"]);
    let for_another = TlsConfig { tls_client_ca: vec!["external=ca".into()], ..with_peers(for_one.clone()) };
    let text = for_another.check(&["internal", "external"]).unwrap_err().message;
    assert!(text.contains("has no certificate: add --tls-cert external=FILE"), "{text}");
    let for_all = TlsConfig { tls_client_ca: vec!["ca".into()], ..with_peers(for_one) };
    assert!(for_all.check(&["internal", "external"]).is_ok(), "it is for those with TLS");
    refused(with_peers(config(&["external=a"], &["external=a", "http=b"])), "--tls-key b has no certificate");
    refused(TlsConfig { tls_client_auth: ClientAuth::Required, ..config(&[], &[]) }, "no --tls-client-ca");
    refused(TlsConfig { peer_tls: Some(PeerTlsMode::Prefer), ..config(&[], &[]) }, "--peer-tls has no certificate");
    refused(TlsConfig { peer_key: None, ..with_peers(config(&[], &[])) }, "--peer-key is not given");
    assert!(config(&["http=a"], &["http=a"]).check(&[""]).is_ok(), "the HTTP port passes on no data");
}

#[test]
fn peer_tls_is_required_once_there_is_a_certificate() {
    assert_eq!(config(&[], &[]).peer_mode(), Ok(None));
    assert_eq!(with_peers(config(&[], &[])).peer_mode(), Ok(Some(PeerTlsMode::Require)));
}

/// The TLS of a node with these certificates, in files of a folder.
fn loaded(dir: &Path, peer: TestCertificate, listener: TestCertificate, ca: &TestCa) -> Arc<ServerTls> {
    let (peer_cert, peer_key) = peer.write(dir, "peer");
    let (cert, key) = listener.write(dir, "listener");
    let files = config(&[&cert.display().to_string()], &[&key.display().to_string()]);
    let (peer_cert, peer_key, peer_ca) = (Some(peer_cert), Some(peer_key), Some(ca.write(dir, "ca")));
    let config = TlsConfig { peer_cert, peer_key, peer_ca, ..files };
    ServerTls::load(&config, &[""], MemberRole::Node, None).unwrap()
}

#[test]
fn certificate_that_is_not_valid_now_is_found_by_the_check_only() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let good = loaded(dir.path(), ca.issue_member("node/n1"), ca.issue_server(&["localhost"]), &ca);
    good.check_validity().unwrap();
    let expired = loaded(dir.path(), ca.issue_member("node/n1"), ca.issue_expired(&["localhost"]), &ca);
    let text = expired.check_validity().unwrap_err().message;
    assert!(text.contains("--tls-cert") && text.contains("has expired: replace it"), "{text}");
    let expired = loaded(dir.path(), ca.issue_expired_member("node/n1"), ca.issue_server(&["localhost"]), &ca);
    let text = expired.check_validity().unwrap_err().message;
    assert!(text.contains("--peer-cert") && text.contains("has expired: replace it"), "{text}");
}
