//! The error for a table that does not exist, or that the caller may not know of: it names the table that is probably meant.

use volley_common::identity::{Access, missing_table};
use volley_common::suggestion::suggest;
use volley_common::wire::catalog::Table;
use volley_common::{Error, Result, TableName};

use super::ReadService;
use crate::catalog::Catalog;

/// Most tables of one folder whose names are compared letter by letter.
const MAX_COMPARED: usize = 1000;

impl ReadService {
    /// An error of a call about a table. If there is no such table for the caller, it names a similar one that the caller may read.
    pub fn with_similar_table(&self, access: &Access, name: &TableName, error: Error) -> Error {
        with_similar_table(&self.raft.view(), access, name, error)
    }
}

/// The table of this name.
///
/// # Errors
/// NOT_FOUND, with a similar name that the caller may read.
pub(super) fn require_table<'c>(catalog: &'c Catalog, access: &Access, name: &TableName) -> Result<&'c Table> {
    catalog.require_table(name).map_err(|error| with_similar_table(catalog, access, name, error))
}

fn with_similar_table(catalog: &Catalog, access: &Access, name: &TableName, error: Error) -> Error {
    if error != missing_table(name.components()) {
        return error;
    }
    match similar_table(catalog, access, name.components()) {
        Some(similar) => Error { message: format!("{}: did you mean {similar:?}?", error.message), ..error },
        None => error,
    }
}

/// The table of this name in another case, else one of the same folder that is spelled almost like it.
fn similar_table(catalog: &Catalog, access: &Access, name: &[String]) -> Option<String> {
    // Most names differ in their first letter: even of all tables that a catalog may have this takes milliseconds.
    let is_meant = |known: &&[String]| *known != name && is_equal_in_any_case(known, name) && access.can_read(known);
    if let Some(known) = catalog.names_from(&[]).find(is_meant) {
        return Some(known.join("/"));
    }
    let (last, folder) = name.split_last()?;
    let in_folder = catalog.names_from(folder).take_while(|known| known.starts_with(folder)).take(MAX_COMPARED);
    let visible = in_folder.filter(|known| known.len() == name.len() && *known != name && access.can_read(known));
    let similar = suggest(last, visible.filter_map(|known| known.last()).map(String::as_str))?;
    Some([folder, &[similar.to_string()]].concat().join("/"))
}

fn is_equal_in_any_case(one: &[String], other: &[String]) -> bool {
    fn lower(text: &str) -> impl Iterator<Item = char> {
        text.chars().flat_map(char::to_lowercase)
    }
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| lower(one).eq(lower(other)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::options::Options;
    use volley_common::wire::catalog::Role;

    use super::*;
    use crate::service::testing::ServicesFixture;

    /// With the user `reader`, who may read all tables but `Sales/Secret`.
    async fn fixture() -> ServicesFixture {
        let fixture = ServicesFixture::closed().await;
        for table in ["Sales/Orders", "Sales/Secret", "sales/customers", "sales/2026/customs", "sales/a", "Übersicht"]
        {
            fixture.create_table(table).await;
        }
        for prefix in ["Sales/Orders", "sales", "Übersicht"] {
            fixture.grant("user:reader", Role::Reader, prefix, &[]).await;
        }
        fixture
    }

    /// The table that the error for a missing one names.
    fn similar(fixture: &ServicesFixture, user: &str, table: &str) -> Option<String> {
        let name: TableName = table.parse().unwrap();
        let missing = missing_table(name.components());
        let error = fixture.services.read.with_similar_table(&fixture.access(user), &name, missing.clone());
        let hint = error.message.strip_prefix(&missing.message).unwrap();
        (!hint.is_empty())
            .then(|| hint.strip_prefix(": did you mean \"").unwrap().strip_suffix("\"?").unwrap().to_string())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn table_in_another_case_or_almost_spelled_so_is_named() {
        let fixture = fixture().await;
        for (table, expected) in [
            ("sales/orders", Some("Sales/Orders")),
            ("SALES/CUSTOMERS", Some("sales/customers")),
            ("übersicht", Some("Übersicht")),
            ("sales/custmers", Some("sales/customers")),
            ("sales/b", None),
            ("sales/suppliers", None),
            ("sales/orders/2026", None),
            ("sale/customers", None),
        ] {
            for user in ["root", "reader"] {
                assert_eq!(similar(&fixture, user, table).as_deref(), expected, "{table} for {user}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hidden_table_is_never_named() {
        let fixture = fixture().await;
        for table in ["sales/secret", "Sales/Secrets", "Sales/secret"] {
            assert_eq!(similar(&fixture, "root", table).as_deref(), Some("Sales/Secret"));
            assert_eq!(similar(&fixture, "reader", table), None, "{table}");
        }
        // As it is for a name that exists.
        assert_eq!(similar(&fixture, "reader", "Sales/Secret"), None);
        assert_eq!(similar(&fixture, "eve", "sales/orders"), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_error_for_a_missing_table_is_changed() {
        let fixture = fixture().await;
        let (access, name) = (fixture.access("root"), "sales/orders".parse().unwrap());
        let read = &fixture.services.read;
        for error in [Error::not_found("another one"), Error::denied("no"), missing_table(&["x".into()])] {
            assert_eq!(read.with_similar_table(&access, &name, error.clone()), error);
        }
        let missing = read.plan_ticket(&access, &name, &Options::default()).await.unwrap_err();
        assert!(missing.message.ends_with("did you mean \"Sales/Orders\"?"), "{missing}");
    }
}
