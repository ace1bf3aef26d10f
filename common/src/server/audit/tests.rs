#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::identity::{Authenticator, DirectoryHandle, Identified, IdentityRules};
use crate::tls::{Caller, ClientIdentity};
use crate::wire::catalog::{Grant, Role};
use crate::wire::cluster::IdentitySnapshot;

/// The lines that were written, shared with the test.
#[derive(Clone, Default)]
struct MemorySink(Arc<Mutex<Vec<u8>>>);

impl AuditSink for MemorySink {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.lock().extend_from_slice(line);
        Ok(())
    }
}

/// The lines of one log, once its thread has ended.
fn lines(data: AuditData, record: impl FnOnce(&AuditLog)) -> Vec<Value> {
    let sink = MemorySink::default();
    let log = AuditLog::writing_to(Box::new(sink.clone()), data, 100).unwrap();
    record(&log);
    drop(log);
    let text = String::from_utf8(sink.0.lock().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(components: &[&str]) -> Vec<String> {
    components.iter().map(|component| component.to_string()).collect()
}

/// Identifies callers of a cluster in which alice may read `sales`.
fn authenticator() -> Authenticator {
    let grant =
        Grant { to: "user:alice".into(), role: Role::Reader.into(), prefix: names(&["sales"]), ..Grant::default() };
    let directory = DirectoryHandle::new();
    directory.store(crate::identity::Directory::new(&IdentitySnapshot {
        epoch: 1,
        grants: vec![grant],
        ..IdentitySnapshot::default()
    }));
    let rules = IdentityRules::default();
    Authenticator::new(directory, rules, Arc::new(|| None))
}

/// A client by its certificate.
fn alice() -> Access {
    let caller = Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() }));
    let peer = "10.0.0.7:5000".parse().unwrap();
    match authenticator().identify(&HeaderMap::new(), &caller, Some(peer), "/x/DoGet").unwrap() {
        Identified::Access(access) => access,
        Identified::Login { .. } => panic!("there are no credentials"),
    }
}

pub(super) fn event<'a>(access: &'a Access, kind: AuditKind, operation: &'a str) -> AuditEvent<'a> {
    AuditEvent { access, kind, operation, table: None, request_id: None, result: Ok(()) }
}

#[test]
fn line_has_every_field() {
    let (access, table) = (alice(), names(&["hr", "salaries"]));
    let error = Error::denied("alice is no writer of hr/salaries");
    let written = lines(AuditData::None, |log| {
        log.record(AuditEvent {
            table: Some(&table),
            request_id: Some("job-7"),
            result: Err(&error),
            ..event(&access, AuditKind::Write, "DoPut")
        });
    });
    let [line] = &written[..] else { panic!("{written:?}") };
    for (key, wanted) in [
        ("audit", "write"),
        ("principal", "alice"),
        ("method", access.principal().unwrap().method.as_str()),
        ("operation", "DoPut"),
        ("table", "hr/salaries"),
        ("result", "PERMISSION_DENIED"),
        ("reason", "alice is no writer of hr/salaries"),
        ("request_id", "job-7"),
    ] {
        assert_eq!(line[key], wanted, "{key} of {line}");
    }
    assert_eq!(line["address"], "10.0.0.7", "{line}");
    assert!(line["credential"] == "certificate" && line.get("dropped").is_none() && line.get("claimed").is_none());
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
}

#[test]
fn line_of_an_administrators_call_names_its_target() {
    let access = alice();
    let written = lines(AuditData::None, |log| {
        log.record_about(event(&access, AuditKind::Admin, "remove_user"), Some("ann"));
        log.record(event(&access, AuditKind::Admin, "list_users"));
    });
    assert_eq!(written[0]["target"], "ann");
    assert!(written[1].get("target").is_none(), "{written:?}");
}

#[test]
fn time_is_utc_with_milliseconds() {
    let mut line = serde_json::to_value(empty_line()).unwrap();
    assert_eq!(line["time"].take(), "2024-02-29T23:59:59.007Z");
}

