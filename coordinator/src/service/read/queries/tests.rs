//! Plans of tables for queries, and plans of reads with a filter, for a reader that may see only some columns.
#![allow(clippy::unwrap_used)]

use std::ops::Range;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::ipc::statistics::{BoundFilter, BoundOperator, schema_checksum};
use volley_common::options::TableRequest;
use volley_common::ticket::SQL_MAGIC;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    BeginWrite, CommitWrite, CreateTable, DescriptorKind, DropTable, Part, Role, ShardPlacement, TableSpec, WriteMode,
};
use volley_common::wire::cluster::{Columns, Ticket};
use volley_common::wire::statistics::PartBounds;
use volley_common::{Code, PartId};

use super::*;
use crate::client_listener::{ClientListener, Locations};
use crate::service::testing::ServicesFixture;

const FILTER: &str = "b > 1";

fn schema() -> Bytes {
    schema_message(&Schema::new(["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, true)).to_vec())).unwrap()
}

fn spec() -> TableSpec {
    let shard_by = vec!["a".into(), "b".into()];
    TableSpec { shards: 1, replicas: 2, min_copies: 1, retention_ms: 60_000, shard_by, ..TableSpec::default() }
}

/// Bounds of all columns, whose values are all this one.
fn bounds(value: u8) -> Bytes {
    let (lengths, values) = (vec![1; 3], vec![value; 3]);
    let bounds = PartBounds {
        columns: vec![0, 1, 2],
        nulls: vec![0; 3],
        minimum_lengths: lengths.clone().into(),
        minimums: values.clone().into(),
        maximum_lengths: lengths.into(),
        maximums: values.into(),
    };
    bounds.encode_to_vec().into()
}

/// A put with these parts of 10 rows each, which replaces all rows of `sales/a`. The values of a part are its number in the put.
async fn put(fixture: &ServicesFixture, id: &str, parts: Range<u128>) {
    let begin = BeginWrite {
        id: id.into(),
        table: vec!["sales".into(), "a".into()],
        mode: WriteMode::Replace as i32,
        spec: Some(spec()),
        schema: schema(),
        placement: vec![ShardPlacement { nodes: vec![1, 2] }],
        writer: 1,
        writer_boot: 11,
        attempt: 1,
        lease_ms: 600_000,
        ..BeginWrite::default()
    };
    fixture.apply(Op::BeginWrite(begin)).await;
    let part = |(seq, id): (u64, u128)| Part {
        id: Some(PartId(id).into()),
        seq,
        rows: 10,
        bytes: 100,
        crc32c: 7,
        holders: vec![1, 2],
        statistics: bounds(seq as u8),
        ..Part::default()
    };
    let parts = (0..).zip(parts).map(part).collect();
    fixture.apply(Op::CommitWrite(CommitWrite { write: id.into(), parts, attempt: 1 })).await;
}

/// With two nodes, the tables `sales/a` of two parts and `sales/empty`, and the user `reader`, who may see the columns `b` and `c`.
async fn fixture() -> ServicesFixture {
    let fixture = ServicesFixture::closed().await;
    fixture.register_nodes(2).await;
    put(&fixture, "first", 1..3).await;
    let table = vec!["sales".into(), "empty".into()];
    let empty = CreateTable { table, schema: schema(), spec: Some(spec()), ..CreateTable::default() };
    fixture.apply(Op::CreateTable(empty)).await;
    fixture.create_table("other/b").await;
    fixture.grant("user:reader", Role::Reader, "sales", &["b", "c"]).await;
    fixture
}

fn name(text: &str) -> TableName {
    text.parse().unwrap()
}

fn newest(table: &str) -> QueriedTable {
    QueriedTable { name: name(table), version: None, id: None, part_filter: None }
}

/// The table of a ticket, as a query reads it that was planned before.
fn pinned(ticket: &Ticket) -> QueriedTable {
    let (version, id) = (Some(ticket.version), Some(ticket.table_id));
    QueriedTable { name: TableName::from_components(&ticket.table).unwrap(), version, id, part_filter: None }
}

fn columns(message: &Bytes) -> Vec<String> {
    parse_schema(message).unwrap().fields().iter().map(|field| field.name().clone()).collect()
}

async fn plan(fixture: &ServicesFixture, user: &str, tables: &[QueriedTable]) -> Result<Vec<(PlannedTable, Ticket)>> {
    let planned = fixture.services.read.plan_tables(&fixture.access(user), tables).await?;
    let verified = |planned: PlannedTable| (fixture.services.tickets.verify(&planned.ticket).unwrap(), planned);
    Ok(planned.into_iter().map(verified).map(|(ticket, planned)| (planned, ticket)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_planned_whole_with_their_visible_columns() {
    let fixture = fixture().await;
    let tables = [newest("sales/a"), newest("sales/empty")];
    let planned = plan(&fixture, "reader", &tables).await.unwrap();
    let [(rows, of_rows), (empty, of_empty)] = &planned[..] else { panic!("{} tables", planned.len()) };
    assert_eq!((rows.rows, rows.shards, of_rows.parts.len()), (20, 1, 2));
    assert_eq!(rows.bytes, 0, "they are those of hidden columns, too");
    assert_eq!(columns(&rows.visible_schema), ["b", "c"]);
    assert_eq!((columns(&of_rows.schema).len(), &of_rows.columns), (3, &Some(Columns { index: vec![1, 2] })));
    assert_eq!((of_rows.principal.as_str(), of_rows.limit, of_rows.filter.as_str()), ("reader", None, ""));
    assert!(rows.shard_by.is_empty(), "a hidden column is one of the keys");
    assert_eq!((empty.rows, of_empty.parts.len(), &of_empty.columns), (0, 0, &None));
    assert_eq!((&of_empty.schema, columns(&of_empty.schema)), (&empty.visible_schema, vec!["b".into(), "c".into()]));
    let whole = plan(&fixture, "root", &tables).await.unwrap();
    assert_eq!(whole[0].0.bytes, 200);
    for (planned, ticket) in &whole {
        assert_eq!((&planned.visible_schema, &ticket.schema, &ticket.columns), (&schema(), &schema(), &None));
        assert_eq!(planned.shard_by, ["a", "b"]);
        assert_eq!(planned.partition_algorithm, partition::ALGORITHM);
    }
    assert_eq!((&whole[0].0.part_shards[..], &whole[1].0.part_shards[..]), (&[0, 0][..], &[][..]));
    assert_eq!((rows.partition_algorithm, rows.part_shards.len()), (0, 0), "a hidden column is one of the keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_of_parts_are_told_of_tables_with_keys() {
    let fixture = fixture().await;
    let first = plan(&fixture, "root", &[newest("sales/a")]).await.unwrap()[0].1.version;
    put(&fixture, "second", 5..8).await;
    let tables = [newest("sales/a"), QueriedTable { version: Some(first), ..newest("sales/a") }];
    let planned = plan(&fixture, "root", &tables).await.unwrap();
    let shards = |at: usize| (planned[at].0.partition_algorithm, planned[at].0.part_shards.clone());
    assert_eq!(shards(0), (partition::ALGORITHM, vec![0; 3]));
    assert_eq!(shards(1), (partition::ALGORITHM, vec![0; 2]));
    let spec = TableSpec { shards: 1, replicas: 1, ..TableSpec::default() };
    let table = vec!["other".into(), "unkeyed".into()];
    let unkeyed = CreateTable { table, schema: schema(), spec: Some(spec), ..CreateTable::default() };
    fixture.apply(Op::CreateTable(unkeyed)).await;
    let unkeyed = plan(&fixture, "root", &[newest("other/unkeyed")]).await.unwrap().remove(0).0;
    assert_eq!((unkeyed.partition_algorithm, unkeyed.part_shards), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_of_a_table_are_planned_together() {
    let fixture = fixture().await;
    let first = plan(&fixture, "reader", &[newest("sales/a")]).await.unwrap()[0].1.version;
    put(&fixture, "second", 5..8).await;
    let tables = [newest("sales/a"), QueriedTable { version: Some(first), ..newest("sales/a") }];
    let planned = plan(&fixture, "reader", &tables).await.unwrap();
    assert_eq!(planned.iter().map(|(planned, _)| planned.rows).collect::<Vec<_>>(), [30, 20]);
    assert!(planned[0].1.version > first && planned[1].1.version == first);
    let missing = plan(&fixture, "root", &[newest("sales/a"), newest("sales/none")]).await.unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_table_is_planned_for_tickets_of_it_alone() {
    let fixture = fixture().await;
    let plan = async |table| plan(&fixture, "reader", &[table]).await.map(|planned| planned[0].clone());
    let (_, old) = plan(newest("sales/a")).await.unwrap();
    fixture.apply(Op::DropTable(DropTable { table: old.table.clone() })).await;
    let (table, again) = plan(pinned(&old)).await.unwrap();
    assert_eq!((table.rows, again.table_id, &again.parts), (20, old.table_id, &old.parts), "as with its other tickets");
    assert_eq!(plan(newest("sales/a")).await.unwrap_err().code, Code::NotFound);
    // The next table of the name has a version of the same number.
    put(&fixture, "second", 5..8).await;
    let (table, new) = plan(newest("sales/a")).await.unwrap();
    assert_eq!((table.rows, new.version), (30, old.version));
    assert!(new.table_id != old.table_id);
    assert_eq!(plan(pinned(&old)).await.unwrap().1.parts, old.parts);
    assert_eq!(plan(pinned(&new)).await.unwrap().1.parts, new.parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_of_a_table_that_is_not_kept_has_expired() {
    let fixture = fixture().await;
    let (_, ticket) = plan(&fixture, "root", &[newest("sales/a")]).await.unwrap().remove(0);
    let other = QueriedTable { name: name("other/b"), ..pinned(&ticket) };
    let gone = QueriedTable { id: Some(u64::MAX), ..pinned(&ticket) };
    for (table, shown) in [(other, "other/b"), (gone, "sales/a")] {
        let error = plan(&fixture, "root", &[table]).await.unwrap_err();
        let expected = format!("the ticket for table {shown:?} has expired: call get_flight_info again");
        assert_eq!((error.code, error.message), (Code::NotFound, expected));
    }
}

#[test]
fn number_of_tables_of_a_query_is_limited() {
    let table = TableVersion { table: vec!["t".into()], ..TableVersion::default() };
    let queried = |tables: Vec<TableVersion>| queried_tables(&PlanTablesRequest { tables, filters: Vec::new() });
    assert_eq!(queried(vec![table.clone(); MAX_TABLES]).unwrap().len(), MAX_TABLES);
    assert_eq!(queried(vec![table; MAX_TABLES + 1]).unwrap_err().code, Code::InvalidArgument);
    assert_eq!(queried(vec![TableVersion::default()]).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn request_without_an_id_is_for_the_table_of_the_name() {
    let request = |table_id| TableVersion { table: vec!["t".into()], version: Some(3), table_id };
    let filters = vec![PartFilter { schema: 9, condition: None }];
    let request = PlanTablesRequest { tables: vec![request(0), request(7)], filters };
    let tables = queried_tables(&request).unwrap();
    assert_eq!(
        tables.iter().map(|table| (table.version, table.id)).collect::<Vec<_>>(),
        [(Some(3), None), (Some(3), Some(7))]
    );
    assert_eq!(tables[0].part_filter, Some(request.filters[0].clone()));
    assert_eq!(tables[1].part_filter, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_tables_have_only_what_a_query_may_see() {
    let fixture = fixture().await;
    let list = async |user: &str| fixture.services.read.list_for_queries(&fixture.access(user)).await.unwrap();
    let listed = list("reader").await;
    let shown: Vec<_> =
        listed.iter().map(|table| (table.table.join("/"), columns(&table.schema).len(), table.rows)).collect();
    assert_eq!(shown, [("sales/a".to_string(), 2, 20), ("sales/empty".to_string(), 2, 0)]);
    assert!(list("eve").await.is_empty());
    assert_eq!(list("root").await.len(), 3);
}

/// That a column may have a value that is less than 1.
fn less_than_one(column: usize) -> PartFilter {
    let condition = BoundFilter::Compare { column, operator: BoundOperator::Less, value: [1].into() };
    PartFilter { schema: schema_checksum(&schema()), condition: condition.to_wire() }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_a_filter_excludes_are_not_planned() {
    let fixture = fixture().await;
    let rows = async |user: &str, part_filter: PartFilter| {
        let table = QueriedTable { part_filter: Some(part_filter), ..newest("sales/a") };
        let planned = plan(&fixture, user, &[table]).await.unwrap();
        assert_eq!(planned[0].0.rows, 10 * planned[0].1.parts.len() as u64);
        planned[0].0.rows
    };
    assert_eq!(rows("reader", less_than_one(1)).await, 10);
    assert_eq!(rows("reader", less_than_one(0)).await, 20, "a hidden column");
    assert_eq!(rows("root", less_than_one(0)).await, 10);
    assert_eq!(rows("root", PartFilter { schema: 7, ..less_than_one(0) }).await, 20, "of another schema");
    let never = PartFilter { condition: BoundFilter::never().to_wire(), ..less_than_one(0) };
    assert_eq!(rows("reader", never).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_read_has_endpoints_of_parts_that_can_match() {
    let fixture = fixture().await;
    let options = Options { filter: Some(FILTER.into()), ..Options::default() };
    let (tickets, rows, bytes) = filtered_read(&fixture, options.clone(), Some(less_than_one(1))).await;
    assert_eq!((tickets.len(), tickets[0].parts.len(), rows, bytes), (1, 1, None, None));
    let (tickets, ..) = filtered_read(&fixture, options.clone(), Some(less_than_one(0))).await;
    assert_eq!(tickets.len(), 2, "a hidden column");
    let never = PartFilter { condition: BoundFilter::never().to_wire(), ..less_than_one(1) };
    let (tickets, ..) = filtered_read(&fixture, options, Some(never)).await;
    assert_eq!(
        (tickets.len(), tickets[0].parts.len(), columns(&tickets[0].schema)),
        (1, 0, vec!["b".into(), "c".into()])
    );
    let (tickets, rows, _) = filtered_read(&fixture, Options::default(), Some(less_than_one(1))).await;
    assert_eq!((tickets.len(), rows), (2, Some(20)), "a read of all rows has no filter");
}

/// As [`filtered_read`] without a condition for parts.
async fn planned_read(fixture: &ServicesFixture, options: Options) -> (Vec<Ticket>, Option<u64>, Option<u64>) {
    filtered_read(fixture, options, None).await
}

/// The endpoints' tickets of a read of `sales/a` by `reader`, with what the plan says of rows and bytes.
async fn filtered_read(
    fixture: &ServicesFixture,
    options: Options,
    part_filter: Option<PartFilter>,
) -> (Vec<Ticket>, Option<u64>, Option<u64>) {
    let listener = ClientListener {
        name: "".into(),
        uri: "grpc+tcp://c:1".into(),
        is_advertised: true,
        locations: Locations::Direct,
        client_tls: false,
    };
    let request = TableRequest { name: name("sales/a"), kind: DescriptorKind::Command, options };
    let read = &fixture.services.read;
    let access = fixture.access("reader");
    let plan = read.plan_flight_info(&access, &request, part_filter.as_ref(), &listener).await.unwrap();
    let signed = plan.version_plan.endpoints.iter().map(|endpoint| plan.signer.ticket(&endpoint.ticket_suffix));
    let tickets = signed.map(|bytes| {
        assert_eq!(bytes.starts_with(SQL_MAGIC), request.options.filter.is_some());
        fixture.services.tickets.verify(&bytes).unwrap()
    });
    (tickets.collect(), plan.rows, plan.bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_with_a_filter_is_not_cut_at_its_limit() {
    let fixture = fixture().await;
    let filtered = |limit| Options { filter: Some(FILTER.into()), limit, ..Options::default() };
    let (tickets, rows, bytes) = planned_read(&fixture, filtered(None)).await;
    assert_eq!((tickets.len(), rows, bytes), (2, None, None));
    assert!(tickets.iter().all(|ticket| ticket.filter == FILTER && ticket.limit.is_none() && ticket.parts.len() == 1));
    let (tickets, rows, bytes) = planned_read(&fixture, filtered(Some(3))).await;
    assert_eq!((tickets.len(), rows, bytes), (1, None, None));
    let only = &tickets[0];
    assert_eq!((only.filter.as_str(), only.limit, only.parts.len()), (FILTER, Some(3), 2), "any row may be the third");
    let (tickets, rows, _) = planned_read(&fixture, Options { limit: Some(3), ..Options::default() }).await;
    assert_eq!((tickets.len(), tickets[0].parts.len(), tickets[0].limit, rows), (1, 1, Some(3), Some(3)));
}

/// Where there are no parts, a node finds the columns of the filter in the ticket.
#[tokio::test(flavor = "multi_thread")]
async fn filtered_ticket_without_parts_has_all_visible_columns() {
    let fixture = fixture().await;
    let (read, access) = (&fixture.services.read, fixture.access("reader"));
    let columns = Some(vec!["c".to_string()]);
    let options = Options { columns, filter: Some(FILTER.into()), ..Options::default() };
    let ticket = async |table: &str, options: &Options| {
        let bytes = read.plan_ticket(&access, &name(table), options).await.unwrap();
        fixture.services.tickets.verify(&bytes).unwrap()
    };
    let empty = ticket("sales/empty", &options).await;
    assert_eq!((self::columns(&empty.schema), empty.columns), (vec!["b".into(), "c".into()], index(1)));
    let rows = ticket("sales/a", &options).await;
    assert_eq!((rows.schema.len(), rows.columns, rows.filter.as_str()), (0, index(2), FILTER));
    let unfiltered = ticket("sales/empty", &Options { filter: None, ..options }).await;
    assert_eq!((self::columns(&unfiltered.schema), unfiltered.columns), (vec!["c".to_string()], None));
}

fn index(at: u32) -> Option<Columns> {
    Some(Columns { index: vec![at] })
}
