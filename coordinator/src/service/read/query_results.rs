//! Plans of queries' results: the endpoints of a table that only the tickets of a FlightInfo name.

use bytes::Bytes;
use prost::Message;
use volley_common::net::member_health::HealthRank;
use volley_common::options::Options;
use volley_common::wire::cluster::Ticket;
use volley_common::{Error, Result};

use super::{ReadPlan, ReadService};
use crate::client_listener::{ClientListener, Locations};
use crate::node_probes::nodes_of_rank_among;
use crate::raft::CatalogView;
use crate::service::live_nodes::wait_for_live_nodes;

/// The most bytes of all copies of what the tickets of a result have in common, unless one alone has more.
const MAX_COPIED: usize = 8 << 20;

impl ReadService {
    /// Plans the endpoints of the result that a verified ticket names. Their tickets are for its principal, and say the same of the
    /// tables that the query read. Whether the principal may read these is checked before.
    ///
    /// # Errors
    /// NOT_FOUND: the result is not kept any more. UNAVAILABLE: a shard without a live holder, or no leader.
    pub async fn plan_query_result(
        &self,
        result: Ticket,
        max_endpoints: Option<u32>,
        listener: &ClientListener,
    ) -> Result<ReadPlan> {
        let copies = u32::try_from(MAX_COPIED / result.encoded_len().max(1)).unwrap_or(u32::MAX);
        let most = match listener.locations {
            Locations::Single => 1,
            Locations::Direct | Locations::Proxy => {
                max_endpoints.unwrap_or(u32::MAX).min(self.max_endpoints).min(copies).max(1)
            }
        };
        let plan = |catalog: CatalogView| {
            let table = catalog.query_result(&result.table).ok_or_else(|| expired(&result))?;
            // The drop made it a version that is replaced.
            let options = Options { version: Some(table.version), ..Options::default() };
            self.resolve_read(&catalog, table, &options, None, |_| most, &listener.name)
        };
        wait_for_live_nodes(&self.raft).await;
        let target = self.raft.read_with(plan).await??;
        let nodes = &target.version_plan.nodes;
        let doubted = nodes_of_rank_among(&self.raft.view(), &self.pool, HealthRank::Deprioritized, nodes);
        let schema = target.layout.schema;
        let ticket = Ticket {
            flight: result.flight,
            expires_ms: target.expires_ms,
            table: result.table,
            table_id: target.table_id,
            version: target.version,
            // Each part has it.
            schema: if target.version_plan.has_parts() { Bytes::new() } else { schema.clone() },
            principal: result.principal,
            grant_epoch: result.grant_epoch,
            result: result.result,
            // Neither parts nor a limit: each endpoint has its own.
            ..Ticket::default()
        };
        Ok(ReadPlan {
            name: target.table,
            version: target.version,
            doubted: target.version_plan.uris_of(&doubted),
            signer: target.key.signer(&ticket),
            listener: listener.clone(),
            rotation: self.next_rotation(),
            rows: Some(target.version_plan.rows),
            bytes: Some(target.version_plan.bytes),
            ordered: true,
            expires_ms: target.expires_ms,
            offers_local_reads: true,
            schema,
            version_plan: target.version_plan,
        })
    }
}

fn expired(result: &Ticket) -> Error {
    Error::not_found(format!("the result of {} is not kept any more: call get_flight_info again", result.subject()))
}
