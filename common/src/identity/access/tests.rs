use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::testing::{access, column_grant, directory, grant, name, principal, user};
use super::*;
use crate::Code;
use crate::wire::catalog::{Grant, User};
use crate::wire::cluster::{IdentitySnapshot, Ticket};

const TABLE_ROLES: [Role; 3] = [Role::Reader, Role::Writer, Role::Owner];

fn code(result: Result<()>) -> Code {
    result.map_or_else(|error| error.code, |()| Code::Ok)
}

fn columns(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|name| name.to_string()).collect())
}

/// The access of a user with groups in the catalog.
fn access_of_member(member: User, grants: Vec<Grant>) -> Access {
    let name = member.name.clone();
    let snapshot = IdentitySnapshot { epoch: 1, users: vec![member], grants, ..IdentitySnapshot::default() };
    Access::of_principal(principal(&name, &[]), Arc::new(Directory::new(&snapshot)))
}

#[test]
fn prefix_matches_whole_components_only() {
    let directory = directory(1, &[grant("user:ann", Role::Reader, "sales/eu")]);
    let ann = access(&directory, "ann");
    for (table, readable) in [
        ("sales/eu", true),
        ("sales/eu/orders", true),
        ("sales/eu/2026/orders", true),
        ("sales", false),
        ("sales/eu_old", false),
        ("sales/e", false),
        ("sales/us/eu", false),
        ("sales_old/eu", false),
        ("eu", false),
        ("x/sales/eu", false),
    ] {
        assert_eq!(ann.can_read(&name(table)), readable, "{table}");
        assert_eq!(ann.require(Role::Reader, &name(table)).is_ok(), readable, "{table}");
    }
    assert!(!access(&directory, "bob").can_read(&name("sales/eu")));
}

#[test]
fn grants_are_found_among_many_of_users_and_groups() {
    let mut grants: Vec<Grant> = (0..500).map(|at| grant("user:ann", Role::Reader, &format!("a/{at}"))).collect();
    grants.extend((0..500).rev().map(|at| grant("group:g", Role::Writer, &format!("a/{}", 2 * at))));
    grants.extend([grant("user:ann", Role::Operator, ""), grant("group:g", Role::Owner, "a/7/x/y")]);
    let ann = access_of_member(user("ann", &["g"]), grants);
    for at in 0..1100 {
        let table = name(&format!("a/{at}/t"));
        let is_written = at % 2 == 0 && at < 1000;
        assert_eq!(ann.can_read(&table), at < 500 || is_written, "{at}");
        assert_eq!(ann.require(Role::Writer, &table).is_ok(), is_written, "{at}");
    }
    assert!(ann.require(Role::Owner, &name("a/7/x/y/t")).is_ok() && ann.require(Role::Owner, &name("a/7/x")).is_err());
    assert!(ann.require_cluster(Role::Operator).is_ok() && ann.require_cluster(Role::Admin).is_err());
    assert!(!ann.can_read(&name("a")) && !ann.can_read(&name("b")));
}

#[test]
fn each_role_includes_the_roles_before_it() {
    for (granted, permitted) in [(Role::Reader, 1), (Role::Writer, 2), (Role::Owner, 3), (Role::Admin, 3)] {
        let prefix = if granted == Role::Admin { "" } else { "a" };
        let ann = access(&directory(1, &[grant("user:ann", granted, prefix)]), "ann");
        for (at, role) in TABLE_ROLES.into_iter().enumerate() {
            assert_eq!(ann.require(role, &name("a/b")).is_ok(), at < permitted, "{granted:?} as {role:?}");
        }
    }
}

#[test]
fn empty_prefix_is_the_whole_cluster() {
    let ann = access(&directory(1, &[grant("user:ann", Role::Owner, "")]), "ann");
    ann.require(Role::Owner, &name("a/b")).unwrap();
    ann.require_grant(&[], Role::Reader).unwrap();
    // It owns all tables, and does not administrate the cluster.
    assert_eq!(code(ann.require_cluster(Role::Admin)), Code::PermissionDenied);
    assert_eq!(code(ann.require_cluster(Role::Operator)), Code::PermissionDenied);
}

#[test]
fn grants_to_groups_and_users_add_up() {
    let grants = vec![
        grant("group:readers", Role::Reader, "a"),
        grant("user:ann", Role::Writer, "b"),
        grant("group:owners", Role::Owner, "c"),
    ];
    let ann = access_of_member(user("ann", &["readers"]), grants.clone());
    assert!(ann.can_read(&name("a/x")) && ann.can_read(&name("b/x")) && !ann.can_read(&name("c/x")));
    assert_eq!(code(ann.require(Role::Writer, &name("a/x"))), Code::PermissionDenied);
    // The groups that a token claims.
    let claimed = Access::of_principal(principal("ann", &["owners"]), directory(1, &grants));
    claimed.require(Role::Owner, &name("c/x")).unwrap();
    assert!(!claimed.can_read(&name("a/x")));
}

