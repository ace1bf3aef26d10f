//! Calls with one answer: plans, lists, actions.
//!
//! A call that has no effect, or may take effect twice, goes to the client's other addresses when a member does not answer, or is
//! slow to. Every other call is sent once, to a member that answers. A call that a member refuses for the moment is repeated.

use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, Criteria, FlightDescriptor, FlightInfo};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tonic::Status;
use volley_common::net::{Attempt, Failover};
use volley_common::options::Options;
use volley_common::{Code, Error, Result, TableName};

use super::pushback::Pushback;
use super::session::MIN_LEFT;
use super::{Client, ClientChannel, failure, request, uri_of};

/// A call without effects that takes longer is also sent to the next address: long for a plan, short for a person.
const HEDGE_AFTER: Duration = Duration::from_millis(500);

/// The raw client that a call is made with.
type RawFlight = FlightServiceClient<ClientChannel>;

impl Client {
    /// The FlightInfo of a table with read options: the plan of a read, with signed tickets that expire.
    ///
    /// # Errors
    /// The member's: NOT_FOUND: no such table or version. INVALID_ARGUMENT: an option, such as a column that does not exist.
    /// UNAVAILABLE: no member answers.
    pub async fn info(&self, name: &TableName, options: &Options) -> Result<FlightInfo> {
        self.plan(request::read_descriptor(name, options), Some(HEDGE_AFTER)).await
    }

    /// The FlightInfo of any descriptor. Unlike that of a table it is requested from one member at a time: a query whose result
    /// is large runs meanwhile.
    ///
    /// # Errors
    /// As [`Client::info`].
    pub async fn info_of(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        self.plan(descriptor, None).await
    }

    async fn plan(&self, descriptor: FlightDescriptor, hedge_after: Option<Duration>) -> Result<FlightInfo> {
        let call = |mut flight: RawFlight| {
            let descriptor = descriptor.clone();
            async move { Ok::<_, Status>(flight.get_flight_info(descriptor).await?.into_inner()) }
        };
        self.call_any(call, hedge_after).await
    }

    /// The tables whose names begin with `prefix`, sorted by name. Their tickets are the tables' names.
    ///
    /// # Errors
    /// The member's. UNAVAILABLE: no member answers.
    pub async fn list(&self, prefix: &str) -> Result<Vec<FlightInfo>> {
        let criteria = Criteria { expression: Bytes::copy_from_slice(prefix.as_bytes()) };
        let call = |mut flight: RawFlight| {
            let criteria = criteria.clone();
            async move { flight.list_flights(criteria).await?.into_inner().try_collect::<Vec<FlightInfo>>().await }
        };
        self.call_any(call, Some(HEDGE_AFTER)).await
    }

    /// Calls an action with a JSON body (none for `Value::Null`). Returns the first result's JSON, or null.
    ///
    /// ```no_run
    /// # async fn example(client: volley_client::Client) -> volley_client::Result<()> {
    /// let begun = client.action("begin_write", &serde_json::json!({ "table": "trips", "mode": "append" })).await?;
    /// client.action("abort_write", &serde_json::json!({ "write_id": begun["write_id"] })).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The member's. UNIMPLEMENTED: no such action. UNAVAILABLE: the member does not answer; whether the action took effect is
    /// unknown.
    pub async fn action(&self, name: &str, body: &Value) -> Result<Value> {
        let action = action(name, body);
        json_of(name, self.call(|flight| first_result(flight, action.clone())).await?)
    }

    /// As [`Client::action`], for an action without effects, or one that may take effect twice: if the member does not answer, it
    /// is called at the client's other addresses.
    ///
    /// # Errors
    /// The member's. UNAVAILABLE: no member answers.
    pub async fn action_any(&self, name: &str, body: &Value) -> Result<Value> {
        let action = action(name, body);
        json_of(name, self.call_any(|flight| first_result(flight, action.clone()), None).await?)
    }

