//! What a query returned, and its cost.

use arrow::array::RecordBatch;

/// A query that was run to its last row.
pub struct QueryResult {
    /// The rows; none of DuckDB, whose rows stay in its process.
    pub batches: Option<Vec<RecordBatch>>,
    /// Seconds from the call to the last row.
    pub seconds: f64,
    /// CPU seconds meanwhile: of all servers of a cluster, or of the one process.
    pub cpu: f64,
}