fn empty_line() -> AuditLine {
    AuditLine {
        kind: "read",
        time_ms: 1_709_251_199_007,
        principal: None,
        method: None,
        credential: None,
        claimed: None,
        address: None,
        operation: String::new(),
        table: None,
        target: None,
        result: "OK",
        reason: None,
        request_id: None,
        dropped: 0,
        suppressed: 0,
    }
}

#[test]
fn refusals_admin_and_logins_are_recorded_by_default() {
    let (access, readable, hidden) = (alice(), names(&["sales", "eu"]), names(&["hr"]));
    let (denied, stranger) = (Error::denied("no"), Error::unauthenticated("who"));
    let (missing, busy) = (Error::not_found("no table"), Error::unavailable("later"));
    let written = lines(AuditData::None, |log| {
        for kind in [AuditKind::Read, AuditKind::Write] {
            log.record(event(&access, kind, "unasked"));
            log.record(AuditEvent { result: Err(&busy), ..event(&access, kind, "failed") });
        }
        log.record(AuditEvent {
            table: Some(&readable),
            result: Err(&missing),
            ..event(&access, AuditKind::Read, "missing")
        });
        log.record(AuditEvent { result: Err(&missing), ..event(&access, AuditKind::Read, "no table at all") });
        log.record(AuditEvent { table: Some(&hidden), result: Err(&missing), ..event(&access, AuditKind::Read, "1") });
        log.record(AuditEvent { result: Err(&denied), ..event(&access, AuditKind::Read, "2") });
        log.record(AuditEvent { result: Err(&stranger), ..event(&access, AuditKind::Write, "3") });
        log.record(event(&access, AuditKind::Admin, "4"));
        log.record(event(&access, AuditKind::Login, "5"));
        log.record(AuditEvent { result: Err(&busy), ..event(&access, AuditKind::Login, "6") });
    });
    let operations: Vec<&str> = written.iter().map(|line| line["operation"].as_str().unwrap()).collect();
    assert_eq!(operations, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!((&written[3]["result"], &written[3]["reason"]), (&json!("OK"), &Value::Null));
}

#[test]
fn reads_and_writes_are_recorded_if_asked() {
    let access = alice();
    for (data, wanted) in [(AuditData::None, 0), (AuditData::Writes, 1), (AuditData::All, 2)] {
        let written = lines(data, |log| {
            log.record(event(&access, AuditKind::Read, "DoGet"));
            log.record(event(&access, AuditKind::Write, "DoPut"));
        });
        assert_eq!(written.len(), wanted, "{data:?}");
    }
}

#[test]
fn open_cluster_records_administration_without_a_principal() {
    let open = Access::open();
    let written = lines(AuditData::All, |log| {
        for kind in [AuditKind::Read, AuditKind::Write, AuditKind::Login, AuditKind::Admin] {
            log.record(event(&open, kind, "any"));
        }
    });
    let [line] = &written[..] else { panic!("{written:?}") };
    assert_eq!((&line["audit"], &line["principal"]), (&json!("admin"), &Value::Null));
}

#[test]
fn unidentified_caller_is_recorded_with_its_address() {
    let error = Error::unauthenticated("the password is wrong");
    let address = "[2001:db8::1]:99".parse().ok();
    let written = lines(AuditData::None, |log| {
        let call = UnidentifiedCall {
            address,
            claimed: Some("bob"),
            kind: AuditKind::Login,
            operation: "Handshake",
            request_id: None,
            error: &error,
        };
        log.record_unidentified(call);
        log.record_unidentified(UnidentifiedCall { claimed: None, address: None, ..call });
        log.record_unidentified(UnidentifiedCall { error: &Error::unavailable("no coordinator"), ..call });
    });
    assert_eq!(written.len(), 2);
    assert_eq!((&written[0]["principal"], &written[0]["claimed"]), (&Value::Null, &json!("bob")));
    assert_eq!((&written[0]["address"], &written[0]["result"]), (&json!("2001:db8::1"), &json!("UNAUTHENTICATED")));
    assert_eq!((written[1].get("claimed"), &written[1]["address"]), (None, &Value::Null));
}

#[test]
fn secret_that_is_refused_does_not_appear() {
    let secret = "Zm9vYmFyYmF6cXV4c2VjcmV0c2VjcmV0c2VjcmV0c2U";
    let peer = "10.0.0.7:5000".parse().ok();
    for authorization in [
        format!("Bearer volley_0123456789abcdef_{secret}"),
        format!("Bearer eyJhbGciOiJub25lIn0.{secret}.{secret}"),
        format!("Bearer {secret}"),
        format!("Digest {secret}"),
        format!("{secret} {secret}"),
    ] {
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, authorization.parse().unwrap())]);
        let error = authenticator().identify(&headers, &Caller::Anonymous, peer, "/x/DoGet").err().unwrap();
        let written = lines(AuditData::All, |log| {
            log.record_unidentified(UnidentifiedCall {
                address: peer,
                claimed: None,
                kind: AuditKind::Read,
                operation: "DoGet",
                request_id: request_id(&headers),
                error: &error,
            });
        });
        assert_eq!(written.len(), 1);
        assert!(!written[0].to_string().contains(secret), "{}", written[0]);
    }
}

