//! SQL at a node: queries, the commands and actions of Flight SQL, and reads with a filter, which only nodes can check.
//!
//! | module | what it does |
//! |---|---|
//! | [`request`] | what a descriptor or a ticket asks for |
//! | [`info`] | GetFlightInfo, GetSchema and PollFlightInfo |
//! | [`redeem`] | DoGet |
//! | [`mod@put`] | DoPut: statements that change tables, parameters, ingests |
//! | [`actions`] | prepared statements, the cancellation of queries, begin and end of transactions |
//! | [`transaction`] | the end of a transaction; the columns of a table within one |
//! | [`query`] | plans and runs queries |
//! | [`result_encoder`], [`result_queue`] | their rows as messages, as long as these wait for the reader |
//! | [`statement_limit`] | the time limit that a client has set for its statements |
//! | [`stored_result`] | stores large results, which are read as tables are |
//! | [`source`] | the tables of a caller, as the engine reads them |
//! | [`stage_network`], [`stage_service`] | queries on several nodes: calls to other nodes, and theirs to this one |
//! | [`update`] | carries out what changes tables |
//! | [`insert_rows`] | the rows of an INSERT in the columns of its table (pure) |
//! | [`parameters`] | the values of parameters, and their types |
//! | [`read_forward`] | reads that coordinators plan, once their filter is checked |
//! | [`mod@part_filter`] | what coordinators need of a filter to leave out parts |
//! | [`coordinator_call`] | calls to coordinators whose replies are read here |
//! | [`caller`] | who calls, and the audit log |
//!
//! A coordinator forwards calls like these to a node, and a node answers them itself: none is sent back. A statement that is no
//! more than a read of one table becomes such a read: coordinators plan it, and its tickets are ordinary ones with a filter. The
//! ticket of a query has the statement, its tables and their versions; any node runs it.
//!
//! The parts of a query are read by [`crate::get`], and its rows are written by [`crate::put`]: rights, fail-over and atomicity are
//! those of gets and puts.

pub mod actions;
pub mod caller;
pub mod coordinator_call;
pub mod info;
pub mod insert_rows;
pub mod parameters;
pub mod part_filter;
pub mod put;
pub mod query;
pub mod read_forward;
pub mod redeem;
pub mod request;
pub mod result_encoder;
pub mod result_queue;
pub mod source;
pub mod stage_network;
pub mod stage_service;
pub mod statement_limit;
pub mod stored_result;
pub mod transaction;
pub mod update;

use std::sync::Arc;

use arrow_flight::{Action, FlightDescriptor};
use bytes::Bytes;
use http::Response;
use prost::Message;
use volley_common::http2::{ReplyBody, grpc_error, grpc_message};
use volley_common::options::sql::{SqlContent, is_sql_action, sql_of_descriptor};
use volley_common::{Result, grpc};

use crate::context::SqlContext;
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};
use caller::SqlCaller;
use info::InfoCall;

pub use put::serve_put;
pub use redeem::serve_get;

/// A metadata call that a node answers.
pub enum SqlCall {
    /// GetFlightInfo, GetSchema or PollFlightInfo of this descriptor.
    Read(FlightDescriptor, SqlContent),
    /// An action.
    Action(Action),
}

/// The SQL of a metadata call; `None`: it has none, or cannot be read, and coordinators answer it.
pub async fn recognize(request: &MetadataRequest) -> Option<SqlCall> {
    match request.method() {
        "GetFlightInfo" | "GetSchema" | "PollFlightInfo" => {
            let descriptor = FlightDescriptor::decode(request.message().await.ok()?).ok()?;
            let content = sql_of_descriptor(&descriptor, &request.head.headers)?;
            Some(SqlCall::Read(descriptor, content))
        }
        "DoAction" => {
            let action = Action::decode(request.message().await.ok()?).ok()?;
            is_sql_action(&action.r#type).then_some(SqlCall::Action(action))
        }
        _ => None,
    }
}

/// Answers a metadata call.
pub async fn serve_metadata(
    context: Arc<SqlContext>,
    proxy: CoordinatorProxy,
    request: MetadataRequest,
    call: SqlCall,
) -> Response<ReplyBody> {
    let caller = SqlCaller::of(context, &request.head);
    match reply(&caller, &proxy, &request, &call).await {
        Ok(message) => grpc_message(message),
        Err(error) => {
            tracing::info!(method = request.method(), code = ?error.code, %error, "a call of SQL failed");
            grpc_error(error)
        }
    }
}

async fn reply(
    caller: &SqlCaller,
    proxy: &CoordinatorProxy,
    request: &MetadataRequest,
    call: &SqlCall,
) -> Result<Bytes> {
    match call {
        SqlCall::Read(descriptor, content) => InfoCall { caller, proxy, request, descriptor }.reply(*content).await,
        SqlCall::Action(action) => {
            let results = actions::run(caller, proxy, request, action).await?;
            let framed = results.into_iter().map(|body| grpc::encode_message(&arrow_flight::Result { body }));
            Ok(framed.collect::<Vec<_>>().concat().into())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
