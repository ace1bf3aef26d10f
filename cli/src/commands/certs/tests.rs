//! What `volley certs` writes, replaces and refuses.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::Parser;
use tempfile::TempDir;
use volley_common::Code;

use super::*;

#[derive(Parser)]
struct CertsTestLine {
    #[command(subcommand)]
    command: CertsCommand,
}

fn certs(line: &str) -> Result<(Value, String)> {
    execute(&CertsTestLine::parse_from(line.split(' ')).command, clock::now_ms())
}

fn error(line: &str) -> Error {
    certs(line).expect_err(line)
}

fn folder() -> (TempDir, String) {
    let temp = TempDir::new().unwrap();
    let folder = temp.path().join("certs").to_str().unwrap().to_string();
    (temp, folder)
}

fn mode(path: PathBuf) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn file_names(folder: &str) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn issued_files_are_readable_and_keys_are_private() {
    let (_temp, dir) = folder();
    certs(&format!("certs init {dir}")).unwrap();
    for holder in ["--coordinator 1", "--member node/n1", "--server a.example --san 10.0.0.7", "--user ana"] {
        certs(&format!("certs issue {dir} {holder}")).unwrap();
    }
    let names = file_names(&dir);
    let stems = ["a.example", "ana", "ca", "coordinator-1", "node-n1"];
    assert_eq!(names, stems.iter().flat_map(|stem| [format!("{stem}.crt"), format!("{stem}.key")]).collect::<Vec<_>>());
    for stem in stems {
        let files = PemFiles::new(Path::new(&dir), stem);
        assert_eq!(mode(files.key), 0o600, "{stem}");
        assert_ne!(mode(files.certificate.clone()) & 0o400, 0, "{stem}");
        let (shown, text) = certs(&format!("certs show {}", files.certificate.display())).unwrap();
        assert_eq!(shown[0]["days_left"], if stem == "ca" { 3649 } else { 396 }, "{text}");
    }
}

#[test]
fn present_files_are_kept_unless_forced() {
    let (_temp, dir) = folder();
    let init = format!("certs init {dir}");
    let issue = format!("certs issue {dir} --node n1");
    let text = |name: &str| std::fs::read(Path::new(&dir).join(name)).unwrap();
    certs(&init).unwrap();
    certs(&issue).unwrap();
    let before = ["ca.crt", "ca.key", "node-n1.crt", "node-n1.key"].map(text);
    let (again, reissue) = (error(&init), error(&issue));
    assert_eq!((again.code, reissue.code), (Code::AlreadyExists, Code::AlreadyExists));
    assert!(again.message.contains("another folder") && reissue.message.contains("--force"), "{again} {reissue}");
    assert_eq!(["ca.crt", "ca.key", "node-n1.crt", "node-n1.key"].map(text), before);

    // One of the two is enough to refuse, and the other is not written.
    std::fs::remove_file(Path::new(&dir).join("node-n1.key")).unwrap();
    assert!(error(&issue).message.contains("node-n1.crt exists"));
    assert_eq!(file_names(&dir), ["ca.crt", "ca.key", "node-n1.crt"]);

    certs(&format!("{issue} --force")).unwrap();
    certs(&format!("{init} --force")).unwrap();
    assert!(["ca.crt", "ca.key", "node-n1.crt", "node-n1.key"].map(text).iter().zip(&before).all(|(a, b)| a != b));
    assert_eq!((mode(Path::new(&dir).join("ca.key")), mode(Path::new(&dir).join("node-n1.key"))), (0o600, 0o600));
}

#[test]
fn link_in_the_place_of_a_key_is_not_followed() {
    let (temp, dir) = folder();
    certs(&format!("certs init {dir}")).unwrap();
    let elsewhere = temp.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, Path::new(&dir).join("ana.key")).unwrap();
    assert_eq!(error(&format!("certs issue {dir} --user ana")).code, Code::AlreadyExists);
    certs(&format!("certs issue {dir} --user ana --force")).unwrap();
    assert!(!elsewhere.exists() && mode(Path::new(&dir).join("ana.key")) == 0o600);
}

#[test]
fn missing_authority_names_the_command_that_makes_one() {
    let (_temp, dir) = folder();
    let missing = error(&format!("certs issue {dir} --node n1"));
    assert!(missing.code == Code::NotFound && missing.message.contains("certs/ca.crt: No such file"), "{missing}");
    assert!(missing.message.contains(&format!("volley certs init {dir}")), "{missing}");
    assert!(!Path::new(&dir).exists());

    certs(&format!("certs init {dir}")).unwrap();
    std::fs::remove_file(Path::new(&dir).join("ca.key")).unwrap();
    std::fs::create_dir(Path::new(&dir).join("ca.key")).unwrap();
    let folder = error(&format!("certs issue {dir} --node n1"));
    assert!(folder.message.contains("ca.key: ") && folder.message.contains("volley certs init"), "{folder}");
    std::fs::remove_dir(Path::new(&dir).join("ca.key")).unwrap();
    std::fs::write(Path::new(&dir).join("ca.key"), [0xff, 0]).unwrap();
    let binary = error(&format!("certs issue {dir} --node n1"));
    assert!(binary.message.starts_with(&format!("{dir}: ca.key contains no private key")), "{binary}");
    assert_eq!(file_names(&dir), ["ca.crt", "ca.key"]);
}

#[test]
fn show_names_the_file_that_is_no_certificate() {
    let (_temp, dir) = folder();
    certs(&format!("certs init {dir}")).unwrap();
    let key = error(&format!("certs show {dir}/ca.crt {dir}/ca.key"));
    assert!(key.message.contains("ca.key: the file contains no certificate but a PRIVATE KEY"), "{key}");
    assert_eq!(error(&format!("certs show {dir}/none.crt")).code, Code::NotFound);
}

#[test]
fn days_left_are_rounded_down() {
    let summary = |not_after_ms| CertificateSummary {
        subject: "n1".into(),
        issuer: "ca".into(),
        names: vec!["a".into(), "b".into()],
        uses: vec!["server"],
        not_after_ms,
    };
    let now = 100 * DAY_MS;
    let rows = [DAY_MS - 1, 0, 2 * DAY_MS].map(|left| row(Path::new("f"), &summary(now + left), now));
    assert_eq!(rows.each_ref().map(|row| row["days_left"].as_i64().unwrap()), [0, 0, 2]);
    let ended = row(Path::new("f"), &summary(now - 1), now);
    assert_eq!(ended["days_left"], -1);
    let text = table(&[ended]).to_string();
    assert!(text.contains("expired") && text.contains("a, b") && text.contains("1970-04-1"), "{text}");
}

#[test]
fn flags_of_every_kind_of_certificate_are_named() {
    let files = PemFiles::new(Path::new("c"), "x");
    let text = |subject| flags_text(&subject, &files, Path::new("c/ca.crt"));
    assert_eq!(
        text(CertificateSubject::Coordinator(1)),
        "member: --peer-ca c/ca.crt --peer-cert c/x.crt --peer-key c/x.key"
    );
    assert!(text(CertificateSubject::Server("x".into())).contains("--tls-cert c/x.crt --tls-key c/x.key"));
    assert!(text(CertificateSubject::User("x".into())).contains("--tls-client-ca c/ca.crt"));
}