#[test]
fn hostile_names_cannot_forge_a_line() {
    let access = alice();
    let forged = "x\"}\n{\"audit\":\"admin\",\"principal\":\"root\"}\r\n";
    let terminal = "\u{1b}[2K\u{9b}2J\u{7f}\u{85}\u{2028}\u{202e}\u{2066}\u{200b}\u{feff}";
    let (table, long) = (names(&[forged, terminal, "Käse"]), "ä".repeat(1 << 20));
    let error = Error::denied(long.clone());
    let sink = MemorySink::default();
    let log = AuditLog::writing_to(Box::new(sink.clone()), AuditData::None, 100).unwrap();
    log.record(AuditEvent {
        table: Some(&table),
        request_id: Some(&long),
        result: Err(&error),
        ..event(&access, AuditKind::Write, forged)
    });
    drop(log);
    let text = String::from_utf8(sink.0.lock().clone()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    let line = text.trim_end_matches('\n');
    let mut invisible = terminal.chars().filter(|c| !c.is_ascii_graphic());
    assert!(line.len() < 8 * line::MAX_TEXT && line.contains("Käse"), "{line}");
    assert!(!line.contains(|c: char| c.is_control()) && invisible.all(|c| !line.contains(c)), "{line}");
    let parsed: Value = serde_json::from_str(line).unwrap();
    assert_eq!(parsed["operation"], forged);
    assert_eq!(parsed["table"], format!("{forged}/{terminal}/Käse"));
    let reason = parsed["reason"].as_str().unwrap();
    assert!(reason.len() <= line::MAX_TEXT + '…'.len_utf8() && reason.ends_with("ä…"), "{}", reason.len());
}

/// Takes a line only when the test lets it, and says when it begins to.
struct GatedSink {
    begun: SyncSender<()>,
    gate: Receiver<io::Result<()>>,
    written: MemorySink,
}

impl AuditSink for GatedSink {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let _ = self.begun.send(());
        self.gate.recv().unwrap_or(Ok(()))?;
        self.written.write_line(line)
    }
}

fn gated(queued: usize) -> (AuditLog, SyncSender<io::Result<()>>, Receiver<()>, MemorySink) {
    let (open, gate) = sync_channel(100);
    let (begun, begins) = sync_channel(100);
    let written = MemorySink::default();
    let sink = GatedSink { begun, gate, written: written.clone() };
    (AuditLog::writing_to(Box::new(sink), AuditData::None, queued).unwrap(), open, begins, written)
}

