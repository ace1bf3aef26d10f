//! Reads that coordinators plan: those by a table's name with a filter, and statements that are no more than that. The filter is checked
//! here, because coordinators know no SQL; they get of it what excludes parts.

use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightDescriptor, FlightInfo, SchemaResult};
use http::HeaderValue;
use serde_json::{Map, Value, json};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::part_filter::{PART_FILTER_HEADER, header_value};
use volley_common::options::sql::{FILTER_CHECKED_HEADER, WHERE_HEADER};
use volley_common::options::{Options, TableRequest};
use volley_common::wire::cluster::{PartFilter, PlanTablesRequest, PlannedTable, TableVersion};
use volley_common::{Error, Result, TableName, clock};
use volley_sql::predicate::Predicate;
use volley_sql::statement::PlainRead;

use super::caller::SqlCaller;
use super::coordinator_call;
use super::part_filter::part_filter;
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};

/// The read of a request, whose options are those of its descriptor and its headers.
pub fn of_request(request: TableRequest) -> PlainRead {
    let Options { columns, version, filter, limit, .. } = request.options;
    PlainRead { table: request.name, version, columns, filter, limit }
}

/// The read as the JSON of a descriptor or a ticket.
pub fn command(read: &PlainRead) -> String {
    let PlainRead { table, version, columns, filter, limit } = read;
    let all = json!({
        "table": table.to_string(),
        "version": version,
        "columns": columns,
        "where": filter,
        "limit": limit,
    });
    let given = |map: &Map<String, Value>| {
        let given = map.iter().filter(|(_, value)| !value.is_null());
        given.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>()
    };
    all.as_object().map(given).map(Value::Object).unwrap_or_default().to_string()
}

/// The columns of a table that the caller may see.
///
/// # Errors
/// NOT_FOUND: there is no such table or version, or the caller may not read it.
pub async fn visible_schema(caller: &SqlCaller, table: &TableName, version: Option<u64>) -> Result<SchemaRef> {
    parse_schema(&planned_table(caller, table, version).await?.visible_schema)
}

/// A table as a coordinator plans it for a query.
async fn planned_table(caller: &SqlCaller, table: &TableName, version: Option<u64>) -> Result<PlannedTable> {
    let table = TableVersion { table: table.components().to_vec(), version, ..TableVersion::default() };
    let request = PlanTablesRequest { tables: vec![table], filters: Vec::new() };
    let reply = caller.context.get.coordinators.plan_tables(request, &caller.asserted).await?;
    match <[PlannedTable; 1]>::try_from(reply.tables) {
        Ok([planned]) => Ok(planned),
        Err(_) => Err(Error::internal("a coordinator planned another number of tables than was asked for")),
    }
}

/// Checks the filter of a read, if it has one; returns what excludes parts, if anything does.
///
/// # Errors
/// Those of [`visible_schema`] and of [`Predicate::parse`].
pub async fn check_filter(caller: &SqlCaller, read: &PlainRead) -> Result<Option<PartFilter>> {
    let Some(filter) = read.filter.clone() else { return Ok(None) };
    let planned = planned_table(caller, &read.table, read.version).await?;
    // The plan's ticket has the columns of the whole table. Without it every part is planned.
    let key = caller.context.get.cluster.ticket_key().ok();
    // A long one takes a while.
    let check = move || -> Result<Option<PartFilter>> {
        let predicate = Predicate::parse(&filter, &parse_schema(&planned.visible_schema)?)?;
        let ticket = key.and_then(|key| key.verify(&planned.ticket, clock::now_ms()).ok());
        Ok(ticket.and_then(|ticket| part_filter(&predicate, &ticket)))
    };
    let checked = tokio::task::spawn_blocking(check).await;
    checked.unwrap_or_else(|e| Err(Error::internal(format!("checking a filter failed: {e}"))))
}

/// The FlightInfo of a read, as a coordinator plans it for the descriptor `planned`, with the client's own descriptor.
///
/// # Errors
/// Those of [`check_filter`] and of the coordinator.
pub async fn flight_info(
    caller: &SqlCaller,
    proxy: &CoordinatorProxy,
    call: &MetadataRequest,
    read: &PlainRead,
    (planned, own): (&FlightDescriptor, &FlightDescriptor),
) -> Result<FlightInfo> {
    let part_filter = check_filter(caller, read).await?;
    let mut request = call.with_message("GetFlightInfo", planned)?;
    let headers = &mut request.head.headers;
    headers.insert(FILTER_CHECKED_HEADER, HeaderValue::from_static("1"));
    headers.remove(PART_FILTER_HEADER);
    if let Some(value) = part_filter.as_ref().and_then(header_value) {
        headers.insert(PART_FILTER_HEADER, value);
    }
    let info: FlightInfo = coordinator_call::call(proxy, request).await?;
    Ok(FlightInfo { flight_descriptor: Some(own.clone()), ..info })
}

/// The schema of a read, as a coordinator tells it.
///
/// # Errors
/// Those of [`check_filter`] and of the coordinator.
pub async fn schema(
    caller: &SqlCaller,
    proxy: &CoordinatorProxy,
    call: &MetadataRequest,
    read: &PlainRead,
) -> Result<SchemaResult> {
    check_filter(caller, read).await?;
    // A filter changes no schema, and coordinators plan reads with one only for their FlightInfo.
    let unfiltered = PlainRead { filter: None, ..read.clone() };
    let mut request = call.with_message("GetSchema", &FlightDescriptor::new_cmd(command(&unfiltered)))?;
    request.head.headers.remove(WHERE_HEADER);
    coordinator_call::call(proxy, request).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    #[test]
    fn command_of_a_read_says_the_same_as_the_read() {
        let read = PlainRead {
            table: "a/b".parse().unwrap(),
            version: Some(7),
            columns: Some(vec!["x".into(), "y z".into()]),
            filter: Some("x > 1 AND \"y z\" = 'q'".into()),
            limit: Some(3),
        };
        let request = TableRequest::from_command(command(&read).as_bytes(), &MetadataMap::new()).unwrap();
        let again = of_request(request);
        assert_eq!(command(&again), command(&read));
        assert!(command(&read).contains("\"limit\":3") && command(&read).contains("q"));
        let whole = PlainRead { version: None, columns: None, filter: None, limit: None, ..read };
        assert_eq!(command(&whole), r#"{"table":"a/b"}"#);
    }
}
