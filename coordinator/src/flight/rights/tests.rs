//! The table has every action and every method, and each role may do what it says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Extensions;
use volley_common::Code;
use volley_common::identity::{Directory, LoginMethod, Principal};
use volley_common::wire::catalog::Grant;
use volley_common::wire::cluster::IdentitySnapshot;

use super::super::{actions, admin_actions, identity_actions};
use super::*;

/// The roles, each granted to the user of its name: those of tables on the prefix `sales`.
const ROLES: [(&str, Role); 5] = [
    ("reader", Role::Reader),
    ("writer", Role::Writer),
    ("owner", Role::Owner),
    ("operator", Role::Operator),
    ("admin", Role::Admin),
];

fn access(name: &str) -> Access {
    let grant = |(to, role): &(&str, Role)| Grant {
        to: format!("user:{to}"),
        role: *role as i32,
        prefix: if matches!(role, Role::Operator | Role::Admin) { vec![] } else { vec!["sales".into()] },
        ..Grant::default()
    };
    let grants = ROLES.iter().map(grant).collect();
    let directory = Directory::new(&IdentitySnapshot { epoch: 1, grants, ..IdentitySnapshot::default() });
    let (groups, method) = (Vec::new(), LoginMethod::Certificate);
    let principal = Principal { name: name.into(), groups, method, credential: String::new() };
    Access::of_principal(principal, Arc::new(directory))
}

fn nobody() -> Access {
    Access::of(&Extensions::new())
}

fn listed() -> Vec<&'static str> {
    let lists = [&actions::ACTIONS[..], &admin_actions::ACTIONS, &identity_actions::ACTIONS];
    lists.into_iter().flatten().map(|(name, _)| *name).collect()
}

#[test]
fn table_has_exactly_the_listed_actions() {
    let (listed, table) = (listed(), ACTIONS.map(|(name, ..)| name));
    assert_eq!(listed.len(), table.len(), "an action is listed twice, or has no entry");
    assert_eq!(BTreeSet::from_iter(listed), BTreeSet::from(table));
}

#[test]
fn table_has_exactly_the_methods_of_flight() {
    let proto = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../common/proto/flight.proto")).unwrap();
    let names = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    let names: BTreeSet<&str> = names.map(str::trim).collect();
    assert_eq!(names, BTreeSet::from(METHODS.map(|(name, ..)| name)));
}

/// What a call requires, stated by the roles that may make it on a table below `sales`, or without a table.
fn allowed(requirement: Requirement, role: &str) -> bool {
    let of_table = |least| {
        let order = ["reader", "writer", "owner", "admin"];
        let place = |name| order.iter().position(|known| *known == name);
        place(role).is_some_and(|at| at >= place(least).unwrap())
    };
    match requirement {
        Public | OfAction | Identity | Own | Grants => true,
        Table(Role::Reader) => of_table("reader"),
        Table(Role::Writer) => of_table("writer"),
        Table(Role::Owner) => of_table("owner"),
        Cluster(Role::Operator) | TableOrCluster(_, Role::Operator) => matches!(role, "operator" | "admin"),
        Cluster(Role::Admin) => role == "admin",
        other => panic!("say here who fulfils {other:?}"),
    }
}

/// Every check that depends on the roles alone.
fn check(requirement: Requirement, access: &Access) -> Result<()> {
    requirement.admit(access)?;
    match requirement {
        Table(_) => requirement.check_table(access, &["sales".into(), "eu".into()]),
        TableOrCluster(..) => requirement.check_cluster(access),
        _ => Ok(()),
    }
}

#[test]
fn every_action_and_method_is_for_the_roles_that_it_requires() {
    for (name, requirement, _) in ACTIONS.into_iter().chain(METHODS) {
        for (role, _) in ROLES {
            let result = check(requirement, &access(role));
            assert_eq!(result.is_ok(), allowed(requirement, role), "{name} by {role}: {result:?}");
        }
        check(requirement, &Access::open()).unwrap();
    }
}

#[test]
fn only_public_calls_are_for_nobody() {
    for (name, requirement, _) in ACTIONS.into_iter().chain(METHODS) {
        let code = requirement.admit(&nobody()).map_or_else(|error| error.code, |()| Code::Ok);
        let is_public = matches!(name, "Handshake" | "DoAction" | "healthcheck");
        assert_eq!(code, if is_public { Code::Ok } else { Code::Unauthenticated }, "{name}");
    }
}

#[test]
fn role_on_a_prefix_is_none_on_other_tables() {
    let other = ["sales_old".to_string()];
    for (name, requirement, _) in ACTIONS.into_iter().chain(METHODS) {
        let Table(role) = requirement else { continue };
        for (user, _) in ROLES.iter().filter(|(user, _)| *user != "admin") {
            let error = requirement.check_table(&access(user), &other).unwrap_err();
            let hidden = if role == Role::Writer { Code::PermissionDenied } else { Code::NotFound };
            assert_eq!(error.code, hidden, "{name} by {user}");
        }
    }
}

#[test]
fn statistics_of_a_table_are_for_its_readers() {
    let requirement = of_action("get_stats").unwrap().requirement;
    requirement.check_table(&access("reader"), &["sales".into()]).unwrap();
    assert_eq!(requirement.check_cluster(&access("reader")).unwrap_err().code, Code::PermissionDenied);
    assert_eq!(requirement.check_table(&access("operator"), &["sales".into()]).unwrap_err().code, Code::NotFound);
}

#[test]
fn missing_entry_is_refused() {
    assert_eq!(of_action("drop_tables"), None);
    assert_eq!(require_method("DoIt").unwrap_err().code, Code::Unimplemented);
    let misplaced = Requirement::Identity.check_table(&access("admin"), &["sales".into()]).unwrap_err();
    assert_eq!(misplaced.code, Code::Internal);
}