fn parsed(written: &MemorySink) -> Vec<Value> {
    let text = String::from_utf8(written.0.lock().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn full_queue_drops_events_and_the_next_line_counts_them() {
    let (log, open, begins, written) = gated(2);
    let access = alice();
    let admin = |operation| log.record(event(&access, AuditKind::Admin, operation));
    admin("written");
    begins.recv().unwrap();
    // The thread holds the first one, two wait, three are dropped; none of the calls waits.
    ["queued 1", "queued 2", "lost", "lost", "lost"].into_iter().for_each(admin);
    drop(open);
    drop(log);
    while begins.recv().is_ok() {}
    let lines = parsed(&written);
    let shown: Vec<_> =
        lines.iter().map(|line| (line["operation"].as_str().unwrap(), line["dropped"].as_u64())).collect();
    assert_eq!(shown, [("written", None), ("queued 1", Some(3)), ("queued 2", None)]);
}

#[test]
fn strangers_take_no_place_of_an_administrator() {
    let (log, open, begins, written) = gated(1);
    let (access, error) = (alice(), Error::unauthenticated("who"));
    let stranger = || {
        let (kind, operation) = (AuditKind::Read, "stranger");
        let (address, claimed, request_id) = (None, None, None);
        log.record_unidentified(UnidentifiedCall { address, claimed, kind, operation, request_id, error: &error });
    };
    stranger();
    begins.recv().unwrap();
    (0..1_000).for_each(|_| stranger());
    log.record(event(&access, AuditKind::Admin, "administrator"));
    drop(open);
    drop(log);
    while begins.recv().is_ok() {}
    let lines = parsed(&written);
    let operations: Vec<_> = lines.iter().map(|line| line["operation"].as_str().unwrap()).collect();
    assert_eq!(operations, ["stranger", "stranger", "administrator"]);
    let [dropped, suppressed] = ["dropped", "suppressed"].map(|key| lines[1][key].as_u64().unwrap_or(0));
    assert!(suppressed > 0 && dropped + suppressed == 999, "{}", lines[1]);
}

#[test]
fn full_disk_drops_lines_until_there_is_space() {
    let (log, open, begins, written) = gated(10);
    let access = alice();
    for operation in ["lost 1", "lost 2", "written"] {
        log.record(event(&access, AuditKind::Admin, operation));
    }
    for is_full in [true, true, false] {
        begins.recv().unwrap();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        open.send(if is_full { Err(full) } else { Ok(()) }).unwrap();
    }
    drop(log);
    while begins.recv().is_ok() {}
    let lines = parsed(&written);
    assert_eq!((lines.len(), &lines[0]["operation"], &lines[0]["dropped"]), (1, &json!("written"), &json!(2)));
}

fn file_settings(path: &Path, file_bytes: u64, files: u64) -> AuditSettings {
    AuditSettings { target: AuditTarget::File(path.into()), data: AuditData::None, file_bytes, files }
}

#[test]
fn file_is_private_and_a_restart_appends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let access = alice();
    for operation in ["first", "second"] {
        let log = AuditLog::new(&file_settings(&path, 1 << 20, 1)).unwrap();
        log.clone().record(event(&access, AuditKind::Admin, operation));
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() == 2 && text.contains("first") && text.contains("second"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    AuditLog::new(&AuditSettings { target: AuditTarget::Off, ..file_settings(&path, 1, 1) }).unwrap().record(event(
        &access,
        AuditKind::Admin,
        "off",
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn file_that_cannot_be_used_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("no folder/audit.log"), dir.path().to_path_buf(), "/dev/null".into()] {
        let error = AuditLog::new(&file_settings(&path, 1 << 20, 1)).err().unwrap();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn request_id_is_ascii_text_of_the_header() {
    let mut headers = HeaderMap::new();
    assert_eq!(request_id(&headers), None);
    headers.insert(REQUEST_ID_HEADER, "job-7".parse().unwrap());
    assert_eq!(request_id(&headers), Some("job-7"));
    headers.insert(REQUEST_ID_HEADER, http::HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(request_id(&headers), None);
}
