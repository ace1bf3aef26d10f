//! Operators' actions: cluster status, layout and versions of tables, adding and removing nodes and coordinators.
//!
//! Only the leader has the heartbeats of nodes and the copies in progress. Another coordinator forwards the actions that
//! report those to the leader, and replies from its own catalog if it cannot reach the leader.

use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::TryStreamExt;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};
use volley_common::net::ConnectionPool;
use volley_common::{Code, Result};

use super::action_bodies::{
    ActionReply, AddCoordinatorBody, CoordinatorBody, DrainNodeBody, EmptyBody, NodeBody, TableBody, parse,
};
use super::limits::MAX_REPLY;
use crate::raft::Handle;
use crate::service::Services;

/// Names and descriptions of these actions.
pub const ACTIONS: [(&str, &str); 8] = [
    ("cluster_status", "Green, yellow or red; coordinators, leader, nodes and sums, as JSON"),
    ("explain", r#"Where each shard of a table is, where it should be, and why it is not there yet: {"table"}"#),
    ("list_versions", r#"The versions of a table that can be read now: {"table"}"#),
    (
        "drain_node",
        r#"Copy a node's parts to other nodes, and report what is left: {"node": id, its first digits or HOST:PORT, "begin": false to only report}"#,
    ),
    ("undrain_node", r#"Cancel a drain: {"node"}"#),
    ("remove_node", r#"Remove a node; rejected while data would be lost: {"node"}"#),
    ("add_coordinator", r#"Add a coordinator to the cluster: {"id", "peer": HOST:PORT}"#),
    ("remove_coordinator", r#"Remove a coordinator from the cluster: {"id"}"#),
];

/// Marks an action that another coordinator forwarded: it is not forwarded again.
const FORWARDED: &str = "x-volley-passed-on";
/// How long the leader may take before this coordinator replies from its own catalog.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs one of [`ACTIONS`].
///
/// # Errors
/// INVALID_ARGUMENT: an invalid body. Errors of the action.
pub async fn run(services: &Services, action: &Action, metadata: &MetadataMap) -> Result<ActionReply> {
    let (name, body) = (action.r#type.as_str(), &action.body[..]);
    let needs_leader_state = matches!(name, "cluster_status" | "explain" | "drain_node");
    if needs_leader_state
        && !metadata.contains_key(FORWARDED)
        && let Some(reply) = forward_to_leader(&services.raft, &services.pool, action).await
    {
        return reply;
    }
    let admin = &services.admin;
    let value = match name {
        "cluster_status" => {
            let EmptyBody {} = parse(name, body)?;
            services.status.cluster_status().await?
        }
        "explain" => admin.explain(&parse::<TableBody>(name, body)?.name()?).await?,
        "list_versions" => admin.list_versions(&parse::<TableBody>(name, body)?.name()?).await?,
        "drain_node" => {
            let drain: DrainNodeBody = parse(name, body)?;
            admin.drain_node(&drain.node, drain.begin).await?
        }
        "undrain_node" => admin.undrain_node(&parse::<NodeBody>(name, body)?.node).await?,
        "remove_node" => admin.remove_node(&parse::<NodeBody>(name, body)?.node).await?,
        "add_coordinator" => {
            let add: AddCoordinatorBody = parse(name, body)?;
            admin.add_coordinator(add.id, &add.peer).await?
        }
        _ => admin.remove_coordinator(parse::<CoordinatorBody>(name, body)?.id).await?,
    };
    Ok(ActionReply::json(&value))
}

/// Runs the action on the leader. `None` if this coordinator leads, knows no leader, or does not reach it in time.
async fn forward_to_leader(raft: &Handle, pool: &ConnectionPool, action: &Action) -> Option<Result<ActionReply>> {
    let leader = raft.leader().filter(|id| *id != raft.id())?;
    let addr = raft.peers().get(&leader)?.clone();
    let channel = pool.coordinator_channel(&addr).ok()?;
    let mut client = FlightServiceClient::new(channel).max_decoding_message_size(MAX_REPLY);
    let mut request = Request::new(action.clone());
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    let call = async { client.do_action(request).await?.into_inner().try_collect().await };
    let results: Result<Vec<arrow_flight::Result>, Status> =
        tokio::time::timeout(LEADER_TIMEOUT, pool.while_answering(&addr, call)).await.ok()?;
    match results {
        Ok(results) => Some(Ok(ActionReply { results, cookie: None })),
        Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => None,
        Err(status) => Some(Err(status.into())),
    }
}
