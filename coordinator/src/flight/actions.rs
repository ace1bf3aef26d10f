//! DoAction: the list of actions, and their dispatch.

use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightEndpoint,
    RenewFlightEndpointRequest, Ticket,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use volley_common::options::fields::cut;
use volley_common::options::sql::is_sql_action;
use volley_common::options::{Mode, TableRequest};
use volley_common::session_cookie::{SESSION_COOKIE, SessionCookie};
use volley_common::wire::catalog::{Compression, DescriptorKind, Node, WriteMode, WriteState};
use volley_common::wire::cluster::{BeginWriteRequest, ColumnNames, CommitWriteRequest};
use volley_common::{Error, NodeId, Result, TransactionId, clock};

use super::action_bodies::{
    ActionReply, CreateTableBody, DropTableBody, EmptyBody, RestoreVersionBody, StatsBody, TransactionBody, WriteBody,
    parse, table_options,
};
use super::call_context::CallContext;
use super::flight_info::timestamp;
use super::identity_bodies::PrefixBody;
use super::rights::{self, CallRights, Requirement};
use super::session_options::FlightSessions;
use super::{admin_actions, begun_write, identity_actions};
use crate::catalog::Catalog;
use crate::client_listener::{ClientListener, node_address};
use crate::diagnostics::table_stats::table_json;
use crate::service::Services;

