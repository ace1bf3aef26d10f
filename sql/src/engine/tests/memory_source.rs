//! Tables in memory, whose scans can fail, hang or never end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use volley_common::partition::Partitioner;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Error, PartId, Result, TableName};

use crate::predicate::Predicate;
use crate::source::{ListedTable, PartScan, PlannedPart, PlannedTable, TableSharding, TableSource};
use crate::statement::TableAt;

/// The nodes that hold parts: each part is held by one.
pub(super) const HOLDERS: u64 = 3;

/// All tables of a test.
#[derive(Debug)]
pub(super) struct MemorySource {
    tables: Vec<MemoryTable>,
    /// How often all tables were listed.
    pub(super) lists: AtomicUsize,
    /// All scans.
    pub(super) scans: Mutex<Vec<PartScan>>,
    /// How many scans are not dropped.
    pub(super) open: Arc<watch::Sender<usize>>,
    /// Filters leave out the last part of a table, as if its statistics excluded it.
    pub(super) prunes_last: AtomicBool,
}

/// One version of a table: a part for each list of batches.
#[derive(Debug)]
pub(super) struct MemoryTable {
    pub(super) name: TableName,
    pub(super) version: u64,
    pub(super) schema: SchemaRef,
    pub(super) parts: Vec<Vec<RecordBatch>>,
    pub(super) end: ScanEnd,
    sharding: Option<TableSharding>,
}

/// What comes after the rows of a scan.
#[derive(Clone, Debug)]
pub(super) enum ScanEnd {
    /// The end.
    Regular,
    /// A failure.
    Fails(Error),
    /// Nothing, for ever.
    Hangs,
    /// The first batch of the first part, for ever.
    Repeats,
    /// A panic.
    Panics,
    /// The end, one batch too early.
    Short,
}

/// Counts one scan until it is dropped.
struct OpenScan(Arc<watch::Sender<usize>>);

impl OpenScan {
    fn new(open: &Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        OpenScan(open.clone())
    }
}

impl Drop for OpenScan {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl MemorySource {
    pub(super) fn new(tables: Vec<MemoryTable>) -> Self {
        let open = Arc::new(watch::Sender::new(0));
        MemorySource {
            tables,
            lists: AtomicUsize::new(0),
            scans: Mutex::default(),
            open,
            prunes_last: AtomicBool::new(false),
        }
    }

    /// Ends when all scans are dropped.
    pub(super) async fn all_dropped(&self) {
        self.open.subscribe().wait_for(|open| *open == 0).await.unwrap();
    }

    fn find(&self, name: &TableName, version: Option<u64>) -> Result<&MemoryTable> {
        let versions = self.tables.iter().filter(|table| table.name == *name);
        let wanted = versions.filter(|table| version.is_none_or(|version| version == table.version));
        wanted
            .max_by_key(|table| table.version)
            .ok_or_else(|| Error::not_found(format!("no table {name}, says the test")))
    }
}

impl MemoryTable {
    pub(super) fn new(name: &str, version: u64, schema: SchemaRef, parts: Vec<Vec<RecordBatch>>) -> Self {
        MemoryTable { name: name.parse().unwrap(), version, schema, parts, end: ScanEnd::Regular, sharding: None }
    }

    /// The same rows, distributed over shards by these keys: each part becomes one for each shard of which it has rows.
    pub(super) fn sharded(mut self, keys: &[&str], shards: u32) -> Self {
        let keys: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
        let partitioner = Partitioner::new(&self.schema, &keys, shards).unwrap();
        let (mut parts, mut part_shards) = (Vec::new(), Vec::new());
        for batch in self.parts.iter().flatten() {
            let shard_of = partitioner.shards_of(batch).unwrap();
            for shard in 0..shards {
                let own: BooleanArray = shard_of.iter().map(|of| Some(*of == shard)).collect();
                if own.true_count() > 0 {
                    parts.push(vec![filter_record_batch(batch, &own).unwrap()]);
                    part_shards.push(shard);
                }
            }
        }
        self.parts = parts;
        self.sharding = Some(TableSharding { keys, shards, part_shards });
        self
    }

    pub(super) fn ending(mut self, end: ScanEnd) -> Self {
        self.end = end;
        self
    }

    fn rows(&self) -> u64 {
        self.parts.iter().map(|part| rows_of(part)).sum()
    }

    /// Names the parts by their numbers.
    fn ticket(&self) -> Ticket {
        let part = |(at, part): (usize, &Vec<RecordBatch>)| TicketPart {
            id: Some(PartId(at as u128).into()),
            holders: vec![at as u64 % HOLDERS + 1],
            rows: rows_of(part),
            ..TicketPart::default()
        };
        Ticket {
            table: self.name.components().to_vec(),
            version: self.version,
            parts: self.parts.iter().enumerate().map(part).collect(),
            ..Ticket::default()
        }
    }
}

fn rows_of(part: &[RecordBatch]) -> u64 {
    part.iter().map(|batch| batch.num_rows() as u64).sum()
}

#[async_trait]
impl TableSource for MemorySource {
    async fn plan(&self, tables: &[TableAt]) -> Result<Vec<PlannedTable>> {
        let plan = |wanted: &TableAt| -> Result<PlannedTable> {
            let table = self.find(&wanted.name, wanted.version)?;
            Ok(PlannedTable {
                name: table.name.clone(),
                version: table.version,
                schema: table.schema.clone(),
                parts: table.parts.iter().map(|part| PlannedPart { rows: rows_of(part) }).collect(),
                rows: table.rows(),
                bytes: 1000 * table.rows(),
                ticket: Arc::new(table.ticket()),
                sharding: table.sharding.clone(),
            })
        };
        tables.iter().map(plan).collect()
    }

