//! DoAction: what there is, and what each does.

use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightEndpoint,
    RenewFlightEndpointRequest, Ticket,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use volley_common::options::TableRequest;
use volley_common::wire::catalog::{Compression, DescriptorKind, WriteMode};
use volley_common::wire::cluster::{BeginWriteRequest, CommitWriteRequest};
use volley_common::{Error, Result};

use super::bodies::{Create, Drop, Nothing, Stats, WriteRef, choice, parse};
use super::discovery::timestamp;
use super::sessions::{COOKIE, session_id};
use super::{Flight, admin};
use crate::service::status::table_json;
use crate::service::via::Via;

/// What an action leaves for the client.
pub struct Done {
    /// Its results.
    pub results: Vec<arrow_flight::Result>,
    /// A cookie to set.
    pub cookie: Option<AsciiMetadataValue>,
}

impl Done {
    fn bytes(body: Vec<u8>) -> Self {
        Done { results: vec![arrow_flight::Result { body: body.into() }], cookie: None }
    }

    /// One result: this value.
    pub fn json(value: &Value) -> Self {
        Self::bytes(value.to_string().into_bytes())
    }
}

const ACTIONS: [(&str, &str); 16] = [
    (
        "create_table",
        r#"Make an empty table: {"table", "schema": base64 | "fields": [{"name", "type", "nullable"}], "if_not_exists", "shards", "shard_by", "replicas", "compression"}"#,
    ),
    ("drop_table", r#"Drop a table: its raw name, or {"table", "if_exists"}"#),
    ("list_tables", "All tables with their figures, as JSON"),
    ("get_stats", r#"Sums over the cluster, or of one table: {"table"}"#),
    ("begin_write", r#"Begin a write of many puts: {"table", "mode", ...} -> {"write_id", "nodes", "lease_ms"}"#),
    ("commit_write", r#"Make a begun write visible: {"write_id"}"#),
    ("abort_write", r#"Drop a begun write: {"write_id", "reason"}"#),
    ("healthcheck", "Answers at once, as JSON"),
    ("addresses", "Where a FlightInfo would send clients of the caller's listener, as JSON"),
    ("clear", "Drop every table; on a development cluster only"),
    ("shutdown", "Stop; on a development cluster only"),
    ("CancelFlightInfo", "Refuse the tickets of a FlightInfo from now on"),
    ("RenewFlightEndpoint", "A ticket that expires later"),
    ("SetSessionOptions", "Set options of the client's session"),
    ("GetSessionOptions", "The options of the client's session"),
    ("CloseSession", "Forget the client's session"),
];

/// What ListActions answers.
pub fn types() -> Vec<ActionType> {
    let action = |(name, text): &(&str, &str)| ActionType { r#type: name.to_string(), description: text.to_string() };
    ACTIONS.iter().chain(&admin::ACTIONS).map(action).collect()
}

impl Flight {
    /// Runs one action.
    ///
    /// # Errors
    /// UNIMPLEMENTED: no such action. INVALID_ARGUMENT: a body that cannot be read. Else what the action says.
    ///
    /// `via` counts only where addresses are told: no other action fails by a wrong one.
    pub async fn run(&self, action: &Action, metadata: &MetadataMap, via: Result<Via>) -> Result<Done> {
        let (name, body) = (action.r#type.as_str(), &action.body[..]);
        match name {
            "create_table" => self.create_table(body, metadata).await,
            "drop_table" => self.drop_table(body).await,
            "get_stats" => self.get_stats(body).await,
            "begin_write" => self.begin_write(body, metadata, &via?).await,
            "commit_write" => self.commit_write(body).await,
            "abort_write" => self.abort_write(body).await,
            "CancelFlightInfo" => self.cancel(body).await,
            "RenewFlightEndpoint" => self.renew(body).await,
            "SetSessionOptions" => self.set_session(body, metadata),
            "GetSessionOptions" => Ok(Done::bytes(self.sessions.get(session_id(metadata).as_deref()).encode_to_vec())),
            "CloseSession" => self.close_session(metadata),
            // A health check must not fail on whatever a client polls with.
            "healthcheck" => Ok(Done::json(&self.service.health())),
            "addresses" => {
                let Nothing {} = parse(name, body)?;
                Ok(Done::json(&self.service.addresses(&via?)))
            }
            "list_tables" | "clear" | "shutdown" => {
                let Nothing {} = parse(name, body)?;
                self.run_plain(name).await
            }
            _ if admin::ACTIONS.iter().any(|(known, _)| *known == name) => self.run_admin(action, metadata).await,
            _ => Err(Error::unimplemented(format!("there is no action {name:?}: list_actions names those that are"))),
        }
    }

    async fn run_plain(&self, name: &str) -> Result<Done> {
        match name {
            "list_tables" => Ok(Done::json(&self.service.list_tables().await?)),
            "clear" => {
                self.service.clear().await?;
                Ok(Done::json(&json!({ "cleared": true })))
            }
            _ => {
                self.service.only_dev("shutdown")?;
                tracing::info!("a client asked to shut down");
                self.service.stop.cancel();
                Ok(Done::json(&json!({ "stopping": true })))
            }
        }
    }

    async fn create_table(&self, body: &[u8], metadata: &MetadataMap) -> Result<Done> {
        let create = Create::parse(body, metadata)?;
        let kind = DescriptorKind::Path;
        let table =
            self.service.create_table(&create.name, kind, create.schema, &create.choice, create.if_not_exists).await?;
        Ok(Done::json(&table_json(&table)))
    }

    async fn drop_table(&self, body: &[u8]) -> Result<Done> {
        let drop = Drop::parse(body)?;
        let dropped = self.service.drop_table(&drop.table.parse()?, drop.if_exists).await?;
        Ok(Done::json(&json!({ "table": drop.table, "dropped": dropped })))
    }

    async fn get_stats(&self, body: &[u8]) -> Result<Done> {
        let stats: Stats = parse("get_stats", body)?;
        let name = stats.table.map(|name| name.parse()).transpose()?;
        Ok(Done::json(&self.service.stats(name.as_ref()).await?))
    }

    async fn begin_write(&self, body: &[u8], metadata: &MetadataMap, via: &Via) -> Result<Done> {
        let TableRequest { name, kind, options } = TableRequest::from_command(body, metadata)?;
        let choice = choice(&options);
        let request = BeginWriteRequest {
            table: name.components().to_vec(),
            kind: kind as i32,
            mode: options.mode.map_or(WriteMode::Replace, WriteMode::from) as i32,
            shards: choice.shards,
            shard_by: choice.shard_by,
            replicas: choice.replicas,
            compression: choice.compression.map(|c: Compression| c as i32),
            write_id: options.write_id.unwrap_or_default(),
            staged: true,
            attempt: rand::random_range(1..=u64::MAX),
            retention_ms: choice.retention_ms,
            ..BeginWriteRequest::default()
        };
        let plan = self.service.begin_write(request).await?;
        let write_id = plan.write.map(|write| write.id).unwrap_or_default();
        let nodes = via.addresses(&plan.nodes);
        let table = name.to_string();
        Ok(Done::json(&json!({ "write_id": write_id, "table": table, "nodes": nodes, "lease_ms": plan.lease_ms })))
    }

    async fn commit_write(&self, body: &[u8]) -> Result<Done> {
        let write: WriteRef = parse("commit_write", body)?;
        let request = CommitWriteRequest { write: write.write_id, ..CommitWriteRequest::default() };
        Ok(Done::json(&self.service.commit_write(request).await?.to_json()))
    }

    async fn abort_write(&self, body: &[u8]) -> Result<Done> {
        let write: WriteRef = parse("abort_write", body)?;
        let reason = write.reason.unwrap_or_else(|| "aborted by the client".into());
        self.service.abort_write(write.write_id.clone(), reason, 0).await?;
        Ok(Done::json(&json!({ "write_id": write.write_id, "aborted": true })))
    }

    async fn cancel(&self, body: &[u8]) -> Result<Done> {
        let request = CancelFlightInfoRequest::decode(body).map_err(|e| bad("CancelFlightInfo", &e))?;
        let endpoints = request.info.map(|info| info.endpoint).unwrap_or_default();
        let ticket = endpoints.into_iter().find_map(|endpoint| endpoint.ticket);
        let ticket = ticket.ok_or_else(|| Error::invalid("the FlightInfo to cancel has no ticket"))?;
        self.service.cancel(&ticket.ticket).await?;
        Ok(Done::bytes(CancelFlightInfoResult::new(CancelStatus::Cancelled).encode_to_vec()))
    }

    async fn renew(&self, body: &[u8]) -> Result<Done> {
        let request = RenewFlightEndpointRequest::decode(body).map_err(|e| bad("RenewFlightEndpoint", &e))?;
        let endpoint = request.endpoint.unwrap_or_default();
        let ticket = endpoint.ticket.as_ref().ok_or_else(|| Error::invalid("the endpoint to renew has no ticket"))?;
        let (ticket, until_ms) = self.service.renew(&ticket.ticket).await?;
        let renewed = FlightEndpoint {
            ticket: Some(Ticket { ticket: ticket.into() }),
            expiration_time: Some(timestamp(until_ms)),
            ..endpoint
        };
        Ok(Done::bytes(renewed.encode_to_vec()))
    }

    fn set_session(&self, body: &[u8], metadata: &MetadataMap) -> Result<Done> {
        let (result, made) = self.sessions.set(session_id(metadata), body)?;
        let cookie = made.map(|id| cookie(&format!("{COOKIE}={id}"))).transpose()?;
        Ok(Done { cookie, ..Done::bytes(result.encode_to_vec()) })
    }

    fn close_session(&self, metadata: &MetadataMap) -> Result<Done> {
        let id = session_id(metadata);
        let result = self.sessions.close(id.as_deref());
        let cookie = id.map(|_| cookie(&format!("{COOKIE}=; Max-Age=0"))).transpose()?;
        Ok(Done { cookie, ..Done::bytes(result.encode_to_vec()) })
    }
}

fn cookie(text: &str) -> Result<AsciiMetadataValue> {
    text.parse().map_err(|_| Error::internal("a cookie that is no header"))
}

fn bad(action: &str, error: &prost::DecodeError) -> Error {
    Error::invalid(format!("the body of {action} is not its protobuf message: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_action_has_a_text_and_its_own_name() {
        let mut names: Vec<String> = types().into_iter().map(|action| action.r#type).collect();
        let listed = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), listed);
        assert!(types().iter().all(|action| !action.description.is_empty()));
    }
}
