//! Which parts a read leaves out: those whose statistics show that they have no row that its filter selects.
//!
//! The condition comes from a node, which knows SQL, or from a client that pretends to be one: it is used only if it was made for
//! the schema of the version, and if it is about columns that the reader may see. Others would tell something about their values.

use std::collections::BTreeSet;

use bytes::Bytes;
use volley_common::ipc::schema::parse_schema;
use volley_common::ipc::statistics::{BoundFilter, schema_checksum};
use volley_common::wire::cluster::PartFilter;

/// A schema of more bytes is not read for a reader who may see only some columns: nothing is left out then. It would be read
/// while the catalog is locked.
const MAX_SCHEMA: usize = 64 << 10;

/// Leaves out parts for one reader.
pub struct PartPruning {
    filter: BoundFilter,
    /// The checksum of the schema message for which it was made.
    schema: u64,
    /// Names of the columns that the reader may see; `None`: all.
    permitted: Option<BTreeSet<String>>,
}

impl PartPruning {
    /// Of what a node has sent; `None` if it excludes nothing.
    pub fn new(filter: Option<&PartFilter>, permitted: Option<BTreeSet<String>>) -> Option<Self> {
        let PartFilter { schema, condition } = filter?;
        let filter = BoundFilter::from_wire(condition.as_ref()?)?;
        Some(PartPruning { filter, schema: *schema, permitted })
    }

    /// What must hold of the parts of a version with this schema message; `None`: nothing is known.
    pub fn filter_of(&self, schema: &Bytes) -> Option<&BoundFilter> {
        (schema_checksum(schema) == self.schema && self.is_permitted(schema)).then_some(&self.filter)
    }

    fn is_permitted(&self, schema: &Bytes) -> bool {
        let Some(permitted) = &self.permitted else { return true };
        if schema.len() > MAX_SCHEMA {
            return false;
        }
        let Ok(schema) = parse_schema(schema) else { return false };
        let is_visible = |column: usize| schema.fields().get(column).is_some_and(|at| permitted.contains(at.name()));
        self.filter.columns().into_iter().all(is_visible)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use volley_common::ipc::schema::schema_message;

    use super::*;

    fn schema(columns: &[&str]) -> Bytes {
        let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
        schema_message(&Schema::new(fields)).unwrap()
    }

    fn filter(schema: &Bytes, column: usize) -> PartFilter {
        PartFilter { schema: schema_checksum(schema), condition: BoundFilter::IsNull(column).to_wire() }
    }

    #[test]
    fn filter_is_for_versions_of_its_schema_alone() {
        let (own, other) = (schema(&["a", "b"]), schema(&["a", "c"]));
        let pruning = PartPruning::new(Some(&filter(&own, 1)), None).unwrap();
        assert_eq!(pruning.filter_of(&own), Some(&BoundFilter::IsNull(1)));
        assert_eq!(pruning.filter_of(&other), None);
        assert!(PartPruning::new(None, None).is_none());
        assert!(PartPruning::new(Some(&PartFilter::default()), None).is_none());
    }

    #[test]
    fn filter_of_a_hidden_column_is_not_used() {
        let own = schema(&["a", "b"]);
        let permitted = Some(BTreeSet::from(["b".to_string()]));
        for (column, is_used) in [(0, false), (1, true), (2, false)] {
            let pruning = PartPruning::new(Some(&filter(&own, column)), permitted.clone()).unwrap();
            assert_eq!(pruning.filter_of(&own).is_some(), is_used, "column {column}");
        }
        let names: Vec<String> = (0..3000).map(|at| format!("column {at:020}")).collect();
        let large = schema(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let all = Some(names.into_iter().collect());
        assert!(large.len() > MAX_SCHEMA);
        assert!(PartPruning::new(Some(&filter(&large, 1)), all).unwrap().filter_of(&large).is_none());
    }
}
