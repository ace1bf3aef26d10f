//! Tables as SQL names them: one catalog, a schema for each folder, and the rules of case and quotes.
//!
//! Table `a/b/c` is table `c` of schema `a/b`; table `c` is in schema `default`. A name has one spelling that
//! [`SqlName::of`] gives and metadata shows; [`SqlName::table_name`] also accepts others, such as `"a/b/c"` without a schema.

use std::borrow::Cow;
use std::fmt;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use volley_common::{Error, Result, TableName};

/// The only catalog.
pub const CATALOG: &str = "volley";
/// The schema of tables whose names have one component.
pub const DEFAULT_SCHEMA: &str = "default";
/// The schema of the views that describe the tables. No table is in it.
pub const INFORMATION_SCHEMA: &str = "information_schema";

/// Longest name for which a similar one is searched, bytes.
const MAX_SUGGESTED: usize = 128;

/// A table's name in the catalog [`CATALOG`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlName {
    /// All components of the table's name but the last, joined by `/`; or [`DEFAULT_SCHEMA`].
    pub schema: String,
    /// The last component; the whole name in the default schema.
    pub table: String,
}

impl SqlName {
    /// The name of a table. Different tables have different names.
    ///
    /// ```
    /// use volley_sql::names::SqlName;
    /// let name = SqlName::of(&"sales/2026/orders".parse()?);
    /// assert_eq!((name.schema.as_str(), name.table.as_str()), ("sales/2026", "orders"));
    /// # Ok::<(), volley_common::Error>(())
    /// ```
    pub fn of(name: &TableName) -> Self {
        let whole = || SqlName { schema: DEFAULT_SCHEMA.into(), table: name.to_string() };
        match name.components().split_last() {
            Some((table, folders)) if !folders.is_empty() => match folders.join("/") {
                // These schemas are taken.
                schema if schema == DEFAULT_SCHEMA || schema == INFORMATION_SCHEMA => whole(),
                schema => SqlName { schema, table: table.clone() },
            },
            _ => whole(),
        }
    }

    /// The table of this name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an empty component, too long, or too many components.
    pub fn table_name(&self) -> Result<TableName> {
        match self.schema.as_str() {
            DEFAULT_SCHEMA => self.table.parse(),
            schema => TableName::from_components(&[schema, &self.table]),
        }
    }

    /// A name in a statement, after unquoted parts are folded to lower case.
    ///
    /// # Errors
    /// NOT_FOUND: another catalog.
    pub fn from_reference(reference: &TableReference) -> Result<Self> {
        if let Some(catalog) = reference.catalog()
            && catalog != CATALOG
        {
            let (schema, table) = (reference.schema().unwrap_or(DEFAULT_SCHEMA), reference.table());
            let path = quote(&format!("{catalog}/{schema}")).into_owned();
            return Err(Error::not_found(format!(
                "there is no catalog {catalog:?}, only {CATALOG:?}: table {:?} is {path}.{}",
                format!("{catalog}/{schema}/{table}"),
                quote(table)
            )));
        }
        let schema = reference.schema().unwrap_or(DEFAULT_SCHEMA).to_string();
        Ok(SqlName { schema, table: reference.table().to_string() })
    }
}

impl fmt::Display for SqlName {
    /// As a statement has it: `"a/b".c`, or `c` in the default schema.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema != DEFAULT_SCHEMA {
            write!(f, "{}.", quote(&self.schema))?;
        }
        f.write_str(&quote(&self.table))
    }
}

/// An identifier as a statement must have it: as it is if it is lower case and not a keyword, else in double quotes.
pub fn quote(identifier: &str) -> Cow<'_, str> {
    let mut chars = identifier.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !ALL_KEYWORDS.contains(&identifier.to_ascii_uppercase().as_str());
    match plain {
        true => Cow::Borrowed(identifier),
        false => Cow::Owned(format!("\"{}\"", identifier.replace('"', "\"\""))),
    }
}

