//! Users, service tokens, grants and signing keys.

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use volley_common::Code;
use volley_common::identity::{RETIRED_KEY_MS, SIGNING_KEY_MS};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AddSigningKey, Clear, CreateToken, Grant, PutGrant, PutUser, PutUserMode, Quota, RecoverCluster, RemoveGrant,
    RemoveUser, RevokeToken, Role, ServiceToken, SetQuota, SigningKey, User,
};

use super::helpers::*;
use crate::catalog::Catalog;

fn put_user(name: &str, mode: PutUserMode, generation: u64, groups: &[&str]) -> Op {
    let user = User {
        name: name.into(),
        password_hash: "$argon2id$hash".into(),
        groups: groups.iter().map(ToString::to_string).collect(),
        generation,
        ..User::default()
    };
    Op::PutUser(PutUser { user: Some(user), mode: mode as i32 })
}

fn create_user(name: &str) -> Op {
    put_user(name, PutUserMode::Create, 0, &[])
}

fn remove_user(name: &str) -> Op {
    Op::RemoveUser(RemoveUser { name: name.into() })
}

fn token(id: u64, user: &str, expires_ms: u64) -> ServiceToken {
    ServiceToken {
        id: format!("{id:016x}"),
        user: user.into(),
        secret_sha256: Bytes::from_static(&[7; 32]),
        expires_ms,
        ..ServiceToken::default()
    }
}

fn create_token(id: u64, user: &str, expires_ms: u64) -> Op {
    Op::CreateToken(CreateToken { token: Some(token(id, user, expires_ms)) })
}

fn revoke_token(id: u64) -> Op {
    Op::RevokeToken(RevokeToken { id: format!("{id:016x}") })
}

fn prefix(text: &str) -> Vec<String> {
    if text == "/" { Vec::new() } else { name(text) }
}

fn grant_of(to: &str, role: Role, on: &str, columns: &[&str]) -> Grant {
    let columns = columns.iter().map(ToString::to_string).collect();
    Grant { to: to.into(), role: role as i32, prefix: prefix(on), columns, ..Grant::default() }
}

fn put_grant(to: &str, role: Role, on: &str) -> Op {
    Op::PutGrant(PutGrant { grant: Some(grant_of(to, role, on, &[])) })
}

fn remove_grant(to: &str, role: Role, on: &str) -> Op {
    Op::RemoveGrant(RemoveGrant { to: to.into(), role: role as i32, prefix: prefix(on) })
}

fn add_key(id: &str, older_than_ms: u64) -> Op {
    let key = SigningKey {
        id: id.into(),
        private_key: Bytes::from_static(b"private"),
        public_key: Bytes::from_static(&[3; 32]),
        created_ms: 0,
    };
    Op::AddSigningKey(AddSigningKey { key: Some(key), older_than_ms })
}

/// A cluster with the first administrator, root.
fn bootstrapped() -> CatalogFixture {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(put_user("root", PutUserMode::Bootstrap, 1, &[]));
    fixture
}

fn epoch(fixture: &CatalogFixture) -> u64 {
    fixture.catalog.identity_epoch()
}

/// A random command about identities or quotas, for the tests of replays.
pub fn random_identity_op(random: &mut StdRng, now_ms: u64) -> Op {
    let user = ["root", "ann", "bob"][random.random_range(0..3)];
    let to = ["user:root", "user:ann", "user:of-a-certificate", "group:g"][random.random_range(0..4)];
    let on = ["/", "a", "c", "c/d"][random.random_range(0..4)];
    let role = [Role::Reader, Role::Writer, Role::Owner, Role::Operator, Role::Admin][random.random_range(0..5)];
    let id = random.random_range(0..6);
    match random.random_range(0..14) {
        0 => put_user(user, PutUserMode::Bootstrap, random.random_range(0..3), &[]),
        1 => put_user(user, PutUserMode::Create, random.random_range(0..3), &["g"]),
        2 => put_user(user, PutUserMode::Password, random.random_range(0..3), &[]),
        3 => put_user(user, PutUserMode::Groups, 0, &["h", "g"][..random.random_range(0..3)]),
        4 => remove_user(user),
        5 | 6 => create_token(id, user, now_ms + random.random_range(0..900)),
        7 => revoke_token(id),
        8 | 9 => {
            Op::PutGrant(PutGrant { grant: Some(grant_of(to, role, on, &["x", "y"][..random.random_range(0..3)])) })
        }
        10 => remove_grant(to, role, on),
        11 => add_key(&format!("k{id}"), random.random_range(0..3000)),
        _ => {
            // Without a quota of the whole cluster, so that most writes still commit.
            let on = ["c", "c/d"][random.random_range(0..2)];
            let bytes = random.random_range(0..4) * 500;
            let tables = random.random_range(0..2);
            Op::SetQuota(SetQuota { quota: Some(Quota { prefix: prefix(on), bytes, tables }) })
        }
    }
}

