//! The tables of TPC-H as record batches, with strings that have offsets instead of views, as most programs write them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatchReader;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// Rows of a batch.
pub const BATCH_ROWS: usize = 1 << 16;

/// A table in memory.
pub struct TpchTable {
    /// Its name.
    pub name: &'static str,
    /// The column that a cluster shards it by; none for a table of a few rows.
    pub key: Option<&'static str>,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
}

impl TpchTable {
    /// Bytes of its values.
    pub fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| value_bytes(batch).unwrap_or(0)).sum()
    }
}

/// All eight tables at this scale.
///
/// # Errors
/// A batch cannot be made.
pub fn tables(scale: f64) -> Result<Vec<TpchTable>, String> {
    let region = RegionArrow::new(RegionGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let nation = NationArrow::new(NationGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let supplier = SupplierArrow::new(SupplierGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let customer = CustomerArrow::new(CustomerGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let part = PartArrow::new(PartGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let partsupp = PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let orders = OrderArrow::new(OrderGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    let tables = vec![
        table("region", None, region),
        table("nation", None, nation),
        table("supplier", Some("s_suppkey"), supplier),
        table("customer", Some("c_custkey"), customer),
        table("part", Some("p_partkey"), part),
        table("partsupp", Some("ps_partkey"), partsupp),
        table("orders", Some("o_orderkey"), orders),
        table("lineitem", Some("l_orderkey"), lineitem(scale)),
    ];
    tables.into_iter().collect::<Result<_, ArrowError>>().map_err(|e| format!("the tables of TPC-H: {e}"))
}

/// The rows of lineitem at this scale.
pub fn lineitem(scale: f64) -> LineItemArrow {
    LineItemArrow::new(LineItemGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)
}

fn table(name: &'static str, key: Option<&'static str>, rows: impl RecordBatchReader) -> Result<TpchTable, ArrowError> {
    let schema = plain_schema(&rows.schema());
    let batches = rows.map(|batch| plain(&batch?, &schema)).collect::<Result<_, ArrowError>>()?;
    Ok(TpchTable { name, key, schema, batches })
}

/// The schema with strings that have offsets instead of views.
pub fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// A batch with this schema, which [`plain_schema`] made.
///
/// # Errors
/// A column has more text than offsets can address.
pub fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let pairs = batch.columns().iter().zip(schema.fields());
    let columns = pairs.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema.clone(), columns)
}

/// Bytes of the values of a batch.
///
/// # Errors
/// A column of a type that has no such size.
pub fn value_bytes(batch: &RecordBatch) -> Result<u64, ArrowError> {
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    Ok(sizes.sum::<Result<usize, ArrowError>>()? as u64)
}