/// The known name that is probably meant: the same in another case if there is one, else one with few differences.
pub fn suggest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    // A difference for every third character, at most three.
    let most = (wanted.chars().count() / 3).clamp(1, 3);
    let mut closest: Option<(usize, &str)> = None;
    for name in known {
        if name.to_lowercase() == lower {
            return Some(name);
        }
        if name.len() > MAX_SUGGESTED || wanted.len() > MAX_SUGGESTED {
            continue;
        }
        let distance = strsim::osa_distance(&lower, &name.to_lowercase());
        if distance <= most && closest.is_none_or(|(least, _)| distance < least) {
            closest = Some((distance, name));
        }
    }
    closest.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> SqlName {
        SqlName::of(&name.parse().unwrap())
    }

    #[test]
    fn schema_is_all_components_but_the_last() {
        for (name, schema, table) in [
            ("c", "default", "c"),
            ("a/c", "a", "c"),
            ("a/b/c", "a/b", "c"),
            ("data/w.csv", "data", "w.csv"),
            ("default/c", "default", "default/c"),
            ("information_schema/tables", "default", "information_schema/tables"),
            ("default/b/c", "default/b", "c"),
        ] {
            assert_eq!(of(name), SqlName { schema: schema.into(), table: table.into() }, "{name}");
        }
    }

    #[test]
    fn names_round_trip_and_stay_different() {
        let names = ["c", "default/c", "default/default/c", "a/c", "a/default", "information_schema/x", "Ä b/\"q\".c"];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            assert_eq!(of(name).table_name().unwrap().to_string(), name);
            assert!(seen.insert(of(name)), "{name}");
        }
    }

    #[test]
    fn reference_without_schema_is_in_the_default_schema() {
        let name = SqlName::from_reference(&TableReference::bare("a/b/c")).unwrap();
        assert_eq!(name.table_name().unwrap(), "a/b/c".parse().unwrap());
        let name = SqlName::from_reference(&TableReference::partial("a/b", "c")).unwrap();
        assert_eq!(name, of("a/b/c"));
        let name = SqlName::from_reference(&TableReference::full("volley", "default", "c")).unwrap();
        assert_eq!(name, of("c"));
    }

    #[test]
    fn other_catalog_is_not_found_with_the_right_spelling() {
        let error = SqlName::from_reference(&TableReference::full("a", "b", "c")).unwrap_err();
        assert_eq!(error.code, volley_common::Code::NotFound);
        assert!(error.message.ends_with("table \"a/b/c\" is \"a/b\".c"), "{error}");
    }

    #[test]
    fn invalid_name_is_rejected() {
        let name = SqlName::from_reference(&TableReference::partial("a//b", "c")).unwrap();
        assert_eq!(name.table_name().unwrap_err().code, volley_common::Code::InvalidArgument);
        assert!(SqlName::from_reference(&TableReference::bare("")).unwrap().table_name().is_err());
    }

    #[test]
    fn display_quotes_what_would_change_or_not_parse() {
        for (name, shown) in [
            ("c", "c"),
            ("a/c", "a.c"),
            ("a/b/c", "\"a/b\".c"),
            ("Sales/c1", "\"Sales\".c1"),
            ("select", "\"select\""),
            ("1c", "\"1c\""),
            ("q\"q", "\"q\"\"q\""),
        ] {
            assert_eq!(of(name).to_string(), shown);
        }
    }

    #[test]
    fn suggestion_prefers_another_case_to_fewer_differences() {
        let known = ["price1", "PRICE", "pride"];
        assert_eq!(suggest("price", known.into_iter()), Some("PRICE"));
        assert_eq!(suggest("prico1", known.into_iter()), Some("price1"));
        assert_eq!(suggest("quantity", known.into_iter()), None);
        assert_eq!(suggest("x", std::iter::empty()), None);
    }
}
