//! Users, grants and directories for tests.

use std::sync::Arc;

use super::Access;
use crate::identity::directory::Directory;
use crate::identity::principal::{LoginMethod, Principal};
use crate::wire::catalog::{Grant, Role, User};
use crate::wire::cluster::IdentitySnapshot;

/// A user with these groups, of generation 1.
pub(crate) fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: strings(groups), generation: 1, ..User::default() }
}

/// A principal who has logged in with a password.
pub(crate) fn principal(name: &str, groups: &[&str]) -> Principal {
    let credential = String::new();
    Principal { name: name.into(), groups: strings(groups), method: LoginMethod::Password, credential }
}

/// The components of a name; empty: none.
pub(crate) fn name(text: &str) -> Vec<String> {
    text.split('/').filter(|component| !component.is_empty()).map(String::from).collect()
}

/// A grant of all columns.
pub(crate) fn grant(to: &str, role: Role, prefix: &str) -> Grant {
    Grant { to: to.into(), role: role.into(), prefix: name(prefix), ..Grant::default() }
}

/// A reader's grant of some columns.
pub(crate) fn column_grant(to: &str, prefix: &str, columns: &[&str]) -> Grant {
    Grant { columns: strings(columns), ..grant(to, Role::Reader, prefix) }
}

/// A directory with these grants, and without users.
pub(crate) fn directory(epoch: u64, grants: &[Grant]) -> Arc<Directory> {
    let grants = grants.to_vec();
    Arc::new(Directory::new(&IdentitySnapshot { epoch, grants, closed: true, ..IdentitySnapshot::default() }))
}

/// The access of a principal without groups.
pub(crate) fn access(directory: &Arc<Directory>, name: &str) -> Access {
    Access::of_principal(principal(name, &[]), directory.clone())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}
