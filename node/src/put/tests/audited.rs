//! When a put is recorded in the audit log, and as what.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use volley_common::identity::{Directory, LoginMethod, Principal};
use volley_common::server::audit::{
    AuditData, AuditKind, AuditLog, AuditSettings, AuditTarget, REQUEST_ID_HEADER, UnidentifiedCall,
};
use volley_common::wire::cluster::IdentitySnapshot;

use super::*;
use crate::context::PutContext;

/// The last line of a log.
const END: &str = "the end";

/// Of a cluster in which nothing is granted: the fake coordinator decides.
fn ann() -> Access {
    let (name, method) = ("ann".to_string(), LoginMethod::Password);
    let principal = Principal { name, groups: Vec::new(), method, credential: String::new() };
    let closed = IdentitySnapshot { closed: true, ..IdentitySnapshot::default() };
    Access::of_principal(principal, Arc::new(Directory::new(&closed)))
}

/// Puts `t` at node 0 for ann. Returns the lines of the audit log, and how the put ended.
async fn put_by_ann(cluster: &InProcessCluster) -> (Vec<Value>, Result<(), Error>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let target = AuditTarget::File(path.clone());
    let audit =
        AuditLog::new(&AuditSettings { target, data: AuditData::Writes, file_bytes: 1 << 20, files: 1 }).unwrap();
    let node = &cluster.nodes[0].context.put;
    let context = Arc::new(PutContext {
        config: node.config.clone(),
        store: node.store.clone(),
        cluster: node.cluster.clone(),
        coordinators: node.coordinators.clone(),
        pool: node.pool.clone(),
        resources: node.resources.clone(),
        peer_addr: node.peer_addr.clone(),
        tasks: node.tasks.clone(),
        audit: audit.clone(),
    });
    let mut headers = MetadataMap::new();
    headers.insert(REQUEST_ID_HEADER, "job-7".parse().unwrap());
    let slot = context.resources.admit().unwrap();
    let input = stream::iter(messages("t", megabytes(1)).await);
    let ended = crate::put::put(context, headers, ann(), input, slot).try_collect::<Vec<_>>().await;
    let address = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
    let (kind, error) = (AuditKind::Read, Error::unauthenticated("nobody"));
    let call = UnidentifiedCall { address, claimed: None, kind, operation: END, request_id: None, error: &error };
    audit.record_unidentified(call);
    let written = async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains(END) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(20), written).await.expect("the log ends");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (lines.filter(|line| line["operation"] != END).collect(), ended.map(|_| ()))
}

#[tokio::test(flavor = "multi_thread")]
async fn put_is_recorded_as_its_commit_ends() {
    for (refusal, result) in [(None, "OK"), (Some(Error::denied("no longer a writer")), "PERMISSION_DENIED")] {
        let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
        cluster.coordinator.state.lock().refuse_commit = refusal.clone();
        let (lines, ended) = put_by_ann(&cluster).await;
        assert_eq!(ended.err().map(|error| error.code), refusal.map(|error| error.code));
        let [line] = &lines[..] else { panic!("{lines:?}") };
        for (key, expected) in
            [("principal", "ann"), ("operation", "DoPut"), ("table", "t"), ("request_id", "job-7"), ("result", result)]
        {
            assert_eq!(line[key], expected, "{key} of {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_the_coordinator_is_recorded_there_only() {
    for (refusal, recorded) in [(Error::denied("no writer"), 0), (Error::unauthenticated("who calls?"), 1)] {
        let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
        cluster.coordinator.state.lock().refuse_begin = Some(refusal.clone());
        let (lines, ended) = put_by_ann(&cluster).await;
        assert_eq!((ended.unwrap_err().code, lines.len()), (refusal.code, recorded), "{lines:?}");
        assert_eq!(cluster.coordinator.state.lock().request_ids, [Some("job-7".to_string())]);
    }
}
