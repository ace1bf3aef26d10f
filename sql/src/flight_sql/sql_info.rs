//! The reply to GetSqlInfo. JDBC requests all of it at once, and reads what is missing as no or 0.
//!
//! A value has the type that JDBC's driver reads: numbers of limits are 64-bit, values of enums are 32-bit, and sets of them are
//! bits of a 32-bit number.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::ARROW_VERSION;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, UInt32Type};
use arrow_flight::sql::metadata::SqlInfoDataBuilder;
use arrow_flight::sql::{
    SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity, SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction,
    SqlSupportedUnions, SqlTransactionIsolationLevel, SupportedSqlGrammar,
};
use datafusion::functions;
use datafusion::logical_expr::ScalarUDF;
use volley_common::{Error, Result, name};

/// Words that mean something here and that the SQL standard does not reserve.
const KEYWORDS: &[&str] = &["ANTI", "EXPLAIN", "ILIKE", "LIMIT", "OFFSET", "QUALIFY", "SEMI", "SHOW"];
/// The bit of the entry level in the levels of SQL-92, whose enum arrow-flight does not export.
const ENTRY_LEVEL: i32 = 1;

/// The schema of [`batch`].
pub(super) fn schema() -> SchemaRef {
    Arc::new(SqlInfoDataBuilder::schema().clone())
}

/// The values of these numbers, in their order; of no number: all. Numbers without a value are left out.
pub(super) fn batch(numbers: &[u32]) -> Result<RecordBatch> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("the reply of GetSqlInfo cannot be built: {e}"));
    let all = values().build().and_then(|data| data.record_batch([])).map_err(|e| failed(&e))?;
    if numbers.is_empty() {
        return Ok(all);
    }
    let wanted: BTreeSet<u32> = numbers.iter().copied().collect();
    let known = all.column(0).as_primitive::<UInt32Type>().values();
    let is_wanted: BooleanArray = known.iter().map(|number| Some(wanted.contains(number))).collect();
    filter_record_batch(&all, &is_wanted).map_err(|e| failed(&e))
}

fn values() -> SqlInfoDataBuilder {
    let mut values = SqlInfoDataBuilder::new();
    server(&mut values);
    names(&mut values);
    words(&mut values);
    queries(&mut values);
    limits(&mut values);
    transactions(&mut values);
    results(&mut values);
    values
}

/// The bits of values of an enum.
fn bits(values: &[i32]) -> i32 {
    values.iter().fold(0, |bits, value| bits | (1 << value))
}

fn server(values: &mut SqlInfoDataBuilder) {
    values.append(SqlInfo::FlightSqlServerName, "Volley");
    values.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    values.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_VERSION);
    values.append(SqlInfo::FlightSqlServerReadOnly, false);
    values.append(SqlInfo::FlightSqlServerSql, true);
    values.append(SqlInfo::FlightSqlServerSubstrait, false);
    values.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    values.append(SqlInfo::FlightSqlServerCancel, true);
    values.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    values.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    // Handles of prepared statements never expire.
    values.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    values.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    values.append(SqlInfo::SqlDdlCatalog, false);
    values.append(SqlInfo::SqlDdlSchema, false);
    values.append(SqlInfo::SqlDdlTable, true);
}

fn names(values: &mut SqlInfoDataBuilder) {
    let case = |case: SqlSupportedCaseSensitivity| case as i32;
    values.append(SqlInfo::SqlIdentifierCase, case(SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase));
    // Quoted names are case-sensitive, for which the enum has no value.
    values.append(SqlInfo::SqlQuotedIdentifierCase, case(SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown));
    values.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    values.append(SqlInfo::SqlSearchStringEscape, "\\");
    values.append(SqlInfo::SqlExtraNameCharacters, "");
    values.append(SqlInfo::SqlAllTablesAreSelectable, true);
    values.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    values.append(SqlInfo::SqlSchemaTerm, "schema");
    values.append(SqlInfo::SqlProcedureTerm, "procedure");
    values.append(SqlInfo::SqlCatalogTerm, "catalog");
    values.append(SqlInfo::SqlCatalogAtStart, true);
    values.append(SqlInfo::SqlSchemasSupportedActions, 0_i32);
    values.append(SqlInfo::SqlCatalogsSupportedActions, 0_i32);
}

