//! What the grants to a principal permit: pure functions of grants and names, and the grants of one principal.

use std::collections::BTreeSet;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::identity::directory::Directory;
use crate::identity::principal::Principal;
use crate::wire::catalog::{Grant, Role};

/// A principal with its grants, as of one directory.
pub(crate) struct PrincipalRights {
    principal: Arc<Principal>,
    directory: Arc<Directory>,
    /// Positions of its grants in the directory, ascending: by prefix.
    grants: Box<[usize]>,
}

impl PrincipalRights {
    /// Finds the grants of a principal.
    pub fn new(principal: Principal, directory: Arc<Directory>) -> Self {
        let mut grants: Box<[usize]> = directory.positions_of(&principal.name, &principal.groups).collect();
        grants.sort_unstable();
        PrincipalRights { principal: Arc::new(principal), directory, grants }
    }

    /// Whose rights these are.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// By which directory.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The grants whose prefix is that of a name: however many there are, a search for each of its components.
    pub fn grants_on(&self, name: &[String]) -> impl Iterator<Item = &Grant> + Clone {
        (0..=name.len()).flat_map(move |components| {
            let prefix = &name[..components];
            let from = self.grants.partition_point(|at| self.directory.grant(*at).prefix.as_slice() < prefix);
            let following = self.grants[from..].iter().map(move |at| self.directory.grant(*at));
            following.take_while(move |grant| grant.prefix == prefix)
        })
    }
}

/// The role that a grant gives on the tables whose names begin with `name`, whole components: reader, writer, owner or admin,
/// each of which includes those before it. `None`: the grant is to others, or to the cluster without its data.
fn role_on(grant: &Grant, name: &[String]) -> Option<Role> {
    match grant.role() {
        role @ (Role::Reader | Role::Writer | Role::Owner) => name.starts_with(&grant.prefix).then_some(role),
        Role::Admin => grant.prefix.is_empty().then_some(Role::Admin),
        Role::Operator | Role::Unspecified => None,
    }
}

/// Whether grants include a role (reader, writer, owner or admin) on everything whose name begins with `name`.
pub(super) fn permit<'a>(mut grants: impl Iterator<Item = &'a Grant>, role: Role, name: &[String]) -> bool {
    grants.any(|grant| role_on(grant, name).is_some_and(|found| found >= role))
}

/// Whether grants include a role of the cluster: operator, which admin includes, or admin.
pub(super) fn permit_cluster<'a>(mut grants: impl Iterator<Item = &'a Grant>, role: Role) -> bool {
    grants.any(|grant| match grant.role() {
        Role::Admin => grant.prefix.is_empty(),
        Role::Operator => role == Role::Operator && grant.prefix.is_empty(),
        Role::Reader | Role::Writer | Role::Owner | Role::Unspecified => false,
    })
}

/// The names of the columns of a table that grants permit to read; `None`: all. A grant restricts only its own role and
/// prefix, so the columns are the union of those of all grants.
pub(super) fn columns_of<'a>(grants: impl Iterator<Item = &'a Grant>, table: &[String]) -> Option<BTreeSet<&'a str>> {
    let mut columns = BTreeSet::new();
    for grant in grants {
        match role_on(grant, table) {
            Some(Role::Reader) if !grant.columns.is_empty() => {
                columns.extend(grant.columns.iter().map(String::as_str));
            }
            Some(_) => return None,
            None => {}
        }
    }
    Some(columns)
}

/// A hash of permitted columns, for tickets: 0 for all, never 0 otherwise. XXH3 of the sorted names, each after its length, so
/// that no two sets have the same input. Members of different versions must agree on it.
pub(super) fn columns_hash(columns: Option<&BTreeSet<&str>>) -> u64 {
    let Some(columns) = columns else { return 0 };
    let mut hash = Xxh3::new();
    for name in columns {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
    }
    hash.digest().max(1)
}
