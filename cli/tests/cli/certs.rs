//! Tests `volley certs` as a user types it; no cluster is needed.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{one_error, volley};

fn ok(folder: &TempDir, args: &[&str]) -> String {
    let output = volley(args).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn error(folder: &TempDir, args: &[&str]) -> String {
    one_error(volley(args).current_dir(folder.path()).output().unwrap(), args)
}

#[test]
fn certificates_are_issued_shown_and_not_replaced() {
    let folder = TempDir::new().unwrap();
    let missing = error(&folder, &["certs", "issue", "pki", "--node", "n1"]);
    assert!(missing.contains("pki/ca.crt") && missing.contains("volley certs init pki"), "{missing}");

    assert!(ok(&folder, &["certs", "init", "pki"]).contains("wrote pki/ca.crt and pki/ca.key"));
    let member = ok(&folder, &["certs", "issue", "pki", "--member", "coordinator/1"]);
    assert!(member.contains("--peer-cert pki/coordinator-1.crt --peer-key pki/coordinator-1.key"), "{member}");
    let server =
        ["certs", "issue", "pki", "--server", "volley.example", "--san", "10.0.0.7,db", "--days", "30", "--json"];
    let server: Value = serde_json::from_str(&ok(&folder, &server)).unwrap();
    assert_eq!(server["certificate"], "pki/volley.example.crt");

    let shown = ["certs", "show", "pki/volley.example.crt", "--json"];
    let shown: Value = serde_json::from_str(&ok(&folder, &shown)).unwrap();
    let names = serde_json::json!(["volley.example", "localhost", "127.0.0.1", "::1", "10.0.0.7", "db"]);
    assert_eq!((&shown[0]["names"], &shown[0]["days_left"]), (&names, &29.into()));
    assert_eq!((&shown[1]["subject"], &shown[1]["uses"]), (&shown[0]["issuer"], &serde_json::json!(["authority"])));

    assert!(error(&folder, &["certs", "init", "pki"]).contains("--force"));
    assert!(error(&folder, &["certs", "issue", "pki", "--coordinator", "1"]).contains("--force"));
    assert!(error(&folder, &["certs", "show", "pki/ca.key"]).contains("PRIVATE KEY"));
    ok(&folder, &["certs", "issue", "pki", "--coordinator", "1", "--force"]);
}

#[test]
fn openssl_accepts_every_certificate_for_its_use_only() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let folder = TempDir::new().unwrap();
    ok(&folder, &["certs", "init", "pki"]);
    let cases = [
        ("--node", "n1", "node-n1", [true, true]),
        ("--server", "volley.example", "volley.example", [true, false]),
        ("--user", "ana", "ana", [false, true]),
    ];
    for (flag, name, stem, uses) in cases {
        ok(&folder, &["certs", "issue", "pki", flag, name]);
        for (purpose, accepted) in ["sslserver", "sslclient"].into_iter().zip(uses) {
            let verified = Command::new("openssl")
                .args(["verify", "-x509_strict", "-CAfile", "pki/ca.crt", "-purpose", purpose])
                .arg(format!("pki/{stem}.crt"))
                .current_dir(folder.path())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&verified.stderr);
            assert_eq!(verified.status.success(), accepted, "{stem} as {purpose}: {text}");
        }
    }
}
