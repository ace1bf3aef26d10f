//! DataFusion in this process, over rows in memory: what the answers of a cluster are compared with.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
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
            // As the nodes have them.
            .set_str("datafusion.execution.time_zone", "UTC")
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        SingleProcess { context: SessionContext::new_with_config(config) }
    }

    /// Adds a table.
    pub fn add(&self, table: &str, schema: SchemaRef, rows: Vec<RecordBatch>) {
        let rows = MemTable::try_new(schema, vec![rows]).unwrap();
        self.context.register_table(table, Arc::new(rows)).unwrap();
    }

    /// Gives a table these rows, whatever it had.
    pub fn replace(&self, table: &TableReference, schema: SchemaRef, rows: Vec<RecordBatch>) -> Result<()> {
        let rows = MemTable::try_new(schema, vec![rows])?;
        self.context.deregister_table(table.clone())?;
        self.context.register_table(table.clone(), Arc::new(rows)).map(|_| ())
    }

    /// What a statement means; it is not carried out.
    pub async fn plan(&self, sql: &str) -> Result<LogicalPlan> {
        self.context.state().create_logical_plan(sql).await
    }

    /// The rows of a query, and their schema. Other statements are carried out.
    pub async fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let plan = self.context.sql(sql).await?.create_physical_plan().await?;
        let schema = plan.schema();
        Ok((schema, collect(plan, self.context.task_ctx()).await?))
    }
}
