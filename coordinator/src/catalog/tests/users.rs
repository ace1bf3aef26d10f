//! Users, service tokens and grants.

use bytes::Bytes;
use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{CreateToken, Grant, PutGrant, PutUser, PutUserMode, Role, ServiceToken, User};

use super::helpers::*;
use super::identity::*;

#[test]
fn user_is_created_once_and_a_repeated_command_has_no_effect() {
    let mut fixture = bootstrapped();
    fixture.must_apply(put_user("ann", PutUserMode::Create, 5, &["g", "a", "g"]));
    assert_eq!(fixture.catalog.user("ann").unwrap().groups, ["a", "g"]);
    let before = epoch(&fixture);
    fixture.must_apply(put_user("ann", PutUserMode::Create, 5, &["a", "g"]));
    assert_eq!(epoch(&fixture), before, "the same command");
    for generation in [0, 6] {
        let op = put_user("ann", PutUserMode::Create, generation, &["a", "g"]);
        assert!(fixture.must_reject(op, Code::AlreadyExists).contains("\"ann\" exists already"));
    }
    for bad in ["", " ann", "a:b", "a\u{0}b", &"x".repeat(129)] {
        fixture.must_reject(create_user(bad), Code::InvalidArgument);
        fixture.must_reject(put_user("bob", PutUserMode::Create, 1, &[bad]), Code::InvalidArgument);
    }
    fixture.must_reject(Op::PutUser(PutUser { user: None, mode: 0 }), Code::InvalidArgument);
    let newer = PutUser { user: Some(User { name: "bob".into(), ..User::default() }), mode: 77 };
    fixture.must_reject(Op::PutUser(newer), Code::Unimplemented);
}