/// Checks what must hold after every command.
pub fn check_identity(catalog: &Catalog) {
    let has_admin = catalog.grants().any(|grant| grant.role == Role::Admin as i32 && grant.prefix.is_empty());
    assert!(has_admin || !catalog.has_identities(), "nobody could change the rights any more");
    for token in catalog.tokens() {
        assert!(catalog.user(&token.user).is_some(), "a token of no user");
        assert!(catalog.tokens_of(&token.user).any(|one| one == token));
    }
    for used in catalog.quotas() {
        let tables = catalog.tables().filter(|table| table.name.starts_with(&used.quota.prefix));
        let counted = tables.fold((0, 0), |(bytes, tables), table| (bytes + table.bytes, tables + 1));
        assert_eq!((used.bytes, used.tables), counted, "{:?}", used.quota);
    }
}

#[test]
fn first_administrator_is_created_once_with_its_grant() {
    let mut fixture = bootstrapped();
    let root = fixture.catalog.user("root").unwrap();
    assert_eq!((root.created_ms, root.generation), (fixture.now, 1));
    let grant = fixture.catalog.grant("user:root", Role::Admin, &[]).unwrap();
    assert_eq!((grant.created_ms, grant.granted_by.as_str()), (fixture.now, "bootstrap"));
    assert_eq!(epoch(&fixture), 1);
    let again = put_user("eve", PutUserMode::Bootstrap, 2, &[]);
    assert!(fixture.must_reject(again, Code::FailedPrecondition).contains("users or grants already"));
    let mut granted = CatalogFixture::new();
    granted.must_apply(put_grant("user:of-a-certificate", Role::Admin, "/"));
    let message = granted.must_reject(put_user("eve", PutUserMode::Bootstrap, 2, &[]), Code::FailedPrecondition);
    assert!(message.contains("users or grants already"), "{message}");
    let without =
        PutUser { user: Some(User { name: "root".into(), ..User::default() }), mode: PutUserMode::Bootstrap as i32 };
    assert!(CatalogFixture::new().must_reject(Op::PutUser(without), Code::InvalidArgument).contains("password"));
}