#[test]
fn hidden_table_has_the_error_of_a_missing_one() {
    let ann = access(&directory(1, &[grant("user:ann", Role::Reader, "a")]), "ann");
    let hidden = name("b/\"x\"");
    assert_eq!(missing_table(&hidden).message, r#"there is no table "b/\"x\"""#);
    for role in [Role::Reader, Role::Owner] {
        assert_eq!(ann.require(role, &hidden).unwrap_err(), missing_table(&hidden), "{role:?}");
    }
    assert_eq!(missing_table(&hidden).code, Code::NotFound);
}

#[test]
fn refused_writer_or_owner_reads_who_can_grant_the_role() {
    let ann = access(&directory(1, &[grant("user:ann", Role::Reader, "a")]), "ann");
    // Whether the table exists or not, and whether it is hidden or not.
    for table in ["a/x", "b/x"] {
        let error = ann.require(Role::Writer, &name(table)).unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        for part in ["\"ann\"", "writer", table, "owner", "administrator", "user:ann"] {
            assert!(error.message.contains(part), "{part}: {error}");
        }
    }
    let error = ann.require(Role::Owner, &name("a/x")).unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    assert!(error.message.contains("the role owner on \"a/x\""), "{error}");
}

#[test]
fn operator_has_the_cluster_without_its_data() {
    let ann = access(&directory(1, &[grant("user:ann", Role::Operator, "")]), "ann");
    ann.require_cluster(Role::Operator).unwrap();
    assert!(!ann.can_read(&name("a")));
    assert_eq!(ann.permitted_columns(&name("a")), columns(&[]));
    assert_eq!(code(ann.require_cluster(Role::Admin)), Code::PermissionDenied);
    assert_eq!(code(ann.require(Role::Reader, &name("a"))), Code::NotFound);
    assert_eq!(code(ann.require_grant(&name("a"), Role::Reader)), Code::PermissionDenied);
    // Neither an operator nor an administrator of a part of the cluster exists.
    for role in [Role::Operator, Role::Admin] {
        let ann = access(&directory(1, &[grant("user:ann", role, "a")]), "ann");
        assert_eq!(code(ann.require_cluster(Role::Operator)), Code::PermissionDenied);
        assert!(!ann.can_read(&name("a/b")));
    }
}

#[test]
fn admin_may_do_everything() {
    let ann = access(&directory(1, &[grant("user:ann", Role::Admin, "")]), "ann");
    ann.require_cluster(Role::Operator).unwrap();
    ann.require_cluster(Role::Admin).unwrap();
    ann.require(Role::Admin, &name("a")).unwrap();
    for role in [Role::Reader, Role::Writer, Role::Owner, Role::Operator, Role::Admin] {
        ann.require_grant(&[], role).unwrap();
    }
    assert_eq!(ann.permitted_columns(&name("a")), None);
}

#[test]
fn role_of_a_later_version_grants_nothing() {
    for role in [0, 6, -1] {
        let unknown = Grant { role, ..grant("user:ann", Role::Reader, "") };
        let ann = access(&directory(1, &[unknown]), "ann");
        assert!(!ann.can_read(&name("a")));
        assert_eq!(code(ann.require_cluster(Role::Operator)), Code::PermissionDenied);
    }
    let ann = access(&directory(1, &[grant("user:ann", Role::Owner, "")]), "ann");
    assert_eq!(code(ann.require(Role::Unspecified, &name("a"))), Code::PermissionDenied);
    assert_eq!(code(ann.require_grant(&name("a"), Role::Unspecified)), Code::PermissionDenied);
}

#[test]
fn owner_grants_on_its_prefix_only() {
    let ann = access(&directory(1, &[grant("user:ann", Role::Owner, "a/b")]), "ann");
    for role in TABLE_ROLES {
        ann.require_grant(&name("a/b"), role).unwrap();
        ann.require_grant(&name("a/b/c"), role).unwrap();
        for prefix in ["", "a", "a/bc", "b"] {
            assert_eq!(code(ann.require_grant(&name(prefix), role)), Code::PermissionDenied, "{prefix}");
        }
    }
    for role in [Role::Operator, Role::Admin] {
        assert_eq!(code(ann.require_grant(&name("a/b"), role)), Code::PermissionDenied);
    }
    let writer = access(&directory(1, &[grant("user:ann", Role::Writer, "a/b")]), "ann");
    assert_eq!(code(writer.require_grant(&name("a/b"), Role::Reader)), Code::PermissionDenied);
}

#[test]
fn permitted_columns_are_the_union_of_all_grants() {
    let two = [column_grant("user:ann", "a", &["x", "y"]), column_grant("user:ann", "a/b", &["z", "y"])];
    let of = |grants: &[Grant], table: &str| access(&directory(1, grants), "ann").permitted_columns(&name(table));
    assert_eq!(of(&two, "a/b"), columns(&["x", "y", "z"]));
    assert_eq!(of(&two, "a/c"), columns(&["x", "y"]));
    assert_eq!(of(&two, "b"), columns(&[]));
    for unrestricted in [grant("user:ann", Role::Reader, "a/b"), grant("user:ann", Role::Writer, "a/b")] {
        let grants = [two.as_slice(), &[unrestricted]].concat();
        assert_eq!(of(&grants, "a/b/c"), None);
        assert_eq!(of(&grants, "a/c"), columns(&["x", "y"]));
    }
    // Only a reader's grant can name columns.
    let writer = Grant { role: Role::Writer.into(), ..column_grant("user:ann", "a", &["x"]) };
    assert_eq!(of(&[writer], "a"), None);
}

#[test]
fn columns_hash_is_of_the_set_of_names() {
    let of = |columns: &[&str]| {
        let grants = [column_grant("user:ann", "a", columns), grant("user:ann", Role::Reader, "all")];
        access(&directory(1, &grants), "ann").permitted_columns_hash(&name("a"))
    };
    assert_eq!(of(&["x", "y"]), of(&["y", "x", "y"]));
    let sets: [&[&str]; 6] = [&["x"], &["x", "y"], &["xy"], &["x,y"], &["x\0y"], &["X"]];
    let hashes: BTreeSet<u64> = sets.iter().map(|set| of(set)).collect();
    assert!(hashes.len() == sets.len() && !hashes.contains(&0), "{hashes:?}");
    let ann = access(&directory(1, &[grant("user:ann", Role::Reader, "a")]), "ann");
    assert_eq!((ann.permitted_columns_hash(&name("a")), Access::open().permitted_columns_hash(&name("a"))), (0, 0));
    // Members of different versions agree on it.
    assert_eq!(of(&["region"]), 0xac22_7319_efa2_504f);
    assert_eq!(ann.permitted_columns_hash(&name("b")), 0x2d06_8005_38d3_94c2, "of a table that it may not read");
}

#[test]
fn nobody_is_refused_everything() {
    let nobody = Access::of(&http::Extensions::new());
    assert!(!nobody.is_open() && nobody.principal().is_none());
    assert_eq!((nobody.name(), nobody.epoch(), nobody.client_address()), ("", 0, None));
    let table = name("a");
    for result in [
        nobody.require_identity(),
        nobody.require(Role::Reader, &table),
        nobody.require(Role::Writer, &table),
        nobody.require(Role::Owner, &table),
        nobody.require_cluster(Role::Operator),
        nobody.require_cluster(Role::Admin),
        nobody.require_grant(&table, Role::Reader),
        nobody.require_grant(&[], Role::Admin),
        nobody.check_ticket(&Ticket { shareable: true, ..Ticket::default() }),
    ] {
        assert_eq!(code(result), Code::Unauthenticated);
    }
    assert!(!nobody.can_read(&table));
    assert_eq!(nobody.permitted_columns(&table), columns(&[]));
}

#[test]
fn everybody_may_do_everything_in_an_open_cluster() {
    let everybody = Access::open();
    assert!(everybody.is_open() && everybody.principal().is_none() && everybody.can_read(&name("a")));
    everybody.require_identity().unwrap();
    for role in [Role::Reader, Role::Writer, Role::Owner, Role::Operator, Role::Admin] {
        everybody.require(role, &name("a")).unwrap();
        everybody.require_cluster(role).unwrap();
        everybody.require_grant(&[], role).unwrap();
    }
    assert_eq!(everybody.permitted_columns(&name("a")), None);
    assert_eq!(Access::open_at_epoch(4).epoch(), 4);
}

#[test]
fn access_of_a_request_is_its_extension() {
    let ip: IpAddr = "10.0.0.7".parse().unwrap();
    let mut extensions = http::Extensions::new();
    extensions.insert(access(&directory(9, &[]), "ann").for_client(Some(ip), false));
    let found = Access::of(&extensions);
    assert_eq!((found.name(), found.epoch(), found.client_address()), ("ann", 9, Some("10.0.0.7")));
    assert_eq!(format!("{found:?} {:?} {:?}", Access::open(), Access::anonymous()), "\"ann\" everybody nobody");
}
