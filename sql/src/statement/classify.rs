//! What kind of statement it is.

use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast::{Insert, ObjectName, ObjectType, Query, Statement, TableObject};
use volley_common::{Error, Result};

use super::rewrite::normalized;
use super::{
    QueryKind, QueryStatement, SqlStatement, UpdateStatement, create, displayed, plain_read, query_statement, refuse,
    tables,
};

/// Classifies a statement. `text` is the client's, if the engine can have it.
///
/// # Errors
/// As [`super::parse`].
pub(super) fn classify(statement: DFStatement, text: Option<&str>) -> Result<SqlStatement> {
    let (kind, tables) = match &statement {
        DFStatement::Statement(inner) => match inner.as_ref() {
            Statement::Query(query) => {
                let tables = tables::of_query(query)?;
                if let Some(read) = plain_read::of_query(query)? {
                    return Ok(SqlStatement::Read(read));
                }
                (QueryKind::Select, tables)
            }
            Statement::ExplainTable { table_name, .. } => {
                (QueryKind::Describe, tables::of_name(table_name)?.into_iter().collect())
            }
            Statement::ShowTables { .. }
            | Statement::ShowColumns { .. }
            | Statement::ShowFunctions { .. }
            | Statement::ShowVariable { .. } => (QueryKind::Show, Vec::new()),
            other => return update(other).map(SqlStatement::Update),
        },
        DFStatement::Explain(explain) => {
            let query = explained(&explain.statement)?;
            (QueryKind::Explain { analyze: explain.options.analyze }, tables::of_query(query)?)
        }
        DFStatement::CreateExternalTable(_) => return Err(refuse::external_table()),
        DFStatement::CopyTo(_) => return Err(refuse::copy()),
        DFStatement::Reset(_) => return Err(refuse::settings()),
    };
    let sql = match text {
        Some(text) => text.to_string(),
        None => displayed(&statement)?,
    };
    Ok(SqlStatement::Query(QueryStatement { sql, tables, kind }))
}

fn explained(statement: &DFStatement) -> Result<&Query> {
    if let DFStatement::Statement(inner) = statement
        && let Statement::Query(query) = inner.as_ref()
    {
        return Ok(query);
    }
    Err(Error::unimplemented("only queries can be explained: write EXPLAIN SELECT"))
}

fn update(statement: &Statement) -> Result<UpdateStatement> {
    match statement {
        Statement::CreateTable(table) => create::create_table(table),
        Statement::Insert(statement) => insert(statement),
        Statement::Drop {
            object_type: ObjectType::Table,
            if_exists,
            names,
            cascade: false,
            restrict: _,
            purge: false,
            temporary: false,
            table: None,
        } => match names.as_slice() {
            [name] => Ok(UpdateStatement::DropTable { table: tables::of_target(name)?, if_exists: *if_exists }),
            _ => Err(Error::unimplemented("DROP TABLE drops one table: write a statement for each")),
        },
        other => Err(refuse::unsupported(other)),
    }
}

/// Every field is named, so that none is ignored.
fn insert(statement: &Insert) -> Result<UpdateStatement> {
    let Insert {
        insert_token: _,
        optimizer_hints,
        or,
        ignore,
        into: _,
        table,
        table_alias,
        columns,
        overwrite,
        source,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword: _,
        on,
        returning,
        output,
        replace_into,
        priority,
        insert_alias,
        settings,
        format_clause,
        multi_table_insert_type,
        multi_table_into_clauses,
        multi_table_when_clauses,
        multi_table_else_clause,
    } = statement;
    if *overwrite || *replace_into {
        return Err(Error::unimplemented(
            "INSERT adds rows and replaces none: write CREATE OR REPLACE TABLE name AS SELECT, or put with mode replace",
        ));
    }
    if or.is_some() || *ignore || on.is_some() {
        return Err(Error::unimplemented(
            "INSERT has no conflicts, since tables have no unique keys: leave the clause out",
        ));
    }
    if returning.is_some() || output.is_some() {
        return Err(Error::unimplemented("INSERT gives the number of rows only: leave RETURNING out"));
    }
    let other = !optimizer_hints.is_empty()
        || table_alias.is_some()
        || !assignments.is_empty()
        || partitioned.is_some()
        || !after_columns.is_empty()
        || priority.is_some()
        || insert_alias.is_some()
        || settings.is_some()
        || format_clause.is_some()
        || multi_table_insert_type.is_some()
        || !multi_table_into_clauses.is_empty()
        || !multi_table_when_clauses.is_empty()
        || multi_table_else_clause.is_some();
    let (TableObject::TableName(name), Some(source), false) = (table, source, other) else {
        return Err(Error::unimplemented(
            "this form of INSERT is not supported: write INSERT INTO name (columns) with VALUES or SELECT",
        ));
    };
    let columns = match columns.as_slice() {
        [] => None,
        columns => Some(columns.iter().map(column).collect::<Result<_>>()?),
    };
    Ok(UpdateStatement::Insert { table: tables::of_target(name)?, columns, query: query_statement(source)? })
}

fn column(name: &ObjectName) -> Result<String> {
    let part = match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    };
    part.map(normalized).ok_or_else(|| {
        Error::invalid(format!("INSERT names the column {name}: only the table's own columns have values"))
    })
}
