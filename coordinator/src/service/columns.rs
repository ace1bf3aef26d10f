//! The columns of a read: their indexes and their schema. To a principal that may read only some columns of a table, the
//! others do not exist.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::Field;
use bytes::Bytes;
use serde_json::Value;
use volley_common::ipc::project::{SchemaMetadata, project_schema};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::options::fields::cut;
use volley_common::wire::cluster::Columns;
use volley_common::{Error, Result};

/// A schema of at least this many bytes is read by a blocking thread.
const HEAVY_SCHEMA: usize = 64 << 10;
/// Maximum number of columns that an error lists.
const MAX_LISTED: usize = 50;

/// The columns of a read.
pub struct SelectedColumns {
    /// Their indexes; `None`: all columns.
    pub indexes: Option<Vec<usize>>,
    /// The schema message with only them.
    pub schema: Bytes,
}

impl SelectedColumns {
    /// What a ticket says of them: a schema message, and the indexes of the columns. Clients can read tickets: the schema is
    /// that of the selected columns only, and is left out if there are parts, each of which begins with that of the table.
    pub fn in_ticket(&self, has_parts: bool) -> (Bytes, Option<Columns>) {
        let columns = |indexes: &Vec<usize>| Columns { index: indexes.iter().map(|at| *at as u32).collect() };
        match has_parts {
            true => (Bytes::new(), self.indexes.as_ref().map(columns)),
            false => (self.schema.clone(), None),
        }
    }

    /// What a ticket says of the columns if its schema message is that of `visible`, all columns that the reader may see: the
    /// message, and their indexes in it.
    pub fn within(&self, visible: &SelectedColumns) -> (Bytes, Option<Columns>) {
        let position = |at: &usize| match &visible.indexes {
            // Ascending, and the reader may see every selected one.
            Some(all) => all.partition_point(|known| known < at) as u32,
            None => *at as u32,
        };
        let columns = self.indexes.as_ref().map(|indexes| Columns { index: indexes.iter().map(position).collect() });
        (visible.schema.clone(), columns)
    }
}

/// The columns that `options` requests, of a table with this schema message. `permitted`: the names of the columns that the
/// reader may see; `None`: all.
///
/// # Errors
/// INVALID_ARGUMENT: an unknown column, a name of several columns, a column twice, or more columns than there are.
pub async fn select_columns(
    table: &[String],
    schema: &Bytes,
    options: &Options,
    permitted: Option<BTreeSet<String>>,
) -> Result<SelectedColumns> {
    let wanted = &options.columns;
    if wanted.is_none() && permitted.is_none() {
        return Ok(SelectedColumns { indexes: None, schema: schema.clone() });
    }
    let name = table.join("/");
    if schema.len() < HEAVY_SCHEMA && wanted.as_ref().is_none_or(|wanted| wanted.len() < 1000) {
        return select(&name, schema, wanted.as_deref(), permitted.as_ref());
    }
    let (schema, wanted) = (schema.clone(), wanted.clone());
    let selected =
        tokio::task::spawn_blocking(move || select(&name, &schema, wanted.as_deref(), permitted.as_ref())).await;
    selected.map_err(|e| Error::internal(format!("the selection of columns: {e}")))?
}

/// The schema message of a table as a reader sees it.
///
/// # Errors
/// INTERNAL: it cannot be read.
pub fn visible_schema(message: &Bytes, permitted: &BTreeSet<String>) -> Result<Bytes> {
    Ok(select("", message, None, Some(permitted))?.schema)
}

/// Of these names of columns, those that a reader sees.
pub fn visible_names(names: &[String], permitted: &BTreeSet<String>) -> Vec<String> {
    names.iter().filter(|name| permitted.contains(*name)).cloned().collect()
}