    async fn prune(&self, table: &Arc<PlannedTable>, _filter: &Predicate) -> Arc<PlannedTable> {
        if !self.prunes_last.load(Ordering::Relaxed) {
            return table.clone();
        }
        let mut pruned = table.as_ref().clone();
        let mut ticket = pruned.ticket.as_ref().clone();
        ticket.parts.pop();
        pruned.ticket = Arc::new(ticket);
        pruned.rows -= pruned.parts.pop().map_or(0, |part| part.rows);
        if let Some(sharding) = &mut pruned.sharding {
            sharding.part_shards.pop();
        }
        Arc::new(pruned)
    }

    async fn list(&self) -> Result<Vec<ListedTable>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let list = |table: &MemoryTable| ListedTable {
            name: table.name.clone(),
            schema: table.schema.clone(),
            rows: table.rows(),
            bytes: 1000 * table.rows(),
            version: table.version,
        };
        Ok(self.tables.iter().map(list).collect())
    }

    fn scan(&self, scan: PartScan) -> BoxStream<'static, Result<RecordBatch>> {
        self.scans.lock().push(scan.clone());
        let table = self.find(&scan.table.name, Some(scan.table.version)).unwrap();
        let parts = scan.table.ticket.parts[scan.parts.clone()].iter();
        let number = |part: &TicketPart| PartId::from(part.id.as_ref().unwrap()).0 as usize;
        let mut batches: Vec<RecordBatch> = parts.flat_map(|part| table.parts[number(part)].clone()).collect();
        if matches!(table.end, ScanEnd::Short) {
            batches.pop();
        }
        let first = batches.first().map(|batch| select(batch, &scan));
        let end: BoxStream<'static, Result<RecordBatch>> = match table.end.clone() {
            ScanEnd::Regular | ScanEnd::Short => stream::empty().boxed(),
            ScanEnd::Fails(error) => stream::iter([Err(error)]).boxed(),
            ScanEnd::Hangs => stream::pending().boxed(),
            ScanEnd::Repeats => stream::repeat(first.unwrap()).boxed(),
            ScanEnd::Panics => stream::poll_fn(|_| panic!("a test of panics")).boxed(),
        };
        let open = OpenScan::new(&self.open);
        let rows = stream::iter(batches).map(move |batch| select(&batch, &scan)).chain(end);
        // Owned by the stream, and dropped with it.
        let held = move |batch| {
            let _ = &open;
            batch
        };
        rows.map(held).boxed()
    }
}

fn select(batch: &RecordBatch, scan: &PartScan) -> Result<RecordBatch> {
    let all: Vec<usize> = (0..batch.num_columns()).collect();
    let selected = match &scan.filter {
        Some(filter) => filter_record_batch(batch, &filter.compile(&all)?.select(batch)?).unwrap(),
        None => batch.clone(),
    };
    Ok(selected.project(&scan.columns).unwrap())
}

/// Columns: id, customer, amount.
pub(super) fn order_schema() -> SchemaRef {
    let note = |text: &str| HashMap::from([("note".to_string(), text.to_string())]);
    let fields = vec![
        Field::new("id", DataType::Int64, false).with_metadata(note("of a column")),
        Field::new("customer", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ];
    Arc::new(Schema::new_with_metadata(fields, note("of a table")))
}

pub(super) fn orders(rows: &[(i64, Option<&str>, Option<i64>)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(order_schema(), columns).unwrap()
}

/// Version 1 of `orders` has its first part, version 2 all.
pub(super) fn order_tables() -> Vec<MemoryTable> {
    let parts = vec![
        vec![orders(&[(1, Some("a"), Some(10)), (2, Some("b"), Some(20))])],
        vec![orders(&[(3, Some("a"), Some(30))]), orders(&[(4, None, None)])],
        vec![orders(&[(5, Some("c"), Some(50))])],
    ];
    let fields = vec![Field::new("name", DataType::Utf8, false), Field::new("City", DataType::Utf8, true)];
    let customer_schema = Arc::new(Schema::new(fields));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec!["a", "b"])), Arc::new(StringArray::from(vec!["Rome", "Oslo"]))];
    let customers = RecordBatch::try_new(customer_schema.clone(), columns).unwrap();
    vec![
        MemoryTable::new("orders", 1, order_schema(), parts[..1].to_vec()),
        MemoryTable::new("orders", 2, order_schema(), parts),
        MemoryTable::new("customers", 1, customer_schema, vec![vec![customers]]),
        MemoryTable::new("vacant", 1, order_schema(), Vec::new()),
        MemoryTable::new("sales/eu/orders", 7, order_schema(), vec![vec![orders(&[(9, None, Some(90))])]]),
    ]
}
