//! The catalog of one statement: the tables that its text names, and for `information_schema` all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::Result;

use super::part_table::UnreadTable;
use crate::names::{CATALOG, DEFAULT_SCHEMA, SqlName};
use crate::source::ListedTable;

/// The only catalog, and the list of it.
#[derive(Clone, Debug, Default)]
pub(super) struct StatementCatalog {
    schemas: BTreeMap<String, Arc<StatementSchema>>,
}

/// The tables of one schema.
#[derive(Clone, Debug, Default)]
struct StatementSchema {
    /// By the names that the statement uses.
    tables: BTreeMap<String, Arc<dyn TableProvider>>,
    /// The names that `information_schema` has.
    listed: BTreeSet<String>,
}

impl StatementCatalog {
    /// All tables that the caller may see, without their rows.
    pub(super) fn of_list(tables: &[ListedTable]) -> Self {
        let mut catalog = StatementCatalog::default();
        catalog.schema_mut(DEFAULT_SCHEMA);
        for table in tables {
            let SqlName { schema, table: name } = SqlName::of(&table.name);
            let schema = catalog.schema_mut(&schema);
            schema.tables.insert(name.clone(), Arc::new(UnreadTable { schema: table.schema.clone() }));
            schema.listed.insert(name);
        }
        catalog
    }

    /// Adds a table that the statement reads, by the name that its text has.
    pub(super) fn insert(&mut self, name: &SqlName, table: Arc<dyn TableProvider>) {
        self.schema_mut(&name.schema).tables.insert(name.table.clone(), table);
    }

    fn schema_mut(&mut self, name: &str) -> &mut StatementSchema {
        Arc::make_mut(self.schemas.entry(name.to_string()).or_default())
    }
}

impl CatalogProviderList for StatementCatalog {
    fn register_catalog(&self, _name: String, _catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_string()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for StatementCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.get(name).map(|schema| schema.clone() as Arc<dyn SchemaProvider>)
    }
}

#[async_trait]
impl SchemaProvider for StatementSchema {
    fn table_names(&self) -> Vec<String> {
        self.listed.iter().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.tables.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }
}
