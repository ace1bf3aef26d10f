//! Tickets that expire while their endpoints wait to be read.
//!
//! Half-way to its expiry one ticket is renewed: so the version stays readable for as long as the fetch lasts. The other tickets
//! still expire; new ones come from a new plan of the same version, if it is cut in the same way.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, RenewFlightEndpointRequest, Ticket};
use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value};
use tokio::time::sleep;
use volley_common::grpc::endpoint_expiry_ms;
use volley_common::{Code, Error, Result, TableName, clock};

use crate::Client;

/// How much the clocks of client and member may differ, milliseconds: a ticket that a member refuses this long before its end may
/// have expired there.
const CLOCK_SKEW_MS: u64 = 60_000;
/// A ticket is not renewed more often than this: half of the shortest lifetime.
const MIN_RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// A ticket, and until when it can be redeemed.
#[derive(Clone, Debug)]
pub(super) struct ExpiringTicket {
    /// The ticket.
    pub ticket: Ticket,
    /// Milliseconds since 1970, by the clock of the members; none if it does not expire.
    expires_ms: Option<u64>,
    /// The number of the plan that it is from; 0 is the FlightInfo that is fetched.
    plan: u64,
}

impl ExpiringTicket {
    /// The ticket of an endpoint, of the plan with this number.
    ///
    /// # Errors
    /// INTERNAL: it has none.
    pub(super) fn of(endpoint: &FlightEndpoint, index: usize, plan: u64) -> Result<Self> {
        let ticket = endpoint.ticket.clone();
        let ticket = ticket.ok_or_else(|| Error::internal(format!("endpoint {index} has no ticket")))?;
        Ok(ExpiringTicket { ticket, expires_ms: endpoint_expiry_ms(endpoint), plan })
    }

    /// Whether it may have expired at a member.
    pub(super) fn may_have_expired(&self) -> bool {
        self.expires_ms.is_some_and(|expires| clock::now_ms().saturating_add(CLOCK_SKEW_MS) >= expires)
    }
}

/// Renews the ticket of an endpoint half-way to each expiry, and with it the time for which its version stays readable. If no member
/// answers, it tries again half-way to what is left. Returns when there is nothing to renew, or a member refuses to.
pub(super) async fn keep_version(client: Client, mut endpoint: FlightEndpoint) {
    while let Some(expires) = endpoint_expiry_ms(&endpoint) {
        let left = Duration::from_millis(expires.saturating_sub(clock::now_ms()));
        sleep((left / 2).max(MIN_RENEWAL_PAUSE)).await;
        match renewed(&client, &endpoint).await {
            Ok(renewed) => endpoint = renewed,
            Err(error) if error.code == Code::Unavailable => {
                tracing::debug!(%error, "a ticket is not renewed yet; that is tried again");
            }
            Err(error) => {
                tracing::debug!(%error, "a ticket is not renewed; the version stays readable until it expires");
                return;
            }
        }
    }
}

async fn renewed(client: &Client, endpoint: &FlightEndpoint) -> Result<FlightEndpoint> {
    // The locations are not needed, and there may be many.
    let endpoint = FlightEndpoint { location: Vec::new(), ..endpoint.clone() };
    let request = RenewFlightEndpointRequest { endpoint: Some(endpoint) };
    let reply = client.action_bytes("RenewFlightEndpoint", request.encode_to_vec().into()).await?;
    FlightEndpoint::decode(reply).map_err(|e| Error::internal(format!("the renewed ticket cannot be read: {e}")))
}

/// New tickets for the endpoints of one FlightInfo.
pub(super) struct TicketSource {
    client: Client,
    /// What is planned again, and how that plan must be cut; none if the FlightInfo does not say enough.
    pinned: Option<(FlightDescriptor, PlanShape)>,
    /// The last plan, and its number. Held while it is made: tasks that wait share it.
    latest: tokio::sync::Mutex<(u64, Option<Arc<FlightInfo>>)>,
}

impl TicketSource {
    pub(super) fn new(client: Client, info: &FlightInfo) -> Self {
        let pinned = pinned_descriptor(info).zip(PlanShape::of(info));
        TicketSource { client, pinned, latest: tokio::sync::Mutex::new((0, None)) }
    }

    /// Whether there can be new tickets.
    pub(super) fn can_replace(&self) -> bool {
        self.pinned.is_some()
    }

    /// A ticket in place of one of endpoint `index` that has expired.
    ///
    /// # Errors
    /// Those of the plan: NOT_FOUND: the version is not kept any more. ABORTED: the new plan is cut in another way.
    pub(super) async fn replace(&self, expired: &ExpiringTicket, index: usize) -> Result<ExpiringTicket> {
        let mut latest = self.latest.lock().await;
        if latest.0 <= expired.plan {
            let plan = self.plan_again().await.map_err(|e| e.at("a new plan, because tickets have expired"))?;
            *latest = (expired.plan + 1, Some(Arc::new(plan)));
        }
        let (number, plan) = (latest.0, latest.1.clone());
        drop(latest);
        let endpoint = plan.as_ref().and_then(|plan| plan.endpoint.get(index));
        let endpoint = endpoint.ok_or_else(|| Error::internal(format!("the new plan has no endpoint {index}")))?;
        ExpiringTicket::of(endpoint, index, number)
    }