/// Names and descriptions of the actions, without those of [`admin_actions`] and [`identity_actions`].
pub(super) const ACTIONS: [(&str, &str); 25] = [
    (
        "create_table",
        r#"Create an empty table: {"table", "schema": base64 | "fields": [{"name", "type", "nullable"}], "if_not_exists", "shards", "shard_by", "replicas", "compression"}"#,
    ),
    ("drop_table", r#"Drop a table: its raw name, or {"table", "if_exists"}"#),
    (
        "restore_version",
        r#"Make an old version of a table the newest one: {"table", "version"}; or undo the drop of a table: {"table"}"#,
    ),
    ("list_tables", r#"The tables that one may read, with their statistics, as JSON: {"prefix"}"#),
    ("get_stats", r#"Sums over the cluster, or of one table: {"table"}"#),
    (
        "begin_write",
        r#"Begin a write of many puts: {"table", "mode", ...} -> {"write_id", "nodes", "lease_ms", "shards", "shard_by", "placement"}"#,
    ),
    (
        "commit_write",
        r#"Make a begun write visible: {"write_id"}; the outcome of one that was committed before has "repeated": true"#,
    ),
    ("abort_write", r#"Abort a begun write: {"write_id", "reason"}"#),
    ("begin_transaction", r#"Begin a transaction of puts into several tables -> {"transaction", "lease_ms"}"#),
    ("commit_transaction", r#"Make all puts of a transaction visible at once, or none: {"transaction"}"#),
    ("abort_transaction", r#"Roll a transaction back: {"transaction"}"#),
    ("healthcheck", "The health of the coordinator that answers, as JSON; replies immediately"),
    ("addresses", "Where a FlightInfo would send clients of the caller's listener, as JSON"),
    ("clear", "Drop every table; on a development cluster only"),
    ("shutdown", "Stop; on a development cluster only"),
    ("CancelFlightInfo", "Reject the tickets of a FlightInfo from now on"),
    ("RenewFlightEndpoint", "Renew a ticket: return one that expires later"),
    ("SetSessionOptions", "Set options of the client's session"),
    ("GetSessionOptions", "The options of the client's session"),
    ("CloseSession", "Close the client's session"),
    ("CreatePreparedStatement", "Prepare a statement of Flight SQL"),
    ("ClosePreparedStatement", "Close a prepared statement of Flight SQL"),
    ("CancelQuery", "Cancel a query of Flight SQL, as CancelFlightInfo does"),
    ("BeginTransaction", "Begin a transaction of Flight SQL"),
    ("EndTransaction", "Commit a transaction of Flight SQL, or roll it back"),
];

/// The reply to ListActions.
pub fn action_types() -> Vec<ActionType> {
    let action = |(name, text): &(&str, &str)| ActionType { r#type: name.to_string(), description: text.to_string() };
    ACTIONS.iter().chain(&admin_actions::ACTIONS).chain(&identity_actions::ACTIONS).map(action).collect()
}

/// Runs actions.
pub struct ActionRunner {
    services: Services,
    sessions: FlightSessions,
}

impl ActionRunner {
    /// Runs actions with these services.
    pub fn new(services: Services) -> Self {
        ActionRunner { services, sessions: FlightSessions::default() }
    }

    /// Runs one action, and records in the audit log how it ended. An error of `listener` fails only the actions that return
    /// addresses.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED: the caller may not run it. UNIMPLEMENTED: no such action. INVALID_ARGUMENT: an invalid
    /// body. Errors of the action.
    pub async fn run(
        &self,
        action: &Action,
        metadata: &MetadataMap,
        listener: Result<ClientListener>,
        call: &CallContext,
    ) -> Result<ActionReply> {
        let name = action.r#type.as_str();
        let Some(CallRights { requirement, kind }) = rights::of_action(name) else {
            call.access().require_identity()?;
            let name = cut(name);
            return Err(Error::unimplemented(format!("there is no action {name:?}: list_actions lists the actions")));
        };
        let result = match requirement.admit(call.access()) {
            Ok(()) => self.run_admitted(action, metadata, listener, call, requirement).await,
            Err(refusal) => Err(refusal),
        };
        call.record(kind, name, result.as_ref().map(|_| ()));
        result
    }

    async fn run_admitted(
        &self,
        action: &Action,
        metadata: &MetadataMap,
        listener: Result<ClientListener>,
        call: &CallContext,
        requirement: Requirement,
    ) -> Result<ActionReply> {
        let (name, body) = (action.r#type.as_str(), &action.body[..]);
        match name {
            "create_table" => self.create_table(body, metadata, call, requirement).await,
            "drop_table" => self.drop_table(body, call, requirement).await,
            "restore_version" => self.restore_version(body, call, requirement).await,
            "get_stats" => self.get_stats(body, call, requirement).await,
            "begin_write" => self.begin_write(body, metadata, &listener?, call, requirement).await,
            "commit_write" => self.commit_write(body, call).await,
            "abort_write" => self.abort_write(body, call).await,
            "begin_transaction" => self.begin_transaction(body),
            "commit_transaction" | "abort_transaction" => self.end_transaction(name, body, call).await,
            "CancelFlightInfo" => self.cancel_flight_info(body, call).await,
            "RenewFlightEndpoint" => self.renew_endpoint(body, call).await,
            "SetSessionOptions" => self.set_session(body, metadata, call),
            "GetSessionOptions" => {
                let cookie = SessionCookie::of_headers(metadata.as_ref());
                let options = self.sessions.current(call.access().name(), cookie.as_ref());
                Ok(ActionReply::bytes(options.encode_to_vec()))
            }
            "CloseSession" => self.close_session(metadata, call),
            // A health check accepts any body, because clients poll with different ones.
            "healthcheck" => Ok(ActionReply::json(&self.services.status.health())),
            "addresses" => {
                let EmptyBody {} = parse(name, body)?;
                Ok(ActionReply::json(&self.addresses(&listener?)))
            }
            "list_tables" => {
                let prefix = parse::<PrefixBody>(name, body)?.prefix()?;
                Ok(ActionReply::json(&self.services.tables.list_tables(call.access(), &prefix).await?))
            }
            "clear" => {
                let EmptyBody {} = parse(name, body)?;
                self.services.tables.clear().await?;
                Ok(ActionReply::json(&json!({ "cleared": true })))
            }
            "shutdown" => {
                let EmptyBody {} = parse(name, body)?;
                self.services.tables.require_dev("shutdown")?;
                tracing::info!("a client requested the shutdown");
                self.services.stop.cancel();
                Ok(ActionReply::json(&json!({ "stopping": true })))
            }
            _ if is_sql_action(name) => Err(Error::internal(format!("{name} bypassed the coordinator's router"))),
            _ if identity_actions::ACTIONS.iter().any(|(known, _)| *known == name) => {
                identity_actions::run(&self.services.identity, &self.services.config.limits, action, call).await
            }
            _ => admin_actions::run(&self.services, action, metadata, call, requirement).await,
        }
    }

    async fn create_table(
        &self,
        body: &[u8],
        metadata: &MetadataMap,
        call: &CallContext,
        requirement: Requirement,
    ) -> Result<ActionReply> {
        let CreateTableBody { name, schema, options, if_not_exists } = CreateTableBody::parse(body, metadata)?;
        call.require(requirement, &name)?;
        let kind = DescriptorKind::Path;
        let table = self.services.tables.create_table(&name, kind, schema, &options, if_not_exists).await?;
        Ok(ActionReply::json(&table_json(&table)))
    }

    async fn drop_table(&self, body: &[u8], call: &CallContext, requirement: Requirement) -> Result<ActionReply> {
        let drop = DropTableBody::parse(body)?;
        let name = drop.table.parse()?;
        let with_similar = |error| self.services.read.with_similar_table(call.access(), &name, error);
        call.require(requirement, &name).map_err(with_similar)?;
        let dropped = self.services.tables.drop_table(&name, drop.if_exists).await.map_err(with_similar)?;
        let mut reply = json!({ "table": drop.table, "dropped": dropped });
        if dropped && let Some(until_ms) = self.services.restore.restorable_until_ms(&name).await {
            reply["restorable_until_ms"] = until_ms.into();
        }
        Ok(ActionReply::json(&reply))
    }

    async fn restore_version(&self, body: &[u8], call: &CallContext, requirement: Requirement) -> Result<ActionReply> {
        let restore: RestoreVersionBody = parse("restore_version", body)?;
        let name = restore.table.parse()?;
        call.require(requirement, &name)?;
        Ok(ActionReply::json(&self.services.restore.restore_version(&name, restore.version).await?))
    }

    async fn get_stats(&self, body: &[u8], call: &CallContext, requirement: Requirement) -> Result<ActionReply> {
        let stats: StatsBody = parse("get_stats", body)?;
        let name = stats.table.map(|name| name.parse()).transpose()?;
        match &name {
            Some(name) => call.require(requirement, name)?,
            None => requirement.check_cluster(call.access())?,
        }
        Ok(ActionReply::json(&self.services.tables.stats(call.access(), name.as_ref()).await?))
    }

    async fn begin_write(
        &self,
        body: &[u8],
        metadata: &MetadataMap,
        listener: &ClientListener,
        call: &CallContext,
        requirement: Requirement,
    ) -> Result<ActionReply> {
        let TableRequest { name, options, .. } = TableRequest::from_command(body, metadata)?.for_put()?;
        call.require(requirement, &name)?;
        if options.transaction.is_some() {
            return Err(Error::invalid(
                "a transaction begins its writes itself: put with the option \"transaction\", without begin_write",
            ));
        }
        let table_options = table_options(&options);
        let request = BeginWriteRequest {
            table: name.components().to_vec(),
            // The write has no descriptor of its own: a table that it creates is listed by its path.
            kind: DescriptorKind::Path as i32,
            mode: options.mode.map_or(WriteMode::Replace, WriteMode::from) as i32,
            create_append: options.mode == Some(Mode::CreateAppend),
            shards: table_options.shards,
            shard_by: table_options.shard_by,
            replicas: table_options.replicas,
            compression: table_options.compression.map(|c: Compression| c as i32),
            write_id: options.write_id.unwrap_or_default(),
            staged: true,
            attempt: rand::random_range(1..=u64::MAX),
            retention_ms: table_options.retention_ms,
            ttl_ms: table_options.ttl_ms,
            stats_columns: table_options.stats_columns.map(|names| ColumnNames { names }),
            max_endpoints: table_options.max_endpoints,
            preserve_batches: table_options.preserve_batches,
            shareable_tickets: table_options.shareable_tickets,
            ..BeginWriteRequest::default()
        };
        let plan = self.services.write.begin_write(call.access(), request).await?;
        Ok(ActionReply::json(&begun_write::reply(&name, &plan, listener)))
    }

    async fn commit_write(&self, body: &[u8], call: &CallContext) -> Result<ActionReply> {
        let write: WriteBody = parse("commit_write", body)?;
        self.require_writer(&write.write_id, call).await?;
        let is_repeated = self.is_committed(&write.write_id).await?;
        let request = CommitWriteRequest { write: write.write_id, ..CommitWriteRequest::default() };
        let mut outcome = self.services.write.commit_write(request).await?.to_json();
        if is_repeated {
            outcome["repeated"] = true.into();
        }
        Ok(ActionReply::json(&outcome))
    }

    async fn abort_write(&self, body: &[u8], call: &CallContext) -> Result<ActionReply> {
        let write: WriteBody = parse("abort_write", body)?;
        self.require_writer(&write.write_id, call).await?;
        let reason = write.reason.map_or_else(|| "aborted by the client".into(), |reason| cut(&reason));
        self.services.write.abort_write(write.write_id.clone(), reason, 0).await?;
        Ok(ActionReply::json(&json!({ "write_id": write.write_id, "aborted": true })))
    }

    /// The id is all that there is of a transaction that has not written.
    fn begin_transaction(&self, body: &[u8]) -> Result<ActionReply> {
        let EmptyBody {} = parse("begin_transaction", body)?;
        let id = TransactionId::new(clock::now_ms()).to_string();
        Ok(ActionReply::json(&json!({ "transaction": id, "lease_ms": self.services.config.lease_ms })))
    }

    async fn end_transaction(&self, name: &str, body: &[u8], call: &CallContext) -> Result<ActionReply> {
        let TransactionBody { transaction } = parse(name, body)?;
        let commit = name == "commit_transaction";
        let (tables, ended) = self.services.write.end_transaction(call.access(), &transaction, commit).await;
        tables.iter().for_each(|table| call.note_table(table));
        ended?;
        let tables: Vec<String> = tables.iter().map(|table| table.join("/")).collect();
        Ok(ActionReply::json(&json!({ "transaction": transaction, "committed": commit, "tables": tables })))
    }

    /// Whether a write is committed already, and not forgotten.
    async fn is_committed(&self, write: &str) -> Result<bool> {
        let is_committed_in = |catalog: &Catalog| {
            let known = catalog.write(write);
            known.is_some_and(|known| known.state() == WriteState::Committed)
        };
        // The local catalog may lag.
        let is_known = is_committed_in(&self.services.raft.view());
        Ok(is_known || is_committed_in(&*self.services.raft.read().await?))
    }

    /// Checks the rights to a write by its id, which names no table.
    async fn require_writer(&self, write: &str, call: &CallContext) -> Result<()> {
        let table = self.services.write.require_writer(call.access(), write).await?;
        call.note_table(&table);
        Ok(())
    }

    /// The addresses that clients of a listener get, and other facts that may keep them from connecting.
    fn addresses(&self, listener: &ClientListener) -> Value {
        let catalog = self.services.raft.view();
        let node = |node: &Node| {
            json!({
                "id": NodeId(node.id).to_string(),
                "uri": node_address(node, &listener.name).filter(|uri| listener.permits(uri)),
                "software": node.software,
            })
        };
        json!({
            "listener": &*listener.name,
            "locations": listener.locations.to_string(),
            "coordinator": listener.own_address(),
            "nodes": catalog.live_nodes().map(node).collect::<Vec<_>>(),
            "software": concat!("volley-coordinator ", env!("CARGO_PKG_VERSION")),
            "now_ms": clock::now_ms(),
        })
    }

    async fn cancel_flight_info(&self, body: &[u8], call: &CallContext) -> Result<ActionReply> {
        let request = CancelFlightInfoRequest::decode(body).map_err(|e| invalid_body("CancelFlightInfo", &e))?;
        let endpoints = request.info.map(|info| info.endpoint).unwrap_or_default();
        let ticket = endpoints.into_iter().find_map(|endpoint| endpoint.ticket);
        let ticket = ticket.ok_or_else(|| Error::invalid("the FlightInfo to cancel has no ticket"))?;
        self.services.tickets.cancel_flight(call.access(), &ticket.ticket).await?;
        Ok(ActionReply::bytes(CancelFlightInfoResult::new(CancelStatus::Cancelled).encode_to_vec()))
    }

    async fn renew_endpoint(&self, body: &[u8], call: &CallContext) -> Result<ActionReply> {
        let request = RenewFlightEndpointRequest::decode(body).map_err(|e| invalid_body("RenewFlightEndpoint", &e))?;
        let endpoint = request.endpoint.unwrap_or_default();
        let ticket = endpoint.ticket.as_ref().ok_or_else(|| Error::invalid("the endpoint to renew has no ticket"))?;
        let (ticket, until_ms) = self.services.tickets.renew_ticket(call.access(), &ticket.ticket).await?;
        let renewed = FlightEndpoint {
            ticket: Some(Ticket { ticket: ticket.into() }),
            expiration_time: Some(timestamp(until_ms)),
            ..endpoint
        };
        Ok(ActionReply::bytes(renewed.encode_to_vec()))
    }

    fn set_session(&self, body: &[u8], metadata: &MetadataMap, call: &CallContext) -> Result<ActionReply> {
        let sent = SessionCookie::of_headers(metadata.as_ref());
        let (result, changed) = self.sessions.set(call.access().name(), sent.as_ref(), body)?;
        let cookie = changed.map(|changed| cookie(&changed.to_header())).transpose()?;
        Ok(ActionReply { cookie, ..ActionReply::bytes(result.encode_to_vec()) })
    }

    fn close_session(&self, metadata: &MetadataMap, call: &CallContext) -> Result<ActionReply> {
        let sent = SessionCookie::of_headers(metadata.as_ref());
        let result = self.sessions.close(call.access().name(), sent.as_ref());
        let cookie = sent.map(|_| cookie(&format!("{SESSION_COOKIE}=; Max-Age=0"))).transpose()?;
        Ok(ActionReply { cookie, ..ActionReply::bytes(result.encode_to_vec()) })
    }
}

fn cookie(text: &str) -> Result<AsciiMetadataValue> {
    text.parse().map_err(|_| Error::internal("the cookie is no valid header"))
}

fn invalid_body(action: &str, error: &prost::DecodeError) -> Error {
    Error::invalid(format!("the body of {action} is not its protobuf message: {error}"))
}

#[cfg(test)]
mod tests;
