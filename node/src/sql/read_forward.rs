//! Reads that coordinators plan: those by a table's name with a filter, and statements that are no more than that. The filter is checked
//! here, because coordinators know no SQL.

use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightDescriptor, FlightInfo, SchemaResult};
use http::HeaderValue;
use serde_json::{Map, Value, json};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::sql::{FILTER_CHECKED_HEADER, WHERE_HEADER};
use volley_common::options::{Options, TableRequest};
use volley_common::wire::cluster::{PlanTablesRequest, TableVersion};
use volley_common::{Error, Result, TableName};
use volley_sql::predicate::Predicate;
use volley_sql::statement::PlainRead;

use super::caller::SqlCaller;
use super::coordinator_call;
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
    let request = PlanTablesRequest { tables: vec![TableVersion { table: table.components().to_vec(), version }] };
    let reply = caller.context.get.coordinators.plan_tables(request, &caller.asserted).await?;
    match reply.tables.as_slice() {
        [planned] => parse_schema(&planned.visible_schema),
        _ => Err(Error::internal("a coordinator planned another number of tables than was asked for")),
    }
}

/// Checks the filter of a read, if it has one.
///
/// # Errors
/// Those of [`visible_schema`] and of [`Predicate::parse`].
pub async fn check_filter(caller: &SqlCaller, read: &PlainRead) -> Result<()> {
    let Some(filter) = &read.filter else { return Ok(()) };
    let schema = visible_schema(caller, &read.table, read.version).await?;
    // A long one takes a while.
    let filter = filter.clone();
    let parsed = tokio::task::spawn_blocking(move || Predicate::parse(&filter, &schema).map(|_| ())).await;
    parsed.unwrap_or_else(|e| Err(Error::internal(format!("checking a filter failed: {e}"))))
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
    check_filter(caller, read).await?;
    let mut request = call.with_message("GetFlightInfo", planned)?;
    request.head.headers.insert(FILTER_CHECKED_HEADER, HeaderValue::from_static("1"));
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
