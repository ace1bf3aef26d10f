//! CREATE TABLE: types and options.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::Expr as LogicalExpr;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use datafusion::sql::sqlparser::ast::{
    self, CastKind, ColumnDef, ColumnOption, CreateTableOptions, Expr, ExprWithAlias, SqlOption,
};
use serde_json::{Map, Value};
use volley_common::options::fields::cut;
use volley_common::{Error, Result};

use super::rewrite::normalized;
use super::{CreateTable, UpdateStatement, query_statement, tables};
use crate::fault::from_datafusion;
use crate::predicate::check_type;

/// The options that belong to a table, by their names in descriptors.
const OPTIONS: [&str; 10] = [
    "compression",
    "max_endpoints",
    "preserve_batches",
    "replicas",
    "retention_s",
    "shard_by",
    "shareable_tickets",
    "shards",
    "stats_columns",
    "ttl_s",
];

/// Turns SQL's types into those of stored tables: text is Utf8, which all clients can read, and a timestamp with time zone
/// is in UTC.
static TYPES: LazyLock<SessionState> = LazyLock::new(|| {
    let config = SessionConfig::new()
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
        .set_str("datafusion.execution.time_zone", "UTC");
    SessionStateBuilder::new().with_config(config).with_default_features().build()
});

/// A statement CREATE TABLE, with AS or without.
///
/// # Errors
/// INVALID_ARGUMENT: a wrong name, column, type or option. UNIMPLEMENTED: a clause that tables do not have.
pub(super) fn create_table(table: &ast::CreateTable) -> Result<UpdateStatement> {
    check_clauses(table)?;
    let created = |schema: SchemaRef| {
        Ok::<_, Error>(CreateTable {
            name: tables::of_target(&table.name)?,
            schema,
            if_not_exists: table.if_not_exists,
            or_replace: table.or_replace,
            options: options(&table.table_options)?,
        })
    };
    match &table.query {
        None if table.columns.is_empty() => {
            Err(Error::invalid("the table has no columns: write CREATE TABLE name (column type, ...), or AS SELECT"))
        }
        None => Ok(UpdateStatement::CreateTable(created(schema(&table.columns)?)?)),
        Some(query) if table.columns.is_empty() => {
            let query = query_statement(query)?;
            Ok(UpdateStatement::CreateTableAs { table: created(Arc::new(Schema::empty()))?, query })
        }
        Some(_) => Err(Error::unimplemented(
            "CREATE TABLE has columns and a query: leave the columns out, and name and cast them in the SELECT",
        )),
    }
}

fn check_clauses(table: &ast::CreateTable) -> Result<()> {
    if table.or_replace && table.if_not_exists {
        return Err(Error::invalid("CREATE TABLE has OR REPLACE and IF NOT EXISTS: choose one"));
    }
    if table.temporary {
        return Err(Error::unimplemented(
            "temporary tables of a session are not supported: CREATE TABLE name (...) WITH (ttl_s = 3600) creates one that is dropped an hour after its last write",
        ));
    }
    if !table.constraints.is_empty() {
        return Err(Error::unimplemented(
            "tables have no keys and constraints: leave them out, and check the rows before",
        ));
    }
    let plain = CreateTableBuilder::new(table.name.clone())
        .or_replace(table.or_replace)
        .if_not_exists(table.if_not_exists)
        .columns(table.columns.clone())
        .table_options(table.table_options.clone())
        .query(table.query.clone())
        .build();
    match plain == *table {
        true => Ok(()),
        false => Err(Error::unimplemented(
            "this form of CREATE TABLE is not supported: write CREATE TABLE name (column type, ...) WITH (option = value, ...)",
        )),
    }
}

