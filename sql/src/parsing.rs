//! Parsing of SQL text within bounds of time.
//!
//! Where the parser cannot read a word such as `CAST` as an expression of its own, it reads it as a name once more. So an error
//! within nested ones is found after twice as many attempts for each level: with forty levels never. The dialect is asked at
//! each attempt, and lets none begin after more than an error within a few levels takes.
//!
//! What was parsed has the precedence of SQL's operators ([`precedence`]).

pub(crate) mod precedence;

use std::cell::Cell;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParser, DFParserBuilder};
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{TokenWithSpan, Tokenizer};
use volley_common::{Error, Result};

use self::precedence::RepairPrecedence;
use crate::fault::from_datafusion;

/// The dialect of all SQL, which is the engine's default.
static DIALECT: GenericDialect = GenericDialect {};

/// Attempts that each text may take, and more for each of its tokens: without an error one token takes at most one.
const ATTEMPTS: usize = 10_000;
const ATTEMPTS_PER_TOKEN: usize = 8;

/// The tokens of a text. `what` begins the error's sentence, for example "the filter".
///
/// # Errors
/// INVALID_ARGUMENT: it is not SQL.
pub(crate) fn tokens_of(text: &str, what: &str) -> Result<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&DIALECT, text).tokenize_with_location();
    tokens.map_err(|e| Error::invalid(format!("{what} is not SQL: {e}")))
}

/// What `parse` reads from these tokens.
///
/// # Errors
/// Those of the parser. INVALID_ARGUMENT: it found none in time.
pub(crate) fn parse_tokens<T: RepairPrecedence>(
    tokens: Vec<TokenWithSpan>,
    parse: impl FnOnce(&mut DFParser<'_>) -> std::result::Result<T, DataFusionError>,
) -> Result<T> {
    let dialect = BoundedDialect { attempts: Cell::new(ATTEMPTS + ATTEMPTS_PER_TOKEN * tokens.len()) };
    let parsed = DFParserBuilder::new(tokens).with_dialect(&dialect).build().and_then(|mut parser| parse(&mut parser));
    match parsed {
        Ok(mut parsed) => {
            parsed.repair_precedence();
            Ok(parsed)
        }
        Err(_) if dialect.attempts.get() == 0 => Err(Error::invalid(
            "an error is within nested expressions, or they are nested too deeply: try parts of the text",
        )),
        Err(error) => Err(from_datafusion(error)),
    }
}

/// What `parse` reads from a text that something parsed shows: the same again, unless the text means something else.
///
/// # Errors
/// Those of [`tokens_of`] and [`parse_tokens`].
pub(crate) fn reparse<T: RepairPrecedence>(
    text: &str,
    parse: impl FnOnce(&mut DFParser<'_>) -> std::result::Result<T, DataFusionError>,
) -> Result<T> {
    parse_tokens(tokens_of(text, "the text")?, parse)
}

/// The dialect of one text.
#[derive(Debug)]
struct BoundedDialect {
    /// How many more times the parser may begin an expression or a query.
    attempts: Cell<usize>,
}

impl BoundedDialect {
    /// Whether one more attempt is permitted.
    fn attempt(&self) -> bool {
        let left = self.attempts.get();
        self.attempts.set(left.saturating_sub(1));
        left > 0
    }
}

/// Methods that answer as [`DIALECT`] does: all of its own.
macro_rules! same_as_dialect {
    ($($name:ident,)*) => {
        $(fn $name(&self) -> bool {
            DIALECT.$name()
        })*
    };
}

impl Dialect for BoundedDialect {
    fn dialect(&self) -> std::any::TypeId {
        DIALECT.dialect()
    }

    fn parse_prefix(&self, _: &mut Parser<'_>) -> Option<std::result::Result<Expr, ParserError>> {
        // The parser tries nothing else after this error.
        (!self.attempt()).then_some(Err(ParserError::RecursionLimitExceeded))
    }

    // Of the queries only these forms have no expression.

    fn supports_from_first_select(&self) -> bool {
        self.attempt()
    }

    fn supports_empty_projections(&self) -> bool {
        self.attempt()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        DIALECT.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        DIALECT.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        DIALECT.is_identifier_part(ch)
    }

    same_as_dialect! {
        supports_unicode_string_literal,
        supports_partition_by_after_order_by,
        supports_array_join_syntax,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens,
        supports_connect_by,
        supports_match_recognize,
        supports_pipe_operator,
        supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg,
        supports_dictionary_syntax,
        supports_window_clause_named_window_reference,
        supports_parenthesized_set_variables,
        supports_select_wildcard_except,
        support_map_literal_syntax,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_extract_comma_syntax,
        supports_create_view_comment_syntax,
        supports_parens_around_table_factor,
        supports_values_as_table_factor,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_limit_comma,
        supports_update_order_by,
        supports_projection_trailing_commas,
        supports_asc_desc_in_column_definition,
        supports_try_convert,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_assignment_operator,
        supports_struct_literal,
        supports_nested_comments,
        supports_multiline_comment_hints,
        supports_user_host_grantee,
        supports_string_escape_constant,
        supports_array_typedef_with_brackets,
        supports_match_against,
        supports_set_names,
        supports_comma_separated_set_assignments,
        supports_filter_during_aggregation,
        supports_select_wildcard_exclude,
        supports_data_type_signed_suffix,
        supports_interval_options,
        supports_quote_delimited_string,
        supports_select_wildcard_replace,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_optimize_table,
        supports_install,
        supports_detach,
        supports_prewhere,
        supports_with_fill,
        supports_limit_by,
        supports_interpolate,
        supports_settings,
        supports_select_format,
        supports_comment_optimizer_hint,
        supports_constraint_keyword_without_name,
        supports_key_column_option,
        supports_comma_separated_trim,
        supports_cte_without_as,
        supports_select_item_multi_column_alias,
        supports_xml_expressions,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String> {
        reparse(text, |parser| parser.parse_into_expr()).map(|parsed| parsed.expr.to_string())
    }

    #[test]
    fn errors_within_nested_expressions_are_found_in_time() {
        let nested = |template: &str, levels: usize, leaf: &str| {
            (0..levels).fold(leaf.to_string(), |inner, _| template.replace("{}", &inner))
        };
        for template in
            ["CAST({} AS INT)", "CASE WHEN {} THEN 1 END", "EXTRACT(DAY FROM {})", "EXISTS (SELECT {})", "TRIM({})"]
        {
            for levels in [20, 40, 63] {
                let error = parse(&nested(template, levels, "1 +")).unwrap_err();
                let expected = error.message.contains("an error is within") || !template.starts_with("CAST");
                assert!(expected, "{template}, {levels}: {error}");
            }
            assert_eq!(parse(&nested(template, 12, "a")).unwrap(), nested(template, 12, "a"), "{template}");
        }
        for query in ["FROM (({}))", "SELECT FROM (({}))", "SELECT 1 FROM (({}))"] {
            parse(&format!("EXISTS ({})", nested(query, 30, "SELECT 1 FROM (("))).unwrap_err();
        }
        let error = parse("CAST(a AS INT").unwrap_err();
        assert!(error.message.contains("Expected: )"), "{error}");
        // A function, although its name begins an expression.
        assert_eq!(parse("position(a, b)").unwrap(), "position(a, b)");
    }
}
