//! Versions and parameters in the text for the engine.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::planner::{IdentNormalizer, object_name_to_table_reference};
use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, Statement, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Whitespace, Word};
use volley_common::{Error, Result};

use super::{looks_versioned, versioned};
use crate::names::{CATALOG, INFORMATION_SCHEMA, SqlName};

/// Between a table's name and its version, until the statement is parsed. No table's name has it.
const MARK: char = '\u{1}';

/// Moves each `FOR VERSION AS OF n` into the name before it, since the parser does not know the clause. Returns how many
/// there were.
///
/// # Errors
/// INVALID_ARGUMENT: it follows no name, or the version is no whole number. UNIMPLEMENTED: a time instead of a version.
pub(super) fn mark_versions(tokens: &mut [TokenWithSpan]) -> Result<usize> {
    if tokens.iter().any(|token| matches!(&token.token, Token::Word(word) if word.value.contains(MARK))) {
        return Err(Error::invalid("a name in the statement has the control character U+0001: leave it out"));
    }
    let places: Vec<usize> = (0..tokens.len()).filter(|at| !is_blank(&tokens[*at])).collect();
    let mut found = 0;
    for place in 0..places.len() {
        let Some((first, version)) = clause_at(tokens, &places, place)? else { continue };
        let Some(name) = first.checked_sub(1).map(|place| places[place]) else { return Err(misplaced()) };
        let Token::Word(table) = &tokens[name].token else { return Err(misplaced()) };
        let marked = format!("{}{MARK}{version}", normalized(&table.to_ident(Span::empty())));
        tokens[name].token = Token::Word(Word { value: marked, quote_style: Some('"'), keyword: Keyword::NoKeyword });
        for at in &places[first..place + 4] {
            tokens[*at].token = Token::Whitespace(Whitespace::Space);
        }
        found += 1;
    }
    Ok(found)
}

/// The clause whose word VERSION is at this place: the place of its first word, and the version.
fn clause_at(tokens: &[TokenWithSpan], places: &[usize], place: usize) -> Result<Option<(usize, u64)>> {
    let keyword = |place: usize| match places.get(place).map(|at| &tokens[*at].token) {
        Some(Token::Word(word)) => word.keyword,
        _ => Keyword::NoKeyword,
    };
    if keyword(place + 1) != Keyword::AS || keyword(place + 2) != Keyword::OF {
        return Ok(None);
    }
    let after_for = place > 0 && keyword(place - 1) == Keyword::FOR;
    match keyword(place) {
        Keyword::VERSION => {}
        Keyword::SYSTEM_TIME | Keyword::TIMESTAMP if after_for => {
            return Err(Error::unimplemented(
                "a table is read at a version, not at a time: write FOR VERSION AS OF with a number",
            ));
        }
        _ => return Ok(None),
    }
    let version = match places.get(place + 3).map(|at| &tokens[*at].token) {
        Some(Token::Number(digits, false)) => digits.parse::<u64>().ok(),
        _ => None,
    };
    match version {
        Some(version) => Ok(Some((place - usize::from(after_for), version))),
        // A column `version` may be called `of`.
        None if !after_for => Ok(None),
        None => Err(Error::invalid("FOR VERSION AS OF needs a whole number, as in FROM t FOR VERSION AS OF 7")),
    }
}

fn is_blank(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

fn misplaced() -> Error {
    Error::invalid(
        "FOR VERSION AS OF belongs after a table's name in FROM, before its alias: FROM t FOR VERSION AS OF 7 AS old",
    )
}

/// Makes `$1`, `$2` of the parameters `?`. Returns how many there were.
///
/// # Errors
/// INVALID_ARGUMENT: both kinds.
pub(super) fn number_parameters(tokens: &mut [TokenWithSpan]) -> Result<usize> {
    let (mut found, mut named) = (0, false);
    for token in tokens {
        match &mut token.token {
            Token::Placeholder(name) if name.as_str() == "?" => {
                found += 1;
                *name = format!("${found}");
            }
            Token::Placeholder(_) => named = true,
            _ => {}
        }
    }
    match found > 0 && named {
        true => Err(Error::invalid("the statement has parameters of two kinds: write all as ?, or all as $1, $2")),
        false => Ok(found),
    }
}

/// Gives tables the names that the engine knows them by. Returns whether one was changed.
///
/// # Errors
/// INVALID_ARGUMENT: one of the `versions` that were marked does not belong to a table that is read.
pub(super) fn rename_tables(statement: &mut DFStatement, versions: usize) -> Result<bool> {
    let mut renamer = TableRenamer { versions: 0, renamed: false };
    visit(statement, &mut renamer);
    match renamer.versions == versions {
        true => Ok(renamer.renamed),
        false => Err(misplaced()),
    }
}

fn visit(statement: &mut DFStatement, renamer: &mut TableRenamer) {
    match statement {
        DFStatement::Statement(statement) => {
            let ControlFlow::Continue(()) = (**statement).visit(renamer);
        }
        DFStatement::Explain(explain) => visit(&mut explain.statement, renamer),
        DFStatement::CreateExternalTable(_) | DFStatement::CopyTo(_) | DFStatement::Reset(_) => {}
    }
}

struct TableRenamer {
    versions: usize,
    renamed: bool,
}

impl TableRenamer {
    /// The table's name without the version, if it is renamed.
    fn rename(&mut self, name: &mut ObjectName) -> Option<String> {
        let Some(ObjectNamePart::Identifier(last)) = name.0.last_mut() else { return None };
        let text = normalized(last);
        let (table, version) = match text.split_once(MARK) {
            Some((table, version)) => (table, Some(version.parse().ok()?)),
            None if looks_versioned(&text) => (text.as_str(), None),
            None => return None,
        };
        self.versions += usize::from(version.is_some());
        self.renamed = true;
        *last = Ident::with_quote('"', versioned(table, version));
        Some(table.to_string())
    }
}

impl VisitorMut for TableRenamer {
    type Break = std::convert::Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, alias, args: None, .. } = factor
            && let Some(table) = self.rename(name)
        {
            let name = Ident::with_quote('"', table);
            alias.get_or_insert_with(|| TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<Self::Break> {
        match statement {
            Statement::ExplainTable { table_name, .. } => {
                self.rename(table_name);
            }
            Statement::ShowColumns { show_options, .. } => {
                if let Some(name) = show_options.show_in.as_mut().and_then(|shown| shown.parent_name.as_mut())
                    && let Some(whole) = whole_name(name)
                {
                    *name = whole;
                    self.renamed = true;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Catalog, schema and table of a name: the engine shows the columns of all tables that have the given parts. `None`: no table can
/// have the name.
fn whole_name(name: &ObjectName) -> Option<ObjectName> {
    let reference = object_name_to_table_reference(name.clone(), true).ok()?;
    let given = SqlName::from_reference(&reference).ok().filter(|given| given.schema != INFORMATION_SCHEMA)?;
    let SqlName { schema, table } = SqlName::of(&given.table_name().ok()?);
    let parts = [CATALOG, &schema, &table];
    Some(parts.map(|part| Ident::with_quote('"', part)).to_vec().into())
}

/// A name in lower case unless it is quoted.
pub(super) fn normalized(name: &Ident) -> String {
    IdentNormalizer::new(true).normalize(name.clone())
}
