//! Operators' actions: cluster status, layout and versions of tables, adding and removing nodes and coordinators, new keys.
//!
//! Only the leader has the heartbeats of nodes and the copies in progress. Another coordinator forwards the actions that
//! report those to the leader, and replies from its own catalog if it cannot reach the leader.

use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use volley_common::grpc::DO_ACTION;
use volley_common::identity::assert_principal;
use volley_common::net::ConnectionPool;
use volley_common::server::audit::REQUEST_ID_HEADER;
use volley_common::{Code, Result};

use super::action_bodies::{
    ActionReply, AddCoordinatorBody, CoordinatorBody, DrainNodeBody, EmptyBody, NodeBody, RotateKeysBody, TableBody,
    parse,
};
use super::call_context::CallContext;
use super::limits::MAX_REPLY;
use super::rights::Requirement;
use crate::raft::Handle;
use crate::service::Services;
use crate::service::key_rotation::rotate_keys;
use crate::service::tickets::ticket_key;

/// Names and descriptions of these actions.
pub const ACTIONS: [(&str, &str); 11] = [
    ("cluster_status", "Green, yellow or red; coordinators, leader, nodes and sums, as JSON"),
    ("explain", r#"Where each shard of a table is, where it should be, and why it is not there yet: {"table"}"#),
    ("list_versions", r#"The versions of a table that can be read now: {"table"}"#),
    ("list_writes", r#"The open writes, as JSON: {"writes": [{"write_id", "table", "mode", ...}], "more"}"#),
    (
        "list_audit",
        r#"The newest lines of the audit log of the coordinator that answers, as JSON: {"coordinator", "lines"}"#,
    ),
    (
        "drain_node",
        r#"Copy a node's parts to other nodes, and report what is left: {"node": id, its first digits or HOST:PORT, "begin": false to only report}"#,
    ),
    ("undrain_node", r#"Cancel a drain: {"node"}"#),
    ("remove_node", r#"Remove a node; rejected while data would be lost: {"node"}"#),
    ("add_coordinator", r#"Add a coordinator to the cluster: {"id", "peer": HOST:PORT}"#),
    ("remove_coordinator", r#"Remove a coordinator from the cluster: {"id"}"#),
    (
        "rotate_keys",
        r#"Replace the key that signs sessions, and with "ticket_key": true that of tickets: {"revoke_sessions", "ticket_key", "revoke_tickets"}; what is revoked ends before its time"#,
    ),
];

/// Marks an action that another coordinator forwarded: it is not forwarded again.
const FORWARDED: &str = "x-volley-passed-on";
/// How long the leader may take before this coordinator replies from its own catalog.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs one of [`ACTIONS`], which requires `requirement`.
///
/// # Errors
/// INVALID_ARGUMENT: an invalid body. Errors of the action.
pub async fn run(
    services: &Services,
    action: &Action,
    metadata: &MetadataMap,
    call: &CallContext,
    requirement: Requirement,
) -> Result<ActionReply> {
    let (name, body) = (action.r#type.as_str(), &action.body[..]);
    // Before the call is forwarded: the leader checks it again, by what it knows.
    let table = match name {
        "explain" | "list_versions" => {
            let table = parse::<TableBody>(name, body)?.name()?;
            call.require(requirement, &table)?;
            Some(table)
        }
        _ => None,
    };
    let needs_leader_state = matches!(name, "cluster_status" | "explain" | "drain_node");
    if needs_leader_state
        && !metadata.contains_key(FORWARDED)
        && let Some(reply) = forward_to_leader(&services.raft, &services.pool, action, call).await
    {
        return reply;
    }
    let admin = &services.admin;
    let value = match (name, &table) {
        ("explain", Some(table)) => admin.explain(call.access(), table).await?,
        (_, Some(table)) => admin.list_versions(call.access(), table).await?,
        ("cluster_status", None) => {
            let EmptyBody {} = parse(name, body)?;
            services.status.cluster_status(call.access()).await?
        }
        ("list_writes", None) => {
            let EmptyBody {} = parse(name, body)?;
            admin.list_writes(call.access()).await?
        }
        ("list_audit", None) => {
            let EmptyBody {} = parse(name, body)?;
            let lines = services.audit.newest_lines();
            let of_json = |lines: Vec<String>| -> Vec<Value> {
                lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
            };
            json!({ "coordinator": services.raft.id(), "lines": lines.map(of_json) })
        }
        ("drain_node", None) => {
            let drain: DrainNodeBody = parse(name, body)?;
            call.note_target(&drain.node);
            admin.drain_node(&drain.node, drain.begin).await?
        }
        ("undrain_node" | "remove_node", None) => {
            let node = parse::<NodeBody>(name, body)?.node;
            call.note_target(&node);
            if name == "remove_node" { admin.remove_node(&node).await? } else { admin.undrain_node(&node).await? }
        }
        ("add_coordinator", None) => {
            let add: AddCoordinatorBody = parse(name, body)?;
            call.note_target(&format!("{} {}", add.id, add.peer));
            admin.add_coordinator(add.id, &add.peer).await?
        }
        ("rotate_keys", None) => {
            let rotation = parse::<RotateKeysBody>(name, body)?.rotation();
            rotate_keys(&services.raft, &services.config, rotation).await?
        }
        (_, None) => {
            let id = parse::<CoordinatorBody>(name, body)?.id;
            call.note_target(&id.to_string());
            admin.remove_coordinator(id).await?
        }
    };
    Ok(ActionReply::json(&value))
}

/// Runs the action on the leader, for the same principal. `None` if this coordinator leads, knows no leader, or does not reach it
/// in time.
async fn forward_to_leader(
    raft: &Handle,
    pool: &ConnectionPool,
    action: &Action,
    call: &CallContext,
) -> Option<Result<ActionReply>> {
    let leader = raft.leader().filter(|id| *id != raft.id())?;
    let addr = raft.peers().get(&leader)?.clone();
    let channel = pool.coordinator_channel(&addr).ok()?;
    let mut client = FlightServiceClient::new(channel).max_decoding_message_size(MAX_REPLY);
    let mut request = Request::new(action.clone());
    *request.metadata_mut() = MetadataMap::from_headers(forwarded_headers(raft, call));
    let answer = async { client.do_action(request).await?.into_inner().try_collect().await };
    let results: Result<Vec<arrow_flight::Result>, Status> =
        tokio::time::timeout(LEADER_TIMEOUT, pool.while_answering(&addr, answer)).await.ok()?;
    match results {
        Ok(results) => Some(Ok(ActionReply { results, cookie: None })),
        Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => None,
        Err(status) => Some(Err(status.into())),
    }
}

/// The headers of a forwarded action: they say for whom it is, and how the client calls it.
fn forwarded_headers(raft: &Handle, call: &CallContext) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    if let Some(id) = call.request_id() {
        headers.insert(REQUEST_ID_HEADER, id.clone());
    }
    let key = ticket_key(&raft.view()).ok();
    assert_principal(&mut headers, call.access(), key.as_ref(), DO_ACTION);
    headers
}