fn schema(columns: &[ColumnDef]) -> Result<SchemaRef> {
    let mut names = HashSet::new();
    let mut fields = Vec::with_capacity(columns.len());
    for column in columns {
        let name = normalized(&column.name);
        if !names.insert(name.clone()) {
            return Err(Error::invalid(format!("CREATE TABLE names the column {name:?} twice")));
        }
        let at = |e: Error| e.at(format_args!("column {:?}", cut(&name)));
        let nullable = nullable(column).map_err(at)?;
        let data_type = data_type(&column.data_type).map_err(at)?;
        fields.push(Field::new(name, data_type, nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn nullable(column: &ColumnDef) -> Result<bool> {
    let mut nullable = true;
    for option in &column.options {
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => nullable = false,
            other => {
                return Err(Error::unimplemented(format!(
                    "{} is not supported: only NOT NULL is checked, leave it out",
                    cut(&other.to_string())
                )));
            }
        }
    }
    Ok(nullable)
}

fn data_type(sql: &ast::DataType) -> Result<DataType> {
    use ast::DataType as Sql;
    if let Sql::Varchar(Some(_)) | Sql::Char(Some(_)) | Sql::Character(Some(_)) | Sql::CharacterVarying(Some(_)) = sql {
        return Err(Error::unimplemented(format!("the length in {sql} is not checked: write VARCHAR without one")));
    }
    let null = Box::new(Expr::value(ast::Value::Null));
    let cast = Expr::Cast { kind: CastKind::Cast, expr: null, data_type: sql.clone(), array: false, format: None };
    let parsed = ExprWithAlias { expr: cast, alias: None };
    match TYPES.create_logical_expr_from_sql_expr(parsed, &DFSchema::empty()).map_err(from_datafusion)? {
        LogicalExpr::Cast(cast) => {
            check_type(cast.field.data_type())?;
            Ok(cast.field.data_type().clone())
        }
        _ => Err(Error::unimplemented(format!("the type {sql} is not supported"))),
    }
}

fn options(options: &CreateTableOptions) -> Result<Map<String, Value>> {
    let list = match options {
        CreateTableOptions::None => return Ok(Map::new()),
        CreateTableOptions::With(list) => list,
        CreateTableOptions::Options(_) | CreateTableOptions::Plain(_) | CreateTableOptions::TableProperties(_) => {
            return Err(Error::unimplemented("options of a table follow WITH: WITH (shards = 8, shard_by = 'id')"));
        }
    };
    let mut found = Map::new();
    for option in list {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(Error::invalid(format!("the option {option} has no value: write name = value")));
        };
        let name = normalized(key);
        if !OPTIONS.contains(&name.as_str()) {
            let known = OPTIONS.join(", ");
            return Err(Error::invalid(format!(
                "there is no option {:?} of a table: the options are {known}",
                cut(&name)
            )));
        }
        let value = match (name.as_str(), option_value(&name, value)?) {
            ("shard_by" | "stats_columns", Value::String(columns)) => {
                columns.split(',').map(|column| column.trim().to_string()).collect()
            }
            (_, value) => value,
        };
        if found.insert(name.clone(), value).is_some() {
            return Err(Error::invalid(format!("the option {name:?} is given twice")));
        }
    }
    Ok(found)
}

/// A literal, a word, or a list of them, as JSON.
fn option_value(name: &str, value: &Expr) -> Result<Value> {
    let list = |values: &[Expr]| values.iter().map(|value| option_value(name, value)).collect::<Result<Value>>();
    let found = match value {
        Expr::Value(literal) => match &literal.value {
            ast::Value::SingleQuotedString(text) => Some(Value::String(text.clone())),
            ast::Value::Number(digits, _) => digits.parse::<u64>().ok().map(Value::from),
            ast::Value::Boolean(flag) => Some(Value::Bool(*flag)),
            _ => None,
        },
        Expr::Identifier(word) => Some(Value::String(normalized(word))),
        Expr::Array(array) => Some(list(&array.elem)?),
        Expr::Tuple(values) => Some(list(values)?),
        Expr::Nested(value) => Some(option_value(name, value)?),
        _ => None,
    };
    found.ok_or_else(|| {
        Error::invalid(format!(
            "the option {name:?} is {}: write a text, a whole number, or ARRAY['a', 'b']",
            cut(&value.to_string())
        ))
    })
}
