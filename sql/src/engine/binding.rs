//! Which of a statement's tables a name in its text means.
//!
//! A statement that was planned before has the versions that it was planned with in its list of tables, not in its text: a name
//! without a version means the table of that name that no name with a version means.

use volley_common::{Error, Result};

use crate::statement::TableAt;

/// The index in `tables` of what each name in the text means; none for what is not among them, such as a function that gives
/// rows.
///
/// # Errors
/// INVALID_ARGUMENT: a name means several versions.
pub(super) fn bind(names: &[TableAt], tables: &[TableAt]) -> Result<Vec<Option<usize>>> {
    names.iter().map(|name| bind_one(name, names, tables)).collect()
}

fn bind_one(name: &TableAt, names: &[TableAt], tables: &[TableAt]) -> Result<Option<usize>> {
    if let Some(exact) = tables.iter().position(|table| table == name) {
        return Ok(Some(exact));
    }
    if name.version.is_some() {
        return Ok(None);
    }
    let mut versions: Vec<usize> = (0..tables.len()).filter(|at| tables[*at].name == name.name).collect();
    let is_named = |at: &usize| names.contains(&tables[*at]);
    // If all of them are named with their versions, the version that was the newest is one of these.
    if !versions.iter().all(is_named) {
        versions.retain(|at| !is_named(at));
    }
    let Some(first) = versions.first().copied() else { return Ok(None) };
    if versions.iter().any(|at| tables[*at] != tables[first]) {
        let name = &name.name;
        return Err(Error::invalid(format!(
            "it is not known which version of table {name} is meant: write FOR VERSION AS OF at each place"
        )));
    }
    Ok(Some(first))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(name: &str, version: Option<u64>) -> TableAt {
        TableAt { name: name.parse().unwrap(), version }
    }

    #[test]
    fn names_with_and_without_versions_are_told_apart() {
        let tables = [at("t", None), at("t", Some(1)), at("a/b/t", Some(1))];
        let names = [at("t", Some(1)), at("t", None), at("a/b/t", Some(1)), at("generate_series", None)];
        assert_eq!(bind(&names, &tables).unwrap(), [Some(1), Some(0), Some(2), None]);
        assert_eq!(bind(&[at("t", Some(2))], &tables).unwrap(), [None]);
    }

    #[test]
    fn pinned_versions_keep_the_meaning_of_names() {
        let (newest, old) = (at("t", Some(7)), at("t", Some(5)));
        let pinned = [newest.clone(), old.clone()];
        assert_eq!(bind(&[at("t", None)], &pinned[..1]).unwrap(), [Some(0)]);
        assert_eq!(bind(&[at("t", None), old.clone()], &pinned).unwrap(), [Some(0), Some(1)]);
        assert_eq!(bind(&[old.clone(), at("t", None)], &[old, newest]).unwrap(), [Some(0), Some(1)]);
    }

    #[test]
    fn newest_version_may_be_one_that_the_text_names() {
        let names = [at("t", None), at("t", Some(5))];
        assert_eq!(bind(&names, &[at("t", Some(5)), at("t", Some(5))]).unwrap(), [Some(0), Some(0)]);
        assert_eq!(bind(&names, &[at("t", Some(5))]).unwrap(), [Some(0), Some(0)]);
    }

    #[test]
    fn name_that_could_mean_two_versions_is_refused() {
        assert!(bind(&[at("t", None)], &[at("t", Some(5)), at("t", Some(6))]).is_err());
    }
}