    /// As [`Client::action_any`], with a body and a result that are not JSON.
    pub(crate) async fn action_bytes(&self, name: &str, body: Bytes) -> Result<Bytes> {
        let action = Action { r#type: name.to_string(), body };
        let result = self.call_any(|flight| first_result(flight, action.clone()), None).await?;
        result.ok_or_else(|| Error::internal(format!("the action {name} gave no result")))
    }

    /// Drops a table.
    ///
    /// # Errors
    /// The member's: NOT_FOUND: there is none.
    pub async fn drop_table(&self, name: &TableName) -> Result<Value> {
        self.action("drop_table", &json!({ "table": name.to_string() })).await
    }

    /// Statistics of the cluster.
    ///
    /// # Errors
    /// The member's.
    pub async fn stats(&self) -> Result<Value> {
        self.action_any("get_stats", &Value::Null).await
    }

    /// The members and their states.
    ///
    /// # Errors
    /// The member's.
    pub async fn status(&self) -> Result<Value> {
        self.action_any("cluster_status", &Value::Null).await
    }

    /// The outcome of a call at one member, for as long as it answers probes.
    ///
    /// # Errors
    /// The member's. UNAVAILABLE naming the address: the connection failed, or the member does not answer.
    pub(crate) async fn call<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl Fn(RawFlight) -> F,
    ) -> Result<T> {
        let client = self.for_call();
        client.named(client.call_at(&client.answering_address().await, &call).await)
    }

    /// The outcome of a call at the first of the client's addresses that answers, those first that are known to. After
    /// `hedge_after` the next one is called, too, and the first answer counts. Only for calls that may take effect twice.
    ///
    /// # Errors
    /// The member's. UNAVAILABLE naming the last address that was tried: none answers.
    pub(crate) async fn call_any<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl Fn(RawFlight) -> F,
        hedge_after: Option<Duration>,
    ) -> Result<T> {
        if self.others.is_empty() {
            return self.call(call).await;
        }
        let client = self.for_call();
        let (client, call) = (&client, &call);
        let mut failover = Failover::new(client.addresses_by_health());
        let attempt = |addr: String| async move { Attempt::repeatable(client.call_at(&addr, call).await) };
        client.named(match client.own_pool().attempt_any(&mut failover, hedge_after, attempt).await {
            Some(outcome) => outcome,
            None => Err(failover.into_error().unwrap_or_else(|| Error::internal("a client without an address"))),
        })
    }

    /// The outcome of a call at the member at `addr`, one of the client's addresses.
    async fn call_at<T, F: Future<Output = Result<T, Status>>>(
        &self,
        addr: &str,
        call: &impl Fn(RawFlight) -> F,
    ) -> Result<T> {
        let (uri, member) = (uri_of(addr, self.is_tls), self.at(addr)?);
        let explained = || {
            let (outcome, uri) = (call(member.flight()), &uri);
            async move { outcome.await.map_err(|status| failure::of_status(uri, status)) }
        };
        let mut pushback = Pushback::default();
        loop {
            let outcome = tokio::select! {
                biased;
                outcome = self.authenticated(&explained) => outcome,
                _ = self.own_pool().silence(addr) => Err(failure::silent(&uri)),
            };
            match outcome.as_ref().err().and_then(|error| pushback.pause(error)) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return outcome,
            }
        }
    }

    /// The outcome of a call, which is repeated once if a member refuses it and there is another credential then.
    ///
    /// # Errors
    /// The call's, and those of the login.
    pub(crate) async fn authenticated<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let Some(session) = &self.session else { return call().await };
        let used = session.credential(MIN_LEFT).await?.number();
        let outcome = call().await;
        let is_refused = outcome.as_ref().is_err_and(|error| error.code == Code::Unauthenticated);
        if is_refused && session.renew(used).await? { call().await } else { outcome }
    }
}

fn action(name: &str, body: &Value) -> Action {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    Action { r#type: name.to_string(), body }
}

/// The first result of an action.
async fn first_result(mut flight: RawFlight, action: Action) -> Result<Option<Bytes>, Status> {
    let mut results = flight.do_action(action).await?.into_inner();
    let mut first = None;
    // Read to the end: an error may follow the first result.
    while let Some(result) = results.next().await {
        first.get_or_insert(result?.body);
    }
    Ok(first)
}

fn json_of(name: &str, result: Option<Bytes>) -> Result<Value> {
    match result {
        Some(body) if !body.is_empty() => serde_json::from_slice(&body)
            .map_err(|e| Error::internal(format!("the reply to the action {name} is not JSON: {e}"))),
        _ => Ok(Value::Null),
    }
}
