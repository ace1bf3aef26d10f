//! Actions of operators: what the cluster says of itself, nodes and coordinators that come and go.
//!
//! Only the leader knows what nodes last said and what is being copied: another coordinator asks it, and answers with
//! what the catalog has if it cannot be reached.

use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::TryStreamExt;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};
use volley_common::{Code, Result};

use super::actions::Done;
use super::bodies::{AddCoordinator, CoordinatorRef, DrainNode, NodeRef, Nothing, TableRef, parse};
use super::{Flight, MAX_REPLY};

/// Names and texts of these actions.
pub const ACTIONS: [(&str, &str); 8] = [
    ("cluster_status", "Green, yellow or red; coordinators, leader, nodes and sums, as JSON"),
    ("explain", r#"Where each shard of a table is, where it should be, and why not yet: {"table"}"#),
    ("list_versions", r#"The versions of a table that can be read now: {"table"}"#),
    (
        "drain_node",
        r#"Have a node's parts copied elsewhere; repeated, what is left: {"node": id, its first digits or HOST:PORT, "begin": false to ask only}"#,
    ),
    ("undrain_node", r#"Take a drain back: {"node"}"#),
    ("remove_node", r#"Forget a node, unless something would be lost: {"node"}"#),
    ("add_coordinator", r#"Take a coordinator into the cluster: {"id", "peer": HOST:PORT}"#),
    ("remove_coordinator", r#"Take a coordinator out of the cluster: {"id"}"#),
];

/// Marks what another coordinator passed on: it goes no further.
const PASSED_ON: &str = "x-volley-passed-on";
/// How long the leader may take before this coordinator answers with what it has.
const LEADER_TIME: Duration = Duration::from_secs(2);

impl Flight {
    /// Runs one of [`ACTIONS`].
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a body that cannot be read. Else what the action says.
    pub(super) async fn run_admin(&self, action: &Action, metadata: &MetadataMap) -> Result<Done> {
        let (name, body) = (action.r#type.as_str(), &action.body[..]);
        let live = matches!(name, "cluster_status" | "explain" | "drain_node");
        if live && let Some(done) = self.ask_leader(action, metadata).await {
            return done;
        }
        let service = &self.service;
        let value = match name {
            "cluster_status" => {
                let Nothing {} = parse(name, body)?;
                service.cluster_status().await?
            }
            "explain" => service.explain(&parse::<TableRef>(name, body)?.name()?).await?,
            "list_versions" => service.list_versions(&parse::<TableRef>(name, body)?.name()?).await?,
            "drain_node" => {
                let drain: DrainNode = parse(name, body)?;
                service.drain_node(&drain.node, drain.begin).await?
            }
            "undrain_node" => service.undrain_node(&parse::<NodeRef>(name, body)?.node).await?,
            "remove_node" => service.remove_node(&parse::<NodeRef>(name, body)?.node).await?,
            "add_coordinator" => {
                let add: AddCoordinator = parse(name, body)?;
                service.add_coordinator(add.id, &add.peer).await?
            }
            _ => service.remove_coordinator(parse::<CoordinatorRef>(name, body)?.id).await?,
        };
        Ok(Done::json(&value))
    }

    /// The leader's answer; none if this coordinator leads, knows of no leader, or does not reach it in time.
    async fn ask_leader(&self, action: &Action, metadata: &MetadataMap) -> Option<Result<Done>> {
        let raft = &self.service.raft;
        let leader = raft.leader().filter(|id| *id != raft.id() && !metadata.contains_key(PASSED_ON))?;
        let channel = self.service.pool.channel(&raft.peers().get(&leader)?.clone()).ok()?;
        let mut client = FlightServiceClient::new(channel).max_decoding_message_size(MAX_REPLY);
        let mut request = Request::new(action.clone());
        request.metadata_mut().insert(PASSED_ON, MetadataValue::from_static("1"));
        let ask = async { client.do_action(request).await?.into_inner().try_collect().await };
        let answer: Result<Vec<arrow_flight::Result>, Status> = tokio::time::timeout(LEADER_TIME, ask).await.ok()?;
        match answer {
            Ok(results) => Some(Ok(Done { results, cookie: None })),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => None,
            Err(status) => Some(Err(status.into())),
        }
    }
}
