//! DataFusion in this process, over rows in memory: what the answers of a cluster are compared with.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};

/// Tables in memory, and one partition for everything.
pub struct SingleProcess {
    context: SessionContext,
}

impl SingleProcess {
    /// Without tables.
    pub fn start() -> SingleProcess {
        let config = SessionConfig::new()
            .with_target_partitions(1)
            // As the nodes have it.
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        SingleProcess { context: SessionContext::new_with_config(config) }
    }

    /// Adds a table.
    pub fn add(&self, table: &str, schema: SchemaRef, rows: Vec<RecordBatch>) {
        let rows = MemTable::try_new(schema, vec![rows]).unwrap();
        self.context.register_table(table, Arc::new(rows)).unwrap();
    }

    /// The rows of a query, and their schema.
    pub async fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let plan = self.context.sql(sql).await?.create_physical_plan().await?;
        let schema = plan.schema();
        Ok((schema, collect(plan, self.context.task_ctx()).await?))
    }
}
