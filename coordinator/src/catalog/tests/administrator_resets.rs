//! Resets of an administrator, for those who have lost all.

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{PutUserMode, ResetAdministrator, Role, User};

use super::helpers::*;
use super::identity::*;

pub fn reset_administrator(name: &str, generation: u64, after: u64) -> Op {
    let password_hash = format!("$argon2id$hash of {generation}");
    let user = User { name: name.into(), password_hash, generation, ..User::default() };
    Op::ResetAdministrator(ResetAdministrator { user: Some(user), after })
}

fn is_administrator(fixture: &CatalogFixture, name: &str) -> bool {
    fixture.catalog.grant(&format!("user:{name}"), Role::Admin, &[]).is_some()
}

#[test]
fn reset_replaces_the_password_and_keeps_the_rest() {
    let mut fixture = bootstrapped();
    fixture.must_apply(put_user("ann", PutUserMode::Create, 2, &["staff"]));
    fixture.must_apply(create_token(1, "ann", fixture.now + 10_000));
    let (created, before) = (fixture.now, epoch(&fixture));
    fixture.now += 5;
    fixture.must_apply(reset_administrator("ann", 9, 0));
    let ann = fixture.catalog.user("ann").unwrap();
    assert_eq!((ann.generation, ann.created_ms, ann.changed_ms), (9, created, fixture.now));
    assert_eq!((ann.password_hash.as_str(), &ann.groups), ("$argon2id$hash of 9", &vec!["staff".to_string()]));
    assert!(is_administrator(&fixture, "ann") && is_administrator(&fixture, "root"));
    assert_eq!((epoch(&fixture), fixture.catalog.tokens().count()), (before + 1, 1));
    let grant = fixture.catalog.grant("user:ann", Role::Admin, &[]).unwrap();
    assert_eq!((grant.granted_by.as_str(), grant.created_ms), ("reset", fixture.now));
}

#[test]
fn reset_creates_the_user_also_in_a_cluster_without_users() {
    for mut fixture in [bootstrapped(), CatalogFixture::new()] {
        fixture.must_apply(reset_administrator("new", 9, 0));
        assert!(is_administrator(&fixture, "new"));
        assert_eq!(fixture.catalog.user("new").unwrap().created_ms, fixture.now);
    }
}

#[test]
fn reset_is_applied_once_and_after_the_one_that_it_knows() {
    let mut fixture = bootstrapped();
    fixture.must_apply(reset_administrator("root", 5, 0));
    let before = epoch(&fixture);
    fixture.must_apply(reset_administrator("root", 5, 0));
    assert_eq!(epoch(&fixture), before, "a repeated command");
    let message = fixture.must_reject(reset_administrator("root", 6, 0), Code::Aborted);
    assert!(message.contains("another coordinator"), "{message}");
    fixture.must_apply(reset_administrator("ann", 6, 5));
    let resets = |fixture: &CatalogFixture| {
        let resets = fixture.catalog.administrator_resets().iter();
        resets.map(|reset| (reset.user.clone(), reset.generation)).collect::<Vec<_>>()
    };
    assert_eq!(resets(&fixture), [("root".to_string(), 5), ("ann".to_string(), 6)]);
    fixture.must_apply(remove_user("ann"));
    assert_eq!(resets(&fixture).len(), 2, "also without its user");
    (7..40).for_each(|generation| fixture.must_apply(reset_administrator("root", generation, generation - 1)));
    let kept = resets(&fixture);
    assert_eq!((kept.len(), kept[15].1), (16, 39), "the newest");
}

#[test]
fn reset_without_a_password_or_with_a_bad_name_is_refused() {
    let mut fixture = bootstrapped();
    for user in [
        User { name: "root".into(), generation: 1, ..User::default() },
        User { name: "root".into(), password_hash: "hash".into(), ..User::default() },
        User { name: "a:b".into(), password_hash: "hash".into(), generation: 1, ..User::default() },
    ] {
        let reset = ResetAdministrator { user: Some(user), after: 0 };
        fixture.must_reject(Op::ResetAdministrator(reset), Code::InvalidArgument);
    }
    fixture.must_reject(Op::ResetAdministrator(ResetAdministrator::default()), Code::InvalidArgument);
}

#[test]
fn reset_works_in_a_catalog_that_has_no_room() {
    let mut fixture = bootstrapped();
    let names: Vec<String> = (0..1000).map(|n| format!("{n:0120}")).collect();
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    // Users of some 122 kB, until 32 MiB are full.
    let is_refused = |answer: Answer| matches!(answer, Answer::Refusal(_));
    assert!((0..300).any(|n| is_refused(fixture.apply(put_user(&format!("u{n}"), PutUserMode::Create, 1, &groups)))));
    fixture.must_apply(reset_administrator("rescue", 9, 0));
    assert!(is_administrator(&fixture, "rescue"));
}