#[test]
fn cluster_is_not_closed_before_it_has_an_administrator() {
    let mut fixture = CatalogFixture::new();
    for op in [create_user("ann"), put_grant("user:ann", Role::Reader, "/"), put_grant("group:g", Role::Owner, "a")] {
        let message = fixture.must_reject(op, Code::FailedPrecondition);
        assert!(message.contains("no administrator yet") && message.contains("bootstrap_admin_file"), "{message}");
    }
    // A principal of a certificate has no row.
    fixture.must_apply(put_grant("user:of-a-certificate", Role::Admin, "/"));
    fixture.must_apply(create_user("ann"));
    assert!(fixture.catalog.has_identities());
}

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
fn last_administrator_stays_while_there_are_others() {
    let mut fixture = bootstrapped();
    fixture.must_apply(create_user("ann"));
    for op in [remove_user("root"), remove_grant("user:root", Role::Admin, "/")] {
        let message = fixture.must_reject(op, Code::FailedPrecondition);
        assert!(message.contains("the last administrator") && message.contains("\"user:root\""), "{message}");
    }
    fixture.must_apply(put_grant("group:admins", Role::Admin, "/"));
    fixture.must_apply(remove_grant("user:root", Role::Admin, "/"));
    fixture.must_apply(remove_user("root"));
    fixture.must_reject(remove_grant("group:admins", Role::Admin, "/"), Code::FailedPrecondition);
    fixture.must_apply(remove_user("ann"));
    fixture.must_apply(remove_grant("group:admins", Role::Admin, "/"));
    assert!(!fixture.catalog.has_identities(), "everything was removed");
    let mut alone = bootstrapped();
    alone.must_reject(remove_grant("user:root", Role::Admin, "/"), Code::FailedPrecondition);
    alone.must_apply(remove_user("root"));
    assert!(!alone.catalog.has_identities());
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
fn size_of_the_rows_is_bounded_and_counted_when_they_shrink() {
    let mut fixture = bootstrapped();
    let names: Vec<String> = (0..1000).map(|n| format!("{n:0120}")).collect();
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused =
        (0..1000).find_map(|n| match fixture.apply(put_user(&format!("u{n}"), PutUserMode::Create, 1, &groups)) {
            volley_common::wire::catalog::reply::Reply::Refusal(refusal) => Some((n, refusal)),
            _ => None,
        });
    // A user has about 122 kB, and all together 32 MiB.
    let (n, refusal) = refused.expect("bounded");
    assert!((200..300).contains(&n) && refusal.code == Code::ResourceExhausted as i32, "{n}: {}", refusal.message);
    fixture.must_apply(put_user("u0", PutUserMode::Groups, 0, &[]));
    fixture.must_apply(put_user(&format!("u{n}"), PutUserMode::Create, 1, &groups));
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
fn expiry_removes_tokens_and_replaced_signing_keys() {
    let mut fixture = bootstrapped();
    fixture.must_apply(create_token(1, "root", fixture.now + 10));
    fixture.must_apply(create_token(2, "root", fixture.now + 10_000_000));
    fixture.must_apply(add_key("first", SIGNING_KEY_MS));
    let needed = |fixture: &CatalogFixture| fixture.catalog.needs_expiry(fixture.now, &keep(1));
    assert!(!needed(&fixture));
    fixture.now += 10;
    assert!(needed(&fixture));
    let before = epoch(&fixture);
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!(epoch(&fixture), before + 1);
    assert_eq!(fixture.catalog.tokens().count(), 1);

    fixture.must_apply(add_key("too-early", SIGNING_KEY_MS));
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().id, "first");
    fixture.must_apply(add_key("second", 0));
    let added = epoch(&fixture);
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().id, "second");
    fixture.now += RETIRED_KEY_MS - 1;
    fixture.must_apply(Op::Expire(keep(1)));
    let keys = |fixture: &CatalogFixture| -> Vec<String> {
        fixture.catalog.identity_snapshot().keys.into_iter().map(|key| key.id).collect()
    };
    assert_eq!((keys(&fixture), epoch(&fixture)), (vec!["first".to_string(), "second".to_string()], added));
    fixture.now += 1;
    assert!(needed(&fixture));
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!(keys(&fixture), ["second"], "the newest stays, however old it is");
    fixture.now += SIGNING_KEY_MS;
    assert!(fixture.catalog.tokens().count() == 1 || needed(&fixture));
    fixture.must_apply(add_key("third", SIGNING_KEY_MS));
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().id, "third");
}

#[test]
fn signing_keys_are_checked_and_bounded() {
    let mut fixture = CatalogFixture::new();
    let short = SigningKey { id: "k".into(), public_key: Bytes::from_static(b"short"), ..SigningKey::default() };
    fixture.must_reject(Op::AddSigningKey(AddSigningKey { key: Some(short), older_than_ms: 0 }), Code::InvalidArgument);
    fixture.must_reject(add_key("", 0), Code::InvalidArgument);
    (0..100).for_each(|n| fixture.must_apply(add_key(&format!("k{n}"), 0)));
    fixture.must_reject(add_key("k100", 0), Code::ResourceExhausted);
    let before = epoch(&fixture);
    fixture.must_apply(add_key("k99", 0));
    assert_eq!(epoch(&fixture), before, "a repeated command");
}

#[test]
fn snapshot_for_members_has_no_secrets() {
    let mut fixture = bootstrapped();
    fixture.must_apply(add_key("k", 0));
    fixture.must_apply(create_token(1, "root", fixture.now + 10));
    let snapshot = fixture.catalog.identity_snapshot();
    assert_eq!((snapshot.epoch, snapshot.closed), (epoch(&fixture), false));
    assert!(snapshot.users.iter().all(|user| user.password_hash.is_empty() && user.generation == 1));
    assert!(snapshot.keys.iter().all(|key| key.private_key.is_empty() && key.public_key.len() == 32));
    assert_eq!((snapshot.users.len(), snapshot.tokens.len(), snapshot.grants.len(), snapshot.keys.len()), (1, 1, 1, 1));
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().private_key, "private");
}

#[test]
fn clear_keeps_identities_and_recovery_skips_epochs() {
    let mut fixture = bootstrapped();
    fixture.must_apply(Op::Clear(Clear {}));
    assert!(fixture.catalog.user("root").is_some());
    let recover = || Op::RecoverCluster(RecoverCluster { id: "c.1.0".into(), coordinator: None });
    fixture.must_apply(recover());
    assert!(fixture.catalog.user("root").is_some());
    assert!(epoch(&fixture) > 1_000_000, "no epoch of a lost change returns");
    let mut open = CatalogFixture::new();
    open.must_apply(recover());
    assert_eq!(epoch(&open), 0);
}