/// Takes the sizes in bytes out of a report about a table, for a reader of some columns: they are those of all columns, and
/// would tell something about the others.
pub fn withhold_bytes(report: &mut Value) {
    match report {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| match key.as_str() {
            "bytes" => *value = Value::Null,
            _ => withhold_bytes(value),
        }),
        Value::Array(items) => items.iter_mut().for_each(withhold_bytes),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn select(
    table: &str,
    message: &Bytes,
    wanted: Option<&[String]>,
    permitted: Option<&BTreeSet<String>>,
) -> Result<SelectedColumns> {
    let schema = parse_schema(message)?;
    // As nodes do, which see from the ticket only that the columns are restricted.
    let metadata = if permitted.is_some() { SchemaMetadata::Removed } else { SchemaMetadata::Kept };
    let is_visible = |field: &Field| permitted.is_none_or(|permitted| permitted.contains(field.name()));
    let fields: Vec<(usize, &Field)> =
        schema.fields().iter().map(|field| &**field).enumerate().filter(|(_, field)| is_visible(field)).collect();
    let Some(wanted) = wanted else {
        if fields.len() == schema.fields().len() {
            return Ok(SelectedColumns { indexes: None, schema: message.clone() });
        }
        let indexes: Vec<usize> = fields.iter().map(|(at, _)| *at).collect();
        let schema = project_schema(message, &indexes, metadata)?;
        return Ok(SelectedColumns { indexes: Some(indexes), schema });
    };
    if wanted.len() > fields.len() {
        return Err(Error::invalid(format!(
            "{} columns of table {table:?} are requested, and it has {}: name each column once",
            wanted.len(),
            fields.len()
        )));
    }
    let mut named: HashMap<&str, Result<usize, usize>> = HashMap::new();
    for (at, field) in &fields {
        // Of two columns with one name none is meant.
        named.entry(field.name()).and_modify(|found| *found = Err(*at)).or_insert(Ok(*at));
    }
    let find = |name: &String| match named.get(name.as_str()) {
        Some(Ok(at)) => Ok(*at),
        Some(Err(_)) => Err(Error::invalid(format!(
            "table {table:?} has several columns named {:?}: leave out \"columns\" to read all",
            cut(name)
        ))),
        None => {
            let known: Vec<String> = fields.iter().take(MAX_LISTED).map(|(_, field)| cut(field.name())).collect();
            let more = if fields.len() > MAX_LISTED { ", …" } else { "" };
            let known = known.join(", ");
            Err(Error::invalid(format!("table {table:?} has no column {:?}; it has {known}{more}", cut(name))))
        }
    };
    let indexes = wanted.iter().map(find).collect::<Result<Vec<usize>>>()?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = indexes.iter().find(|at| !seen.insert(**at)) {
        return Err(Error::invalid(format!("the column {:?} is requested twice", cut(schema.field(*twice).name()))));
    }
    let schema = project_schema(message, &indexes, metadata)?;
    Ok(SelectedColumns { indexes: Some(indexes), schema })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use arrow::datatypes::{DataType, Field, Schema};
    use volley_common::ipc::schema::schema_message;

    use super::*;

    fn wide(columns: usize) -> Bytes {
        let field = |at| Field::new(format!("c{at}"), DataType::Int64, true);
        schema_message(&Schema::new((0..columns).map(field).collect::<Vec<_>>())).unwrap()
    }

    async fn columns(schema: &Bytes, wanted: Vec<String>) -> Result<SelectedColumns> {
        let options = Options { columns: Some(wanted), ..Options::default() };
        select_columns(&["t".to_string()], schema, &options, None).await
    }

    /// As a reader that may see only the columns `permitted`.
    async fn restricted(schema: &Bytes, wanted: Option<&[&str]>, permitted: &[&str]) -> Result<SelectedColumns> {
        let texts = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let options = Options { columns: wanted.map(texts), ..Options::default() };
        let permitted = texts(permitted).into_iter().collect();
        select_columns(&["t".to_string()], schema, &options, Some(permitted)).await
    }

    fn names(selected: &SelectedColumns) -> Vec<String> {
        let schema = parse_schema(&selected.schema).unwrap();
        schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    #[tokio::test]
    async fn selected_columns_keep_the_requested_order() {
        let selected = columns(&wide(9), ["c7", "c2"].map(String::from).to_vec()).await.unwrap();
        let schema = parse_schema(&selected.schema).unwrap();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["c7", "c2"]);
        assert_eq!(selected.indexes, Some(vec![7, 2]));
    }

    #[tokio::test]
    async fn ticket_without_parts_has_only_the_selected_columns() {
        let schema = wide(9);
        let contains = |bytes: &Bytes, name: &str| bytes.windows(name.len()).any(|found| found == name.as_bytes());
        assert!(contains(&schema, "c5"));
        for (wanted, shown) in [(None, vec!["c2", "c7"]), (Some(&["c7"][..]), vec!["c7"])] {
            let selected = restricted(&schema, wanted, &["c2", "c7"]).await.unwrap();
            let (in_ticket, columns) = selected.in_ticket(false);
            assert_eq!((&in_ticket, columns), (&selected.schema, None));
            for at in 0..9 {
                let name = format!("c{at}");
                assert_eq!(contains(&in_ticket, &name), shown.contains(&name.as_str()), "{name} for {wanted:?}");
            }
            let (in_ticket, columns) = selected.in_ticket(true);
            assert_eq!((in_ticket.len(), columns.map(|columns| columns.index.len())), (0, Some(shown.len())));
        }
        let all = SelectedColumns { indexes: None, schema: schema.clone() };
        assert_eq!((all.in_ticket(true), all.in_ticket(false)), ((Bytes::new(), None), (schema, None)));
    }

    #[tokio::test]
    async fn columns_within_the_visible_ones_keep_their_order() {
        let schema = wide(9);
        let visible = restricted(&schema, None, &["c2", "c5", "c7"]).await.unwrap();
        let selected = restricted(&schema, Some(&["c7", "c2"]), &["c2", "c5", "c7"]).await.unwrap();
        let (message, columns) = selected.within(&visible);
        assert_eq!((&message, columns.unwrap().index), (&visible.schema, vec![2, 0]));
        let all = columns_of_all(&schema).await;
        let selected = self::columns(&schema, vec!["c8".into()]).await.unwrap();
        assert_eq!(selected.within(&all), (schema.clone(), Some(Columns { index: vec![8] })));
        assert_eq!(all.within(&all), (schema, None));
    }

    async fn columns_of_all(schema: &Bytes) -> SelectedColumns {
        select_columns(&["t".to_string()], schema, &Options::default(), None).await.unwrap()
    }

    #[tokio::test]
    async fn unknown_or_repeated_columns_are_refused() {
        for (wanted, why) in [(vec!["x"], "no column \"x\""), (vec!["c1", "c1"], "twice"), (vec!["c1"; 10], "it has 9")]
        {
            let error = columns(&wide(9), wanted.into_iter().map(String::from).collect()).await.err().unwrap();
            assert!(error.message.contains(why), "{error}");
        }
        let error = columns(&wide(9), vec!["y".repeat(1 << 20)]).await.err().unwrap();
        assert!(error.message.len() < 1000, "{} bytes", error.message.len());
    }

    #[tokio::test]
    async fn name_of_several_columns_is_refused() {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let schema = schema_message(&Schema::new(["a", "b", "a"].map(field).to_vec())).unwrap();
        let error = columns(&schema, vec!["a".into()]).await.err().unwrap();
        assert!(error.message.contains("several columns named \"a\""), "{error}");
        assert_eq!(columns(&schema, vec!["b".into()]).await.unwrap().indexes, Some(vec![1]));
    }

    #[tokio::test]
    async fn restricted_reader_gets_the_permitted_columns() {
        let schema = wide(9);
        let all = restricted(&schema, None, &["c7", "c2", "elsewhere"]).await.unwrap();
        assert_eq!((names(&all), all.indexes.clone()), (vec!["c2".into(), "c7".into()], Some(vec![2, 7])));
        let one = restricted(&schema, Some(&["c7"]), &["c7", "c2"]).await.unwrap();
        assert_eq!((names(&one), one.indexes.clone()), (vec!["c7".to_string()], Some(vec![7])));
        let none = restricted(&schema, None, &["elsewhere"]).await.unwrap();
        assert_eq!((names(&none).len(), none.indexes), (0, Some(vec![])), "and not all columns");
        let every: Vec<String> = (0..9).map(|at| format!("c{at}")).collect();
        let every: Vec<&str> = every.iter().map(String::as_str).collect();
        let whole = restricted(&schema, None, &every).await.unwrap();
        assert_eq!((whole.indexes, whole.schema), (None, schema));
    }

    #[tokio::test]
    async fn restricted_reader_gets_no_metadata_of_the_schema() {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let metadata = [("pandas".to_string(), r#"{"columns": ["c0", "c1"]}"#.to_string())].into();
        let schema = Schema::new(["c0", "c1"].map(field).to_vec()).with_metadata(metadata);
        let message = schema_message(&schema).unwrap();
        let selected = restricted(&message, None, &["c0"]).await.unwrap();
        assert!(parse_schema(&selected.schema).unwrap().metadata().is_empty());
        let selected = columns(&message, vec!["c0".into()]).await.unwrap();
        assert_eq!(parse_schema(&selected.schema).unwrap().metadata(), schema.metadata());
    }

    #[tokio::test]
    async fn hidden_column_does_not_exist() {
        let hidden = restricted(&wide(3), Some(&["c1"]), &["c0", "c2"]).await.err().unwrap();
        assert!(hidden.message.ends_with("table \"t\" has no column \"c1\"; it has c0, c2"), "{hidden}");
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let without = schema_message(&Schema::new(["c0", "c2"].map(field).to_vec())).unwrap();
        let missing = columns(&without, vec!["c1".into()]).await.err().unwrap();
        assert_eq!(hidden, missing, "the text of a column that is missing");
        let too_many = restricted(&wide(3), Some(&["c0", "c1", "c2"]), &["c0", "c2"]).await.err().unwrap();
        assert!(too_many.message.contains("it has 2"), "{too_many}");
    }

    #[test]
    fn hidden_columns_are_left_out_of_names_and_schemas() {
        let permitted = BTreeSet::from(["c1".to_string()]);
        let keys = ["c0", "c1"].map(String::from);
        assert_eq!(visible_names(&keys, &permitted), ["c1"]);
        let schema = parse_schema(&visible_schema(&wide(3), &permitted).unwrap()).unwrap();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["c1"]);
    }

    #[tokio::test]
    async fn ten_thousand_columns_are_selected_in_moments() {
        let schema = wide(10_000);
        let start = Instant::now();
        let selected = columns(&schema, (0..10_000).rev().map(|at| format!("c{at}")).collect()).await.unwrap();
        assert_eq!(selected.indexes.unwrap().len(), 10_000);
        let many = (0..65_000).map(|at| format!("none{at}")).collect();
        assert!(columns(&schema, many).await.is_err());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
