//! DoGet: of a query's signed ticket, of a statement as a ticket, of what Flight SQL tells; every other ticket is one of
//! [`crate::get`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use volley_common::http2::{ReplyBody, grpc_frames};
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::options::sql::{SQL_HEADER, SqlContent, sql_of_ticket};
use volley_common::ticket::SQL_MAGIC;
use volley_common::wire::cluster::{Query, Ticket};
use volley_common::{Error, Result, TableName, clock};
use volley_sql::flight_sql::MetadataCommand;
use volley_sql::source::TableSource;

use super::caller::SqlCaller;
use super::info::{ReadStatement, read_statement};
use super::query::{BoundQuery, FrameEncoder, ResultEncoder, run};
use super::read_forward;
use super::request::{SqlRead, StatementText, check_query_headers, sql_read};
use super::source::NodeSource;
use crate::context::SqlContext;
use crate::get;

/// The name of the call in the audit log.
const OPERATION: &str = "DoGet";

/// Answers a DoGet.
pub async fn serve_get(context: Arc<SqlContext>, request: http::Request<Incoming>) -> Response<ReplyBody> {
    let (head, ticket) = match get::read_request(request).await {
        Ok(read) => read,
        Err(error) => return get::refused(error),
    };
    let is_sql = sql_of_ticket(&ticket, &head.headers) == Some(SqlContent::Query);
    if !is_sql && !ticket.starts_with(SQL_MAGIC) {
        return get::serve_ticket(context.get.clone(), head, &ticket).await;
    }
    let caller = SqlCaller::of(context.clone(), &head);
    let found = if is_sql { of_command(&ticket, &head) } else { of_signed(&caller, &ticket) };
    let served = match found {
        Ok(Redeemable::Ticket(ticket)) => {
            return get::serve_ticket(context.get.clone(), without_sql(head), &ticket).await;
        }
        Ok(Redeemable::Query(query)) => query.serve(&caller).await,
        Ok(Redeemable::Metadata(command)) => metadata_rows(&caller, &command).await,
        Err(error) => {
            caller.record_refusal(OPERATION, &error);
            Err(error)
        }
    };
    match served {
        Ok(frames) => grpc_frames(frames),
        Err(error) => get::refused(error),
    }
}

/// What a ticket stands for.
enum Redeemable {
    /// A read that is no query: this ticket of [`crate::get`].
    Ticket(Bytes),
    /// A query.
    Query(Box<RedeemedQuery>),
    /// What Flight SQL tells about the tables and the server.
    Metadata(MetadataCommand),
}

/// A query that may run.
struct RedeemedQuery {
    query: BoundQuery,
    /// The versions that its ticket pins.
    pinned: HashMap<TableName, u64>,
    /// The id of its FlightInfo.
    flight: Option<u64>,
    /// The schema message of its FlightInfo; empty if there was none.
    promised: Bytes,
}

impl RedeemedQuery {
    async fn serve(self, caller: &SqlCaller) -> Result<BoxStream<'static, Result<FlightFrame>>> {
        let tables = self.query.table_names();
        let encoder = FrameEncoder { promised: self.promised };
        let frames = run(caller, self.query, self.pinned, self.flight, encoder).await;
        caller.record_read(OPERATION, &tables, &frames);
        frames
    }
}

/// A ticket that is no signed one.
fn of_command(command: &[u8], head: &Parts) -> Result<Redeemable> {
    match sql_read(command, &head.headers)? {
        SqlRead::Metadata(command) => Ok(Redeemable::Metadata(command)),
        SqlRead::Statement(text) => match read_statement(&text)? {
            ReadStatement::Plain(read) => Ok(Redeemable::Ticket(read_forward::command(&read).into())),
            ReadStatement::Query(query) => {
                check_query_headers(&head.headers)?;
                let pinned = HashMap::new();
                Ok(Redeemable::Query(Box::new(RedeemedQuery { query, pinned, flight: None, promised: Bytes::new() })))
            }
        },
    }
}

/// A signed ticket of a query, or of a read with a filter.
fn of_signed(caller: &SqlCaller, signed: &Bytes) -> Result<Redeemable> {
    let cluster = &caller.context.get.cluster;
    let ticket = cluster.ticket_key()?.verify(signed, clock::now_ms())?;
    if ticket.query.is_none() {
        return Ok(Redeemable::Ticket(signed.clone()));
    }
    caller.access.check_ticket(&ticket)?;
    cluster.check_not_cancelled(&ticket)?;
    of_query(ticket).map(|query| Redeemable::Query(Box::new(query)))
}

fn of_query(ticket: Ticket) -> Result<RedeemedQuery> {
    let Query { sql, tables, parameters, schema } = ticket.query.unwrap_or_default();
    let parameters = (!parameters.is_empty()).then_some(parameters);
    let ReadStatement::Query(query) = read_statement(&StatementText { sql, parameters })? else {
        return Err(Error::precondition(
            "the ticket is from a node of another version, which runs this statement in another way: call get_flight_info again",
        ));
    };
    let pinned = query.pinned(&tables);
    Ok(RedeemedQuery { query, pinned, flight: Some(ticket.flight), promised: schema })
}

/// The call of a read that is planned by its ticket, and not by its header.
fn without_sql(mut head: Parts) -> Parts {
    head.headers.remove(SQL_HEADER);
    head
}

/// The rows of what Flight SQL tells.
async fn metadata_rows(
    caller: &SqlCaller,
    command: &MetadataCommand,
) -> Result<BoxStream<'static, Result<FlightFrame>>> {
    let tables = match command.needs_tables() {
        true => NodeSource::new(caller.clone(), HashMap::new()).list().await,
        false => Ok(Vec::new()),
    };
    caller.record_read(OPERATION, &[], &tables);
    let rows = command.batch(&tables?)?;
    let mut encoder = FrameEncoder { promised: Bytes::new() };
    let mut frames = encoder.begin(&rows.schema())?;
    frames.extend(encoder.encode(rows)?);
    Ok(stream::iter(frames.into_iter().map(Ok)).boxed())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::cluster::TableVersion;

    use super::*;

    #[test]
    fn ticket_of_a_query_pins_the_tables_that_name_no_version() {
        let version = |table: &str, version| TableVersion { table: vec![table.into()], version: Some(version) };
        let query = Query {
            sql: "SELECT count(*) FROM a JOIN b FOR VERSION AS OF 3 ON a.x = b.x".into(),
            tables: vec![version("a", 9), version("b", 3)],
            schema: Bytes::from_static(b"schema"),
            ..Query::default()
        };
        let ticket = Ticket { flight: 5, query: Some(query), ..Ticket::default() };
        let redeemed = of_query(ticket).unwrap();
        assert_eq!(redeemed.pinned, HashMap::from([("a".parse().unwrap(), 9)]));
        assert_eq!((redeemed.flight, &redeemed.promised[..]), (Some(5), &b"schema"[..]));
    }
}