#[test]
fn groups_of_a_user_are_bounded() {
    let mut fixture = bootstrapped();
    let groups: Vec<String> = (0..1001).map(|n| format!("g{n}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let message = fixture.must_reject(put_user("ann", PutUserMode::Create, 1, &groups), Code::ResourceExhausted);
    assert!(message.contains("1001 groups"), "{message}");
    fixture.must_apply(put_user("ann", PutUserMode::Create, 1, &groups[1..]));
}

#[test]
fn password_and_groups_are_changed_separately() {
    let mut fixture = bootstrapped();
    fixture.must_apply(put_user("ann", PutUserMode::Create, 5, &["g"]));
    let created_ms = fixture.now;
    fixture.now += 10;
    fixture.must_apply(put_user("ann", PutUserMode::Password, 6, &["ignored"]));
    let ann = fixture.catalog.user("ann").unwrap();
    assert_eq!((ann.generation, ann.groups.clone()), (6, vec!["g".to_string()]));
    assert_eq!((ann.created_ms, ann.changed_ms), (created_ms, fixture.now));
    let hash = ann.password_hash.clone();
    fixture.must_apply(put_user("ann", PutUserMode::Groups, 99, &["h"]));
    let ann = fixture.catalog.user("ann").unwrap();
    assert_eq!((ann.generation, &ann.password_hash, ann.groups.clone()), (6, &hash, vec!["h".to_string()]));
    let before = epoch(&fixture);
    fixture.must_apply(put_user("ann", PutUserMode::Groups, 0, &["h"]));
    assert_eq!(epoch(&fixture), before, "nothing changed");
    for mode in [PutUserMode::Password, PutUserMode::Groups] {
        assert!(fixture.must_reject(put_user("bob", mode, 1, &[]), Code::NotFound).contains("no user \"bob\""));
    }
}

#[test]
fn tokens_and_grants_are_removed_with_their_user() {
    let mut fixture = bootstrapped();
    let later = fixture.now + 1000;
    fixture.must_apply(create_user("ann"));
    fixture.must_apply(create_user("anna"));
    for (id, user) in [(1, "ann"), (2, "ann"), (3, "anna")] {
        fixture.must_apply(create_token(id, user, later));
    }
    for to in ["user:ann", "user:anna", "group:ann"] {
        fixture.must_apply(put_grant(to, Role::Reader, "a"));
        fixture.must_apply(put_grant(to, Role::Writer, "a/b"));
    }
    let before = epoch(&fixture);
    fixture.must_apply(remove_user("ann"));
    assert_eq!(epoch(&fixture), before + 1);
    assert!(fixture.catalog.user("ann").is_none());
    assert_eq!(fixture.catalog.tokens().map(|token| token.user.as_str()).collect::<Vec<_>>(), ["anna"]);
    assert!(fixture.catalog.grants().all(|grant| grant.to != "user:ann"));
    assert_eq!(fixture.catalog.grants().count(), 5);
    assert!(fixture.must_reject(remove_user("ann"), Code::NotFound).contains("\"ann\""));
    check_identity(&fixture.catalog);
}

#[test]
fn service_token_needs_a_user_and_a_future() {
    let mut fixture = bootstrapped();
    let later = fixture.now + 1000;
    assert!(fixture.must_reject(create_token(1, "ann", later), Code::NotFound).contains("no user \"ann\""));
    fixture.must_apply(create_token(1, "root", later));
    assert_eq!(fixture.catalog.token("0000000000000001").unwrap().created_ms, fixture.now);
    let before = epoch(&fixture);
    fixture.must_apply(create_token(1, "root", later));
    assert_eq!(epoch(&fixture), before, "a repeated command");
    fixture.must_reject(create_token(1, "root", later + 1), Code::AlreadyExists);
    let end = fixture.now;
    assert!(fixture.must_reject(create_token(2, "root", end), Code::InvalidArgument).contains("expired already"));
    for bad in [
        ServiceToken { id: "1".into(), ..token(2, "root", later) },
        ServiceToken { id: "000000000000000G".into(), ..token(2, "root", later) },
        ServiceToken { secret_sha256: Bytes::from_static(b"short"), ..token(2, "root", later) },
        ServiceToken { name: "a:b".into(), ..token(2, "root", later) },
    ] {
        fixture.must_reject(Op::CreateToken(CreateToken { token: Some(bad) }), Code::InvalidArgument);
    }
    fixture.must_apply(revoke_token(1));
    assert!(fixture.must_reject(revoke_token(1), Code::NotFound).contains("0000000000000001"));
}

#[test]
fn tokens_of_one_user_are_bounded() {
    let mut fixture = bootstrapped();
    let later = fixture.now + 1000;
    (0..1000).for_each(|id| fixture.must_apply(create_token(id, "root", later)));
    let message = fixture.must_reject(create_token(1000, "root", later), Code::ResourceExhausted);
    assert!(message.contains("1000 service tokens"), "{message}");
    fixture.must_apply(create_user("ann"));
    fixture.must_apply(create_token(1000, "ann", later));
}

#[test]
fn users_of_a_cluster_are_bounded() {
    let mut fixture = bootstrapped();
    (1..100_000).for_each(|n| fixture.must_apply(create_user(&format!("u{n}"))));
    let message = fixture.must_reject_in_place(create_user("one-more"), Code::ResourceExhausted);
    assert!(message.contains("100000 users"), "{message}");
}

#[test]
fn repeated_grant_keeps_the_epoch_and_other_columns_replace_it() {
    let mut fixture = bootstrapped();
    let reader =
        |columns: &[&str]| Op::PutGrant(PutGrant { grant: Some(grant_of("group:g", Role::Reader, "a", columns)) });
    fixture.must_apply(reader(&["y", "x", "y"]));
    let (before, granted_ms) = (epoch(&fixture), fixture.now);
    fixture.now += 5;
    fixture.must_apply(reader(&["x", "y"]));
    assert_eq!(epoch(&fixture), before);
    assert_eq!(fixture.catalog.grant("group:g", Role::Reader, &name("a")).unwrap().created_ms, granted_ms);
    fixture.must_apply(reader(&["x"]));
    assert_eq!(epoch(&fixture), before + 1);
    let grant = fixture.catalog.grant("group:g", Role::Reader, &name("a")).unwrap();
    assert_eq!((grant.columns.clone(), grant.created_ms), (vec!["x".to_string()], fixture.now));
    fixture.must_apply(remove_grant("group:g", Role::Reader, "a"));
    let message = fixture.must_reject(remove_grant("group:g", Role::Reader, "a"), Code::NotFound);
    assert!(message.contains("reader") && message.contains("\"a\""), "{message}");
}

#[test]
fn malformed_grant_is_refused() {
    let mut fixture = bootstrapped();
    for (grant, word) in [
        (grant_of("ann", Role::Reader, "a", &[]), "user:NAME"),
        (grant_of("user:", Role::Reader, "a", &[]), "user:NAME"),
        (grant_of("role:ann", Role::Reader, "a", &[]), "user:NAME"),
        (grant_of("user:a\u{0}b", Role::Reader, "a", &[]), "user:NAME"),
        (grant_of("user: ann", Role::Reader, "a", &[]), "user:NAME"),
        (grant_of(&format!("user:{}", "x".repeat(257)), Role::Reader, "a", &[]), "user:NAME"),
        (grant_of("user:ann", Role::Unspecified, "a", &[]), "reader, writer, owner"),
        (Grant { role: 99, ..grant_of("user:ann", Role::Reader, "a", &[]) }, "reader, writer, owner"),
        (grant_of("user:ann", Role::Operator, "a", &[]), "operator"),
        (grant_of("user:ann", Role::Admin, "a", &[]), "admin"),
        (grant_of("user:ann", Role::Writer, "a", &["x"]), "cannot name columns"),
        (Grant { prefix: vec!["a/b".into()], ..grant_of("user:ann", Role::Reader, "/", &[]) }, "slash"),
        (Grant { prefix: vec!["a".into(), String::new()], ..grant_of("user:ann", Role::Reader, "/", &[]) }, "empty"),
    ] {
        let message = fixture.must_reject(Op::PutGrant(PutGrant { grant: Some(grant) }), Code::InvalidArgument);
        assert!(message.contains(word), "{message}");
    }
    // As certificates and OIDC name principals.
    for to in ["user:spiffe://cluster/ns/jobs", "group:system:serviceaccounts", "user:CN=Ann Bee,O=C"] {
        fixture.must_apply(put_grant(to, Role::Reader, "a"));
    }
}

#[test]
fn grants_to_one_receiver_and_by_one_granter_are_limited() {
    let mut fixture = bootstrapped();
    let put = |to: usize, on: &str, granted_by: &str| {
        let grant = grant_of(&format!("group:{to}"), Role::Reader, on, &[]);
        Op::PutGrant(PutGrant { grant: Some(Grant { granted_by: granted_by.into(), ..grant }) })
    };
    let full = (0..10).flat_map(|to| (0..1000).map(move |on| (to, format!("t{on}"))));
    full.for_each(|(to, on)| fixture.must_apply(put(to, &on, "ann")));
    let message = fixture.must_reject(put(0, "more", "bob"), Code::ResourceExhausted);
    assert!(message.contains("\"group:0\"") && message.contains("1000"), "{message}");
    let message = fixture.must_reject(put(10, "more", "ann"), Code::ResourceExhausted);
    assert!(message.contains("\"ann\"") && message.contains("10000"), "{message}");
    fixture.must_apply(put(10, "more", "bob"));
    fixture.must_apply(put(0, "t1", "bob"));
    fixture.must_apply(remove_grant("group:0", Role::Reader, "t0"));
    fixture.must_apply(put(0, "more", "ann"));
    fixture.must_reject(put(11, "more", "ann"), Code::ResourceExhausted);
}
