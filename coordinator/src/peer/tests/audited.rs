//! What the audit log says of refusals of calls that nodes make for clients.

use serde_json::Value;
use volley_common::server::audit::{AuditData, AuditSettings, AuditTarget, REQUEST_ID_HEADER};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn refusal_is_recorded_with_the_name_of_the_call_at_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let target = AuditTarget::File(path.clone());
    let settings = AuditSettings { target, data: AuditData::All, file_bytes: 1 << 20, files: 1 };
    let mut fixture = fixture_with_users().await;
    fixture.services.audit = AuditLog::new(&settings).unwrap();
    let mut client = fixture.client_of(Caller::Plaintext);
    for (name, id, expected) in [("writer", "1", Code::Unavailable), ("reader", "2", Code::PermissionDenied)] {
        let message = BeginWriteRequest { table: vec!["sales/a".into()], ..BeginWriteRequest::default() };
        let mut request = asserted(&fixture, name, BEGIN_WRITE, message);
        request.metadata_mut().insert(REQUEST_ID_HEADER, id.parse().unwrap());
        assert_eq!(code(client.begin_write(request).await), expected);
    }
    let message = PlanReadRequest { table: vec!["sales/a".into()], ..PlanReadRequest::default() };
    let mut request = asserted(&fixture, "stranger", PLAN_READ, message);
    request.metadata_mut().insert(REQUEST_ID_HEADER, "3".parse().unwrap());
    assert_eq!(code(client.plan_read(request).await), Code::NotFound);
    let written = async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            // A line is written whole.
            if text.lines().count() >= 2 && text.ends_with('\n') {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(20), written).await.expect("two refusals are recorded");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown = lines.iter().map(|line| {
        ["request_id", "principal", "operation", "table", "result"].map(|key| line[key].as_str().unwrap_or("null"))
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [["2", "reader", "DoPut", "sales/a", "PERMISSION_DENIED"], ["3", "stranger", "DoGet", "sales/a", "NOT_FOUND"]],
        "the node records how the call of the writer ended"
    );
}
