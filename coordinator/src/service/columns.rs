//! The columns of a read: their indexes and their schema.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use volley_common::ipc::project::project_schema;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::options::fields::cut;
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

/// The columns that `options` requests, of a table with this schema message.
///
/// # Errors
/// INVALID_ARGUMENT: an unknown column, a name of several columns, a column twice, or more columns than there are.
pub async fn select_columns(table: &[String], schema: &Bytes, options: &Options) -> Result<SelectedColumns> {
    let Some(wanted) = &options.columns else {
        return Ok(SelectedColumns { indexes: None, schema: schema.clone() });
    };
    let name = table.join("/");
    if schema.len() < HEAVY_SCHEMA && wanted.len() < 1000 {
        return select(&name, schema, wanted);
    }
    let (schema, wanted) = (schema.clone(), wanted.clone());
    let selected = tokio::task::spawn_blocking(move || select(&name, &schema, &wanted)).await;
    selected.map_err(|e| Error::internal(format!("the selection of columns: {e}")))?
}

fn select(table: &str, message: &Bytes, wanted: &[String]) -> Result<SelectedColumns> {
    let schema = parse_schema(message)?;
    let fields = schema.fields();
    if wanted.len() > fields.len() {
        return Err(Error::invalid(format!(
            "{} columns of table {table:?} are requested, and it has {}: name each column once",
            wanted.len(),
            fields.len()
        )));
    }
    let mut named: HashMap<&str, Result<usize, usize>> = HashMap::new();
    for (at, field) in fields.iter().enumerate() {
        // Of two columns with one name none is meant.
        named.entry(field.name()).and_modify(|found| *found = Err(at)).or_insert(Ok(at));
    }
    let find = |name: &String| match named.get(name.as_str()) {
        Some(Ok(at)) => Ok(*at),
        Some(Err(_)) => Err(Error::invalid(format!(
            "table {table:?} has several columns named {:?}: leave out \"columns\" to read all",
            cut(name)
        ))),
        None => {
            let known: Vec<String> = fields.iter().take(MAX_LISTED).map(|field| cut(field.name())).collect();
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
    let schema = project_schema(message, &indexes)?;
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
        select_columns(&["t".to_string()], schema, &options).await
    }

    #[tokio::test]
    async fn selected_columns_keep_the_requested_order() {
        let selected = columns(&wide(9), ["c7", "c2"].map(String::from).to_vec()).await.unwrap();
        let schema = parse_schema(&selected.schema).unwrap();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["c7", "c2"]);
        assert_eq!(selected.indexes, Some(vec![7, 2]));
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