    async fn plan_again(&self) -> Result<FlightInfo> {
        let (descriptor, shape) = self.pinned.as_ref().ok_or_else(|| Error::internal("nothing to plan again"))?;
        let plan = self.client.info_of(descriptor.clone()).await?;
        match PlanShape::of(&plan).as_ref() == Some(shape) {
            true => Ok(plan),
            false => Err(Error::aborted(
                "it is cut into other endpoints than the one before, so that the fetch cannot continue: fetch the table again, with a longer retention_s if reading it takes longer than its tickets last",
            )),
        }
    }
}

/// What must be equal for two plans of one version to have the same rows at the same places. Whether the endpoints are ordered is
/// the table's, and a caller who takes rows as they arrive changes it in its FlightInfo.
#[derive(Debug, PartialEq)]
struct PlanShape {
    schema: Bytes,
    rows: i64,
    /// Of each endpoint: it has its number of rows.
    endpoints: Vec<Bytes>,
}

impl PlanShape {
    /// None if the rows of an endpoint are not known, as with a filter.
    fn of(info: &FlightInfo) -> Option<Self> {
        let endpoints: Vec<Bytes> = info.endpoint.iter().map(|endpoint| endpoint.app_metadata.clone()).collect();
        let is_known = info.total_records >= 0 && endpoints.iter().all(|metadata| !metadata.is_empty());
        is_known.then(|| PlanShape { schema: info.schema.clone(), rows: info.total_records, endpoints })
    }
}

/// The descriptor of a FlightInfo of a table, with the version that it has. None for a query, and if the FlightInfo does not say
/// its version. Options that were sent as headers are not in it: then the new plan has another shape.
fn pinned_descriptor(info: &FlightInfo) -> Option<FlightDescriptor> {
    let metadata: Value = serde_json::from_slice(&info.app_metadata).ok()?;
    let version = metadata["version"].as_u64()?;
    let descriptor = info.flight_descriptor.as_ref()?;
    let mut command = match DescriptorType::try_from(descriptor.r#type).ok()? {
        DescriptorType::Path => table_command(TableName::from_components(&descriptor.path).ok()?),
        DescriptorType::Cmd if descriptor.cmd.trim_ascii_start().starts_with(b"{") => {
            serde_json::from_slice::<Map<String, Value>>(&descriptor.cmd).ok()?
        }
        DescriptorType::Cmd => table_command(TableName::from_bytes(&descriptor.cmd).ok()?),
        DescriptorType::Unknown => return None,
    };
    if !command.contains_key("table") {
        return None;
    }
    command.insert("version".into(), version.into());
    Some(FlightDescriptor::new_cmd(Value::Object(command).to_string()))
}

fn table_command(name: TableName) -> Map<String, Value> {
    Map::from_iter([("table".to_string(), Value::String(name.to_string()))])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn info(descriptor: FlightDescriptor) -> FlightInfo {
        let endpoint = |rows: u64| FlightEndpoint::new().with_app_metadata(format!("{{\"rows\":{rows}}}"));
        FlightInfo::new()
            .with_descriptor(descriptor)
            .with_app_metadata("{\"table\":\"a/b\",\"version\":7}")
            .with_total_records(30)
            .with_endpoint(endpoint(10))
            .with_endpoint(endpoint(20))
    }

    fn pinned(descriptor: FlightDescriptor) -> Option<Value> {
        pinned_descriptor(&info(descriptor)).map(|pinned| serde_json::from_slice(&pinned.cmd).unwrap())
    }

    #[test]
    fn every_descriptor_of_a_table_is_pinned_to_its_version() {
        let plain = serde_json::json!({ "table": "a/b", "version": 7 });
        assert_eq!(pinned(FlightDescriptor::new_path(vec!["a".into(), "b".into()])), Some(plain.clone()));
        assert_eq!(pinned(FlightDescriptor::new_cmd("a/b")), Some(plain));
        let with_columns = serde_json::json!({ "table": "a/b", "version": 7, "columns": ["x"] });
        assert_eq!(pinned(FlightDescriptor::new_cmd(r#"{"table": "a/b", "columns": ["x"]}"#)), Some(with_columns));
        for other in [r#"{"sql": "SELECT 1"}"#, "{", ""] {
            assert_eq!(pinned(FlightDescriptor::new_cmd(other)), None, "{other}");
        }
        let unknown = FlightInfo { app_metadata: Bytes::new(), ..info(FlightDescriptor::new_cmd("a/b")) };
        assert!(pinned_descriptor(&unknown).is_none());
    }

    #[test]
    fn plans_of_unknown_rows_have_no_shape() {
        let known = info(FlightDescriptor::new_cmd("a"));
        assert_eq!(PlanShape::of(&known), PlanShape::of(&info(FlightDescriptor::new_cmd("b"))));
        assert!(PlanShape::of(&known).is_some());
        let filtered = FlightInfo { total_records: -1, ..known.clone() };
        assert_eq!(PlanShape::of(&filtered), None);
        let mut other = known.clone();
        other.endpoint.swap(0, 1);
        assert_ne!(PlanShape::of(&other), PlanShape::of(&known));
        other.endpoint[0].app_metadata = Bytes::new();
        assert_eq!(PlanShape::of(&other), None);
    }

    #[test]
    fn ticket_that_ends_within_the_skew_may_have_expired() {
        let ticket = |expires_ms| ExpiringTicket { ticket: Ticket::new("t"), expires_ms, plan: 0 };
        let now = clock::now_ms();
        assert!(ticket(Some(0)).may_have_expired() && ticket(Some(now + 30_000)).may_have_expired());
        assert!(!ticket(Some(now + 600_000)).may_have_expired() && !ticket(None).may_have_expired());
    }
}
