use std::sync::Arc;

use super::super::testing::{access, column_grant, directory, grant, name, principal, user};
use super::*;
use crate::Code;
use crate::identity::directory::Directory;
use crate::wire::cluster::{IdentitySnapshot, Query, QueryResult, ResultSource};

/// A ticket that `access` has planned.
fn planned(access: &Access, table: &str, shareable: bool) -> Ticket {
    let mut ticket = Ticket { table: name(table), ..Ticket::default() };
    access.bind_ticket(&mut ticket, shareable);
    ticket
}

fn reader(epoch: u64, users: &[&str]) -> Arc<Directory> {
    let grants: Vec<Grant> = users.iter().map(|user| grant(&format!("user:{user}"), Role::Reader, "a")).collect();
    directory(epoch, &grants)
}

fn refusal(access: &Access, ticket: &Ticket) -> (Code, String) {
    let error = access.check_ticket(ticket).unwrap_err();
    (error.code, error.message)
}

#[test]
fn ticket_carries_its_planner_and_what_it_may_read() {
    let ann = access(&directory(7, &[column_grant("user:ann", "a", &["x"])]), "ann");
    let ticket = planned(&ann, "a/t", false);
    assert_eq!((ticket.principal.as_str(), ticket.grant_epoch, ticket.shareable), ("ann", 7, false));
    assert_eq!(ticket.permitted_columns, ann.permitted_columns_hash(&name("a/t")));
    assert_ne!(ticket.permitted_columns, 0);
    assert!(planned(&ann, "a/t", true).shareable);
    assert!(planned(&ann.for_client(None, true), "a/t", false).shareable);
}

#[test]
fn columns_of_a_ticket_are_those_that_its_planner_may_see() {
    let directory = directory(7, &[column_grant("user:ann", "a", &["x", "y"]), column_grant("user:bob", "a", &["z"])]);
    let (ann, bob) = (access(&directory, "ann"), access(&directory, "bob"));
    let ticket = planned(&ann, "a/t", true);
    let of_ann = Some(BTreeSet::from(["x".to_string(), "y".to_string()]));
    assert_eq!(ann.ticket_columns(&ticket).unwrap(), of_ann);
    assert_eq!(bob.ticket_columns(&ticket).unwrap(), of_ann, "it is shareable");
    assert_eq!(access(&directory, "eve").ticket_columns(&ticket).unwrap(), of_ann);
    assert_eq!(Access::open().ticket_columns(&ticket).unwrap(), None);
    assert_eq!(Access::anonymous().ticket_columns(&ticket).unwrap_err().code, Code::Unauthenticated);
    let of_all = planned(&access(&reader(7, &["ann"]), "ann"), "a/t", false);
    assert_eq!(ann.ticket_columns(&of_all).unwrap(), None);
    assert_eq!(access(&reader(8, &["ann"]), "ann").ticket_columns(&ticket).unwrap(), None, "by now it may see all");
}

#[test]
fn columns_of_a_ticket_that_have_changed_are_refused() {
    let of = |epoch, columns: &[&str]| access(&directory(epoch, &[column_grant("user:ann", "a", columns)]), "ann");
    let ticket = planned(&of(7, &["x"]), "a/t", false);
    assert_eq!(of(8, &["y"]).ticket_columns(&ticket).unwrap_err().code, Code::PermissionDenied);
    // This member lags.
    assert_eq!(of(6, &["y"]).ticket_columns(&ticket).unwrap_err().code, Code::Unavailable);
}

#[test]
fn own_ticket_is_redeemed() {
    let ann = access(&reader(3, &["ann"]), "ann");
    ann.check_ticket(&planned(&ann, "a/t", false)).unwrap();
}

