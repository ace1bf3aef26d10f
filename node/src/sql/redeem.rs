//! DoGet: of a query's signed ticket, of a statement as a ticket, of what Flight SQL tells; every other ticket is one of
//! [`crate::get`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use volley_common::http2::{ReplyBody, grpc_frames};
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::options::sql::{SQL_HEADER, SqlContent, sql_of_ticket};
use volley_common::server::audit::request_id;
use volley_common::ticket::SQL_MAGIC;
use volley_common::wire::cluster::{Query, Ticket};
use volley_common::{Error, Result, clock};
use volley_sql::flight_sql::MetadataCommand;
use volley_sql::source::TableSource;

use super::caller::SqlCaller;
use super::info::{ReadStatement, read_statement};
use super::query::{BoundQuery, run};
use super::read_forward;
use super::request::{SqlRead, StatementText, check_query_headers, sql_read};
use super::result_encoder::{FrameEncoder, ResultEncoder, frame};
use super::source::{NodeSource, PinnedTables};
use super::statement_limit::StatementLimit;
use crate::context::SqlContext;
use crate::get;

/// The name of the call in the audit log.
const OPERATION: &str = "DoGet";

/// Answers a DoGet.
pub async fn serve_get(context: Arc<SqlContext>, request: http::Request<Incoming>) -> Response<ReplyBody> {
    let (head, ticket) = match get::read_request(request).await {
        Ok(read) => read,
        Err(error) => return get::refused(error, None),
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
        Err(error) => get::refused(error, request_id(&head.headers)),
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
    /// The tables that its ticket pins.
    pinned: PinnedTables,
    /// The id of its FlightInfo.
    flight: Option<u64>,
    /// The schema message of its FlightInfo; empty if there was none.
    promised: Bytes,
    /// The time limit of its FlightInfo; `None`: there was none, and that of the call holds.
    limit: Option<StatementLimit>,
}

impl RedeemedQuery {
    async fn serve(self, caller: &SqlCaller) -> Result<BoxStream<'static, Result<FlightFrame>>> {
        let tables = self.query.table_names();
        let encoder = FrameEncoder { promised: self.promised };
        let limited = SqlCaller { limit: self.limit.unwrap_or(caller.limit), ..caller.clone() };
        let frames = run(&limited, self.query, self.pinned, self.flight, encoder).await;
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
                let promised = Bytes::new();
                let redeemed = RedeemedQuery { query, pinned, flight: None, promised, limit: None };
                Ok(Redeemable::Query(Box::new(redeemed)))
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
    get::note_ticket(&ticket);
    caller.access.check_ticket(&ticket)?;
    cluster.check_not_cancelled(&ticket)?;
    of_query(ticket).map(|query| Redeemable::Query(Box::new(query)))
}

fn of_query(ticket: Ticket) -> Result<RedeemedQuery> {
    let Query { sql, tables, parameters, schema, timeout_ms } = ticket.query.unwrap_or_default();
    let parameters = (!parameters.is_empty()).then_some(parameters);
    let text = StatementText { sql, parameters, transaction: None };
    let ReadStatement::Query(query) = read_statement(&text)? else {
        return Err(other_version());
    };
    let pinned = query.pinned(tables).ok_or_else(other_version)?;
    let limit = Some(StatementLimit::of_ticket(timeout_ms));
    Ok(RedeemedQuery { query, pinned, flight: Some(ticket.flight), promised: schema, limit })
}

fn other_version() -> Error {
    Error::precondition(
        "the ticket is from a node of another version, which runs this statement in another way: call get_flight_info again",
    )
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
    let lease_ms = caller.context.get.cluster.lease_ms.load(Ordering::Relaxed);
    let rows = command.batch(&tables?, lease_ms)?;
    let mut encoder = FrameEncoder { promised: Bytes::new() };
    let mut frames = encoder.begin(&rows.schema())?;
    frames.extend(encoder.encode(rows)?.into_iter().map(frame));
    Ok(stream::iter(frames.into_iter().map(Ok)).boxed())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::cluster::TableVersion;
    use volley_sql::statement::TableAt;

    use super::*;

    fn version(table: &str, version: u64, table_id: u64) -> TableVersion {
        TableVersion { table: vec![table.into()], version: Some(version), table_id }
    }

    fn redeemed(tables: Vec<TableVersion>) -> Result<RedeemedQuery> {
        let sql = "SELECT count(*) FROM a JOIN b FOR VERSION AS OF 3 ON a.x = b.x".into();
        let schema = Bytes::from_static(b"schema");
        let query = Query { sql, tables, schema, timeout_ms: 1500, ..Query::default() };
        of_query(Ticket { flight: 5, query: Some(query), ..Ticket::default() })
    }

    /// Also if the statement names a version: another table of the name has one of the same number.
    #[test]
    fn ticket_of_a_query_pins_its_tables_and_their_versions() {
        let at = |name: &str, version| TableAt { name: name.parse().unwrap(), version };
        let (a, b) = (version("a", 9, 70), version("b", 3, 71));
        let redeemed = redeemed(vec![a.clone(), b.clone()]).unwrap();
        assert_eq!(redeemed.pinned, HashMap::from([(at("a", None), a), (at("b", Some(3)), b)]));
        assert_eq!((redeemed.flight, &redeemed.promised[..]), (Some(5), &b"schema"[..]));
        assert_eq!(redeemed.limit, Some(StatementLimit::of_ticket(1500)));
    }

    #[test]
    fn ticket_with_other_tables_than_its_statement_is_refused() {
        let (a, b) = (version("a", 9, 70), version("b", 3, 71));
        for tables in [vec![], vec![a.clone()], vec![b, a.clone()], vec![a, version("b", 4, 71)]] {
            let error = redeemed(tables).err().unwrap();
            assert_eq!(error.code, Code::FailedPrecondition);
        }
    }
}