fn words(values: &mut SqlInfoDataBuilder) {
    values.append(SqlInfo::SqlKeywords, KEYWORDS);
    values.append(SqlInfo::SqlNumericFunctions, function_names([functions::math::functions()]));
    let texts = [functions::string::functions(), functions::unicode::functions(), functions::regex::functions()];
    values.append(SqlInfo::SqlStringFunctions, function_names(texts));
    values.append(SqlInfo::SqlSystemFunctions, function_names([functions::core::functions()]));
    values.append(SqlInfo::SqlDatetimeFunctions, function_names([functions::datetime::functions()]));
}

/// The names of functions, each once.
fn function_names<const N: usize>(packages: [Vec<Arc<ScalarUDF>>; N]) -> Vec<String> {
    let names = packages.iter().flatten().map(|function| function.name().to_string());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn queries(values: &mut SqlInfoDataBuilder) {
    values.append(SqlInfo::SqlSupportsColumnAliasing, true);
    values.append(SqlInfo::SqlNullPlusNullIsNull, true);
    // There is CAST, but no function CONVERT.
    values.append(SqlInfo::SqlSupportsConvert, HashMap::<i32, Vec<i32>>::new());
    values.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    values.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    values.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    values.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    let group_by = [SqlSupportedGroupBy::SqlGroupByUnrelated, SqlSupportedGroupBy::SqlGroupByBeyondSelect];
    values.append(SqlInfo::SqlSupportedGroupBy, bits(&group_by.map(|value| value as i32)));
    // Only with a backslash, which is the escape character anyway.
    values.append(SqlInfo::SqlSupportsLikeEscapeClause, false);
    values.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    let grammar = [SupportedSqlGrammar::SqlMinimumGrammar, SupportedSqlGrammar::SqlCoreGrammar];
    values.append(SqlInfo::SqlSupportedGrammar, bits(&grammar.map(|value| value as i32)));
    values.append(SqlInfo::SqlAnsi92SupportedLevel, ENTRY_LEVEL);
    values.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    let joins = [SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins, SqlOuterJoinsSupportLevel::SqlFullOuterJoins];
    values.append(SqlInfo::SqlOuterJoinsSupportLevel, bits(&joins.map(|value| value as i32)));
    values.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
    values.append(SqlInfo::SqlSelectForUpdateSupported, false);
    values.append(SqlInfo::SqlStoredProceduresSupported, false);
    let subqueries = [
        SqlSupportedSubqueries::SqlSubqueriesInComparisons,
        SqlSupportedSubqueries::SqlSubqueriesInExists,
        SqlSupportedSubqueries::SqlSubqueriesInIns,
    ];
    values.append(SqlInfo::SqlSupportedSubqueries, bits(&subqueries.map(|value| value as i32)));
    values.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    let unions = [SqlSupportedUnions::SqlUnion, SqlSupportedUnions::SqlUnionAll];
    values.append(SqlInfo::SqlSupportedUnions, bits(&unions.map(|value| value as i32)));
}

/// Limits: 0 where there is none, or none that is known.
fn limits(values: &mut SqlInfoDataBuilder) {
    for limit in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatementLength,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        values.append(limit, 0_i64);
    }
    // Of the schema and the table together.
    values.append(SqlInfo::SqlDbSchemaNameLength, name::MAX_BYTES as i64);
    values.append(SqlInfo::SqlMaxTableNameLength, name::MAX_BYTES as i64);
    values.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, false);
}

fn transactions(values: &mut SqlInfoDataBuilder) {
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    values.append(SqlInfo::SqlDefaultTransactionIsolation, i64::from(none));
    values.append(SqlInfo::SqlTransactionsSupported, false);
    values.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, bits(&[none]));
    values.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    values.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    values.append(SqlInfo::SqlSavepointsSupported, false);
}