#[test]
fn ticket_of_another_principal_is_refused_with_the_remedy() {
    let directory = reader(3, &["ann", "bob"]);
    let ticket = planned(&access(&directory, "ann"), "a/t", false);
    let (code, message) = refusal(&access(&directory, "bob"), &ticket);
    assert_eq!(code, Code::PermissionDenied);
    for part in ["\"a/t\"", "\"ann\"", "\"bob\"", "get_flight_info", "shareable_tickets"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // Not even an administrator fetches what others have planned.
    let admin = access(&super::super::testing::directory(3, &[grant("user:root", Role::Admin, "")]), "root");
    assert_eq!(refusal(&admin, &ticket).0, Code::PermissionDenied);
}

#[test]
fn ticket_of_an_open_cluster_is_refused_once_there_are_users() {
    let ticket = planned(&Access::open(), "a/t", false);
    assert_eq!((ticket.principal.as_str(), ticket.permitted_columns), ("", 0));
    let (code, message) = refusal(&access(&reader(1, &["ann"]), "ann"), &ticket);
    assert_eq!(code, Code::PermissionDenied);
    assert!(message.contains("before this cluster had users"), "{message}");
    // The reverse: users were removed, and everybody may read.
    Access::open().check_ticket(&planned(&access(&reader(1, &["ann"]), "ann"), "a/t", false)).unwrap();
}

#[test]
fn shareable_ticket_is_redeemed_by_any_principal() {
    let directory = reader(3, &["ann"]);
    let (ann, worker) = (access(&directory, "ann"), access(&directory, "worker"));
    worker.check_ticket(&planned(&ann, "a/t", true)).unwrap();
    // By the setting of the member that is called.
    worker.for_client(None, true).check_ticket(&planned(&ann, "a/t", false)).unwrap();
}

#[test]
fn rights_are_checked_again_once_they_changed() {
    let ticket = planned(&access(&reader(3, &["ann"]), "ann"), "a/t", false);
    // Unrelated changes.
    access(&reader(4, &["ann", "bob"]), "ann").check_ticket(&ticket).unwrap();
    let missing = missing_table(&name("a/t"));
    assert_eq!(refusal(&access(&reader(4, &["bob"]), "ann"), &ticket), (missing.code, missing.message));
}

#[test]
fn member_with_older_grants_accepts_what_a_newer_one_planned() {
    let ticket = planned(&access(&reader(5, &["ann"]), "ann"), "a/t", false);
    access(&reader(4, &[]), "ann").check_ticket(&ticket).unwrap();
}

#[test]
fn ticket_for_other_columns_is_refused() {
    let of = |epoch, columns: &[&str]| access(&directory(epoch, &[column_grant("user:ann", "a", columns)]), "ann");
    let ticket = planned(&of(3, &["x", "y"]), "a/t", false);
    of(4, &["y", "x"]).check_ticket(&ticket).unwrap();
    // All columns include those of the ticket.
    access(&reader(4, &["ann"]), "ann").check_ticket(&ticket).unwrap();
    for columns in [&["x"][..], &["x", "y", "z"]] {
        let (code, message) = refusal(&of(4, columns), &ticket);
        assert_eq!(code, Code::PermissionDenied);
        assert!(message.contains("call get_flight_info again"), "{message}");
    }
    let all = planned(&access(&reader(3, &["ann"]), "ann"), "a/t", false);
    assert_eq!(refusal(&of(4, &["x"]), &all).0, Code::PermissionDenied);
}

#[test]
fn shareable_ticket_ends_with_the_rights_of_its_planner() {
    let ticket = planned(&access(&reader(3, &["ann"]), "ann"), "a/t", true);
    // The planner may still read, or the one who redeems it may.
    access(&reader(4, &["ann"]), "worker").check_ticket(&ticket).unwrap();
    access(&reader(4, &["worker"]), "worker").check_ticket(&ticket).unwrap();
    assert_eq!(refusal(&access(&reader(4, &["bob"]), "worker"), &ticket).0, Code::NotFound);
    // The planner may read fewer columns now.
    let narrowed = directory(4, &[column_grant("user:ann", "a", &["x"])]);
    assert_eq!(refusal(&access(&narrowed, "worker"), &ticket).0, Code::NotFound);
}

#[test]
fn planner_of_a_shareable_ticket_may_read_by_its_group() {
    let snapshot = |epoch, groups: &[&str]| {
        Arc::new(Directory::new(&IdentitySnapshot {
            epoch,
            users: vec![user("ann", groups), user("worker", &[])],
            grants: vec![grant("group:readers", Role::Reader, "a")],
            ..IdentitySnapshot::default()
        }))
    };
    let ann = Access::of_principal(principal("ann", &[]), snapshot(3, &["readers"]));
    let ticket = planned(&ann, "a/t", true);
    access(&snapshot(4, &["readers"]), "worker").check_ticket(&ticket).unwrap();
    assert_eq!(refusal(&access(&snapshot(4, &[]), "worker"), &ticket).0, Code::NotFound);
}

#[test]
fn nobody_can_bind_a_ticket_that_others_redeem() {
    let ticket = planned(&Access::anonymous().for_client(None, true), "a/t", true);
    assert!(!ticket.shareable && ticket.permitted_columns != 0);
    assert_eq!(refusal(&access(&reader(3, &["ann"]), "ann"), &ticket).0, Code::PermissionDenied);
}

#[test]
fn ticket_of_a_query_is_for_its_principal_alone() {
    let directory = reader(3, &["ann", "bob"]);
    let (ann, bob) = (access(&directory, "ann"), access(&directory, "bob"));
    let mut ticket = Ticket { query: Some(Query::default()), ..Ticket::default() };
    ann.clone().for_client(None, true).bind_ticket(&mut ticket, true);
    assert_eq!((ticket.principal.as_str(), ticket.shareable, ticket.permitted_columns), ("ann", false, 0));
    ann.check_ticket(&ticket).unwrap();
    // The grants on its tables are checked when they are planned.
    access(&reader(4, &["bob"]), "ann").check_ticket(&ticket).unwrap();
    for other in [bob.clone(), bob.for_client(None, true)] {
        let (code, message) = refusal(&other, &ticket);
        assert_eq!(code, Code::PermissionDenied);
        assert!(message.contains("a query") && !message.contains("shareable_tickets"), "{message}");
    }
    let shared = Ticket { shareable: true, ..ticket };
    assert_eq!(refusal(&access(&directory, "bob"), &shared).0, Code::PermissionDenied);
    assert_eq!(refusal(&Access::anonymous(), &shared).0, Code::Unauthenticated);
}

/// The ticket of the result of a query of these tables.
fn result_of(access: &Access, tables: &[&str]) -> Ticket {
    let source = |table: &&str| {
        let table = name(table);
        ResultSource { permitted_columns: access.permitted_columns_hash(&table), table }
    };
    let result = Some(QueryResult { sources: tables.iter().map(source).collect() });
    let mut ticket = Ticket { table: name("query_results/1"), result, ..Ticket::default() };
    access.bind_ticket(&mut ticket, true);
    ticket
}

#[test]
fn result_of_a_query_is_for_its_principal_alone() {
    let directory = reader(3, &["ann", "bob"]);
    let (ann, bob) = (access(&directory, "ann"), access(&directory, "bob"));
    let ticket = result_of(&ann.clone().for_client(None, true), &["a/t", "a/u"]);
    assert_eq!((ticket.principal.as_str(), ticket.shareable, ticket.permitted_columns), ("ann", false, 0));
    ann.check_ticket(&ticket).unwrap();
    let (code, message) = refusal(&bob.for_client(None, true), &ticket);
    assert_eq!(code, Code::PermissionDenied);
    assert!(message.contains("a query of \"a/t\", \"a/u\"") && !message.contains("query_results"), "{message}");
    Access::open().check_ticket(&result_of(&Access::open(), &[])).unwrap();
}

#[test]
fn result_of_a_query_ends_with_the_rights_to_its_tables() {
    let of = |epoch, columns: &[&str]| access(&directory(epoch, &[column_grant("user:ann", "a", columns)]), "ann");
    let ticket = result_of(&of(3, &["x", "y"]), &["a/t"]);
    of(4, &["y", "x"]).check_ticket(&ticket).unwrap();
    access(&reader(4, &["ann"]), "ann").check_ticket(&ticket).unwrap();
    assert_eq!(refusal(&of(4, &["x"]), &ticket).0, Code::PermissionDenied);
    let (code, message) = refusal(&access(&reader(4, &["bob"]), "ann"), &ticket);
    assert_eq!(code, Code::NotFound);
    assert!(message.contains("\"a/t\""), "{message}");
    // One that read no table needs no right.
    access(&reader(4, &["bob"]), "ann").check_ticket(&result_of(&of(3, &["x"]), &[])).unwrap();
}
