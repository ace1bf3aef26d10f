//! Calls with SQL: queries, reads with a filter, and the actions of Flight SQL. A coordinator forwards them whole to a node, which
//! reads the SQL and asks a coordinator for plans.
//!
//! A coordinator itself plans a read whose filter a node has checked ([`FILTER_CHECKED_HEADER`]). A node of an earlier version
//! would give every such call but DoGet back to a coordinator: [`SQL_FORWARDED_HEADER`] ends that with an error.

#[cfg(test)]
mod tests;

use arrow_flight::{Action, FlightDescriptor};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use prost::Message;
use volley_common::grpc;
use volley_common::http2::{ProxyRequestBody, ReplyBody};
use volley_common::options::sql::{
    FILTER_CHECKED_HEADER, SQL_FORWARDED_HEADER, SqlContent, is_sql_action, sql_of_descriptor, sql_of_ticket,
};
use volley_common::options::{CLIENT_LISTENER_HEADER, CLIENT_TLS_HEADER};
use volley_common::proxy::Repeatable;
use volley_common::{Error, Result};

use super::call_context::CallContext;
use super::forwarding::NodeForwarder;
use super::received_by::ReceivedBy;

/// In the extensions of a reply: a node sent it, and records the call in its audit log.
#[derive(Clone, Copy)]
pub struct ServedByNode;

/// How a call with SQL is forwarded; `None`: it is not one for nodes. `message`: its one message.
pub fn forwarding_of(method: &str, headers: &HeaderMap, message: &Bytes) -> Option<Repeatable> {
    match method {
        "DoAction" => {
            let action = Action::decode(message.clone()).ok()?;
            is_sql_action(&action.r#type).then_some(Repeatable::No)
        }
        "DoGet" => match sql_of_ticket(&arrow_flight::Ticket::decode(message.clone()).ok()?.ticket, headers)? {
            SqlContent::Filter => unchecked_filter(headers),
            // It may be long until its first row: another node must not run it, too.
            SqlContent::Query => Some(Repeatable::No),
        },
        _ => match sql_of_descriptor(&FlightDescriptor::decode(message.clone()).ok()?, headers)? {
            SqlContent::Filter => unchecked_filter(headers),
            // A query whose result is large runs now: another node must not run it, too.
            SqlContent::Query => Some(if method == "GetSchema" { Repeatable::Yes } else { Repeatable::No }),
        },
    }
}

fn unchecked_filter(headers: &HeaderMap) -> Option<Repeatable> {
    (!headers.contains_key(FILTER_CHECKED_HEADER)).then_some(Repeatable::Yes)
}

/// Forwards a call with SQL to a node.
///
/// # Errors
/// FAILED_PRECONDITION: a node of an earlier version gave it back. UNAVAILABLE: no node is alive, or none accepted it.
pub async fn forward_sql(
    nodes: &NodeForwarder,
    mut head: Parts,
    message: &[u8],
    call: &CallContext,
    repeatable: Repeatable,
) -> Result<Response<ReplyBody>> {
    describe_forwarded(&mut head)?;
    let body = grpc::frame_message(message);
    let body = || Some(ProxyRequestBody::from(body.clone()));
    let mut reply = nodes.forward_to_any_node(head, call, repeatable, body).await?;
    reply.extensions_mut().insert(ServedByNode);
    Ok(reply)
}

/// Sets the headers by which the node knows that it must answer the call, and the client's connection.
///
/// # Errors
/// FAILED_PRECONDITION: the call was forwarded before.
fn describe_forwarded(head: &mut Parts) -> Result<()> {
    let headers = &mut head.headers;
    if headers.insert(SQL_FORWARDED_HEADER, HeaderValue::from_static("1")).is_some() {
        return Err(Error::precondition(
            "a node of an earlier version, which knows neither queries nor filters, was to answer this call: upgrade all nodes first, or read without SQL",
        ));
    }
    headers.remove(CONTENT_LENGTH);
    headers.remove(CLIENT_LISTENER_HEADER);
    headers.remove(CLIENT_TLS_HEADER);
    let Some(received_by) = head.extensions.get::<ReceivedBy>() else { return Ok(()) };
    if !received_by.listener.is_empty() {
        let name = HeaderValue::from_str(&received_by.listener)
            .map_err(|_| Error::internal("the name of a listener is no header"))?;
        headers.insert(HeaderName::from_static(CLIENT_LISTENER_HEADER), name);
    }
    if received_by.client_tls {
        headers.insert(HeaderName::from_static(CLIENT_TLS_HEADER), HeaderValue::from_static("true"));
    }
    Ok(())
}
