//! Tests `volley dev --tls`.

use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::{DevProcess, one_error, volley};

fn with_ca(dev: &DevProcess, ca: &Path, args: &[&str]) -> Output {
    volley(args).env("VOLLEY_CLUSTER", &dev.address).env("VOLLEY_TLS_CA", ca).output().unwrap()
}

fn ok(dev: &DevProcess, ca: &Path, args: &[&str]) -> String {
    let output = with_ca(dev, ca, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tables_round_trip_by_tls_only_and_certificates_are_reused() {
    let folder = TempDir::new().unwrap();
    let (data, csv) = (folder.path().join("data"), folder.path().join("t.csv"));
    std::fs::write(&csv, "n,word\n1,one\n2,two\n").unwrap();
    let ca = data.join("tls/ca.crt");
    let args = ["--tls", "--coordinators", "3", "--nodes", "2"];

    let dev = DevProcess::start(&data, &args);
    assert!(dev.address.starts_with("grpc+tls://127.0.0.1:"), "{}", dev.address);
    ok(&dev, &ca, &["put", csv.to_str().unwrap(), "--table", "t"]);
    assert!(ok(&dev, &ca, &["get", "t"]).contains("two"));
    assert!(ok(&dev, &ca, &["cluster", "status"]).starts_with("green: "));
    let first = std::fs::read(&ca).unwrap();

    // Without the authority, with another one, and without TLS.
    dev.error(&["ls"]);
    let other = folder.path().join("other");
    assert!(volley(&["certs", "init", other.to_str().unwrap()]).output().unwrap().status.success());
    one_error(with_ca(&dev, &other.join("ca.crt"), &["ls"]), &["ls"]);
    let plain = dev.address.replace("grpc+tls", "grpc");
    let plain = ["ls", "--cluster", &plain];
    one_error(volley(&plain).output().unwrap(), &plain);
    dev.stop();

    let dev = DevProcess::start(&data, &args);
    assert_eq!(std::fs::read(&ca).unwrap(), first);
    assert!(ok(&dev, &ca, &["get", "t"]).contains("two"));
    dev.stop();
}