fn results(values: &mut SqlInfoDataBuilder) {
    let forward_only = SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32;
    values.append(SqlInfo::SqlSupportedResultSetTypes, bits(&[forward_only]));
    let read_only = SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32;
    values.append(SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0_i32);
    values.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, bits(&[read_only]));
    values.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0_i32);
    values.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0_i32);
    // A prepared INSERT adds a row for each row of parameters, all of them or none.
    values.append(SqlInfo::SqlBatchUpdatesSupported, true);
    values.append(SqlInfo::SqlNamedParametersSupported, false);
    values.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    values.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{Array, ArrayRef};
    use arrow::datatypes::{Int32Type, Int64Type};

    use super::*;

    fn numbers(batch: &RecordBatch) -> Vec<u32> {
        batch.column(0).as_primitive::<UInt32Type>().values().to_vec()
    }

    fn value(info: SqlInfo) -> ArrayRef {
        let batch = batch(&[info as u32]).unwrap();
        assert_eq!(numbers(&batch), [info as u32]);
        batch.column(1).as_union().value(0)
    }

    fn text(info: SqlInfo) -> String {
        value(info).as_string::<i32>().value(0).to_string()
    }

    fn list(info: SqlInfo) -> Vec<String> {
        let list = value(info).as_list::<i32>().value(0);
        list.as_string::<i32>().iter().map(|name| name.unwrap().to_string()).collect()
    }

    #[test]
    fn every_number_from_ddl_to_call_syntax_has_a_value() {
        let all = numbers(&batch(&[]).unwrap());
        for number in (0..=5).chain(8..=11).chain(100..=101).chain(500..=576) {
            assert!(all.contains(&number), "{number}");
        }
        assert!(all.is_sorted());
    }

    #[test]
    fn values_have_the_types_that_jdbc_reads() {
        assert_eq!(
            (text(SqlInfo::SqlIdentifierQuoteChar), text(SqlInfo::SqlSearchStringEscape)),
            ("\"".into(), "\\".into())
        );
        assert_eq!(text(SqlInfo::FlightSqlServerName), "Volley");
        assert!(!value(SqlInfo::FlightSqlServerReadOnly).as_boolean().value(0));
        assert!(!value(SqlInfo::SqlTransactionsSupported).as_boolean().value(0));
        assert_eq!(value(SqlInfo::FlightSqlServerTransaction).as_primitive::<Int32Type>().value(0), 0);
        assert_eq!(value(SqlInfo::SqlSupportedGroupBy).as_primitive::<Int32Type>().value(0), 3);
        assert_eq!(value(SqlInfo::SqlOuterJoinsSupportLevel).as_primitive::<Int32Type>().value(0), 6);
        assert_eq!(value(SqlInfo::SqlDefaultTransactionIsolation).as_primitive::<Int64Type>().value(0), 0);
        assert_eq!(value(SqlInfo::SqlMaxTableNameLength).as_primitive::<Int64Type>().value(0), 1024);
        assert_eq!(value(SqlInfo::SqlSupportsConvert).as_map().value(0).len(), 0);
    }

    #[test]
    fn functions_are_those_of_the_engine() {
        assert!(list(SqlInfo::SqlNumericFunctions).contains(&"sqrt".to_string()));
        assert!(list(SqlInfo::SqlStringFunctions).contains(&"upper".to_string()));
        assert!(list(SqlInfo::SqlDatetimeFunctions).contains(&"date_trunc".to_string()));
        assert!(list(SqlInfo::SqlSystemFunctions).contains(&"coalesce".to_string()));
        assert!(list(SqlInfo::SqlKeywords).contains(&"EXPLAIN".to_string()));
    }

    #[test]
    fn unknown_and_repeated_numbers_give_no_rows() {
        assert_eq!(numbers(&batch(&[504, 4, 504, 9999, u32::MAX]).unwrap()), [4, 504]);
        assert_eq!(batch(&[9999]).unwrap().num_rows(), 0);
        assert_eq!(batch(&vec![504; 100_000]).unwrap().num_rows(), 1);
    }
}
