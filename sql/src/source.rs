//! What the engine needs of a node: the tables that a caller may see, at which version, and the rows of their parts.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::physical_plan::metrics::Count;
use futures::stream::BoxStream;
use volley_common::wire::cluster::Ticket;
use volley_common::{Result, TableName};

use crate::predicate::Predicate;
use crate::statement::TableAt;

/// The tables of one caller. What the caller may not see does not exist here.
#[async_trait]
pub trait TableSource: Send + Sync + Debug + 'static {
    /// The tables at the versions that `tables` name, or at their newest ones: one consistent read for all. The reply has the
    /// order of `tables`.
    ///
    /// # Errors
    /// NOT_FOUND: a table or version does not exist, or the caller may not read it. Errors of the catalog.
    async fn plan(&self, tables: &[TableAt]) -> Result<Vec<PlannedTable>>;

    /// The table without those parts of which it is known that they have no row that the filter selects; the whole table if nothing
    /// is known. The others keep their order, and `rows`, `bytes` and `ticket` are theirs.
    async fn prune(&self, table: &Arc<PlannedTable>, _filter: &Predicate) -> Arc<PlannedTable> {
        table.clone()
    }

    /// All tables that the caller may see, at their newest versions.
    ///
    /// # Errors
    /// Errors of the catalog.
    async fn list(&self) -> Result<Vec<ListedTable>>;

    /// The rows of some parts, in any order: of each row that the filter selects the columns that the scan names. With a limit
    /// the stream may end when it has sent that many rows. Dropping the stream cancels the scan.
    ///
    /// The batches have the types of the table's schema. A failure is the stream's last item.
    fn scan(&self, scan: PartScan) -> BoxStream<'static, Result<RecordBatch>>;
}

/// One version of a table, as a statement reads it.
#[derive(Clone, Debug)]
pub struct PlannedTable {
    /// Its name.
    pub name: TableName,
    /// The version, which does not change any more.
    pub version: u64,
    /// The columns that the caller may see.
    pub schema: SchemaRef,
    /// The parts of the version that are read. A part's index is its position in `ticket.parts`.
    pub parts: Vec<PlannedPart>,
    /// Rows of all parts.
    pub rows: u64,
    /// Bytes of all parts, with all columns.
    pub bytes: u64,
    /// The verified ticket of these parts, for scans.
    pub ticket: Arc<Ticket>,
    /// Which of its rows are in which part; `None`: nothing is known.
    pub sharding: Option<TableSharding>,
}

/// How the rows of a version are distributed: a row is in a part of the shard that
/// [`Partitioner`](volley_common::partition::Partitioner) gives for its keys.
#[derive(Clone, Debug)]
pub struct TableSharding {
    /// The names of the key columns, in their order.
    pub keys: Vec<String>,
    /// How many shards the table has.
    pub shards: u32,
    /// The shard of each part.
    pub part_shards: Vec<u32>,
}

impl PlannedTable {
    /// Bytes of its parts, about, with all columns. The catalog does not tell them to who may not see all columns.
    pub(crate) fn about_bytes(&self) -> u64 {
        self.bytes.max(self.rows.saturating_mul(8))
    }
}

/// One part of a version.
#[derive(Clone, Debug)]
pub struct PlannedPart {
    /// Exactly how many rows it has.
    pub rows: u64,
}

/// A table in a list.
#[derive(Clone, Debug)]
pub struct ListedTable {
    /// Its name.
    pub name: TableName,
    /// The columns that the caller may see.
    pub schema: SchemaRef,
    /// Rows of the newest version.
    pub rows: u64,
    /// Bytes of the newest version.
    pub bytes: u64,
    /// The newest version.
    pub version: u64,
}

/// What to read of a table.
#[derive(Clone, Debug)]
pub struct PartScan {
    /// The version.
    pub table: Arc<PlannedTable>,
    /// Indexes of the parts.
    pub parts: Range<usize>,
    /// Indexes of columns of the table's schema, in the order of the batches' columns. None: the batches have only numbers of
    /// rows.
    pub columns: Vec<usize>,
    /// Only rows for which it is true are sent. It may read columns that are not sent.
    pub filter: Option<Predicate>,
    /// How many rows are enough.
    pub limit: Option<usize>,
    /// What the scan reports of its work.
    pub counts: ScanCounts,
}

/// How many record batches a scan with a filter finds in the parts that its node has, how many of these it leaves out by their
/// statistics, and how many bytes other nodes send. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct ScanCounts {
    messages: Count,
    pruned: Count,
    received: Count,
}

impl ScanCounts {
    /// Counts with these.
    pub(crate) fn new(messages: Count, pruned: Count, received: Count) -> Self {
        ScanCounts { messages, pruned, received }
    }

    /// Adds the record batches of a part, and those of them that are left out.
    pub fn add(&self, messages: usize, pruned: usize) {
        self.messages.add(messages);
        self.pruned.add(pruned);
    }

    /// Adds the bytes of messages that another node sent.
    pub fn add_received(&self, bytes: usize) {
        self.received.add(bytes);
    }

    /// Record batches so far.
    pub fn messages(&self) -> usize {
        self.messages.value()
    }

    /// Those of them that were left out.
    pub fn pruned(&self) -> usize {
        self.pruned.value()
    }

    /// Bytes of other nodes so far.
    pub fn received(&self) -> usize {
        self.received.value()
    }
}
