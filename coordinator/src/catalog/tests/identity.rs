//! Administrators, signing keys, expiry and snapshots of identities; the commands that the tests of users and grants share.

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use volley_common::Code;
use volley_common::identity::{RETIRED_KEY_MS, SIGNING_KEY_MS};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AddSigningKey, Clear, CreateToken, Grant, PutGrant, PutUser, PutUserMode, Quota, RecoverCluster, RemoveGrant,
    RemoveUser, RevokeToken, Role, RotateTicketKey, ServiceToken, SetQuota, SigningKey, User,
};

use super::administrator_resets::reset_administrator;
use super::helpers::*;
use crate::catalog::Catalog;

pub fn put_user(name: &str, mode: PutUserMode, generation: u64, groups: &[&str]) -> Op {
    let user = User {
        name: name.into(),
        password_hash: "$argon2id$hash".into(),
        groups: groups.iter().map(ToString::to_string).collect(),
        generation,
        ..User::default()
    };
    Op::PutUser(PutUser { user: Some(user), mode: mode as i32 })
}

pub fn create_user(name: &str) -> Op {
    put_user(name, PutUserMode::Create, 0, &[])
}

pub fn remove_user(name: &str) -> Op {
    Op::RemoveUser(RemoveUser { name: name.into() })
}

pub fn token(id: u64, user: &str, expires_ms: u64) -> ServiceToken {
    ServiceToken {
        id: format!("{id:016x}"),
        user: user.into(),
        secret_sha256: Bytes::from_static(&[7; 32]),
        expires_ms,
        ..ServiceToken::default()
    }
}

pub fn create_token(id: u64, user: &str, expires_ms: u64) -> Op {
    Op::CreateToken(CreateToken { token: Some(token(id, user, expires_ms)) })
}

pub fn revoke_token(id: u64) -> Op {
    Op::RevokeToken(RevokeToken { id: format!("{id:016x}") })
}

fn prefix(text: &str) -> Vec<String> {
    if text == "/" { Vec::new() } else { name(text) }
}

pub fn grant_of(to: &str, role: Role, on: &str, columns: &[&str]) -> Grant {
    let columns = columns.iter().map(ToString::to_string).collect();
    Grant { to: to.into(), role: role as i32, prefix: prefix(on), columns, ..Grant::default() }
}

pub fn put_grant(to: &str, role: Role, on: &str) -> Op {
    Op::PutGrant(PutGrant { grant: Some(grant_of(to, role, on, &[])) })
}

pub fn remove_grant(to: &str, role: Role, on: &str) -> Op {
    Op::RemoveGrant(RemoveGrant { to: to.into(), role: role as i32, prefix: prefix(on) })
}

fn add_key(id: &str, older_than_ms: u64) -> Op {
    Op::AddSigningKey(signing_key(id, older_than_ms))
}

fn signing_key(id: &str, older_than_ms: u64) -> AddSigningKey {
    let key = SigningKey {
        id: id.into(),
        private_key: Bytes::from_static(b"private"),
        public_key: Bytes::from_static(&[3; 32]),
        created_ms: 0,
    };
    AddSigningKey { key: Some(key), older_than_ms, revoke_others: false }
}

/// A cluster with the first administrator, root.
pub fn bootstrapped() -> CatalogFixture {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(put_user("root", PutUserMode::Bootstrap, 1, &[]));
    fixture
}

pub fn epoch(fixture: &CatalogFixture) -> u64 {
    fixture.catalog.identity_epoch()
}

/// A random command about identities or quotas, for the tests of replays.
pub fn random_identity_op(random: &mut StdRng, now_ms: u64) -> Op {
    let user = ["root", "ann", "bob"][random.random_range(0..3)];
    let to = ["user:root", "user:ann", "user:of-a-certificate", "group:g"][random.random_range(0..4)];
    let on = ["/", "a", "c", "c/d"][random.random_range(0..4)];
    let role = [Role::Reader, Role::Writer, Role::Owner, Role::Operator, Role::Admin][random.random_range(0..5)];
    let id = random.random_range(0..6);
    match random.random_range(0..17) {
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
        11 => {
            let add = signing_key(&format!("k{id}"), random.random_range(0..3000));
            Op::AddSigningKey(AddSigningKey { revoke_others: random.random_bool(0.2), ..add })
        }
        12 => reset_administrator(user, random.random_range(1..4), random.random_range(0..4)),
        13 => Op::RotateTicketKey(RotateTicketKey {
            key: Bytes::from(vec![id as u8; 32]),
            sign_after_ms: random.random_range(0..900),
            keep_former_ms: random.random_range(0..900),
            revoke_former: random.random_bool(0.5),
        }),
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
    assert!(fixture.catalog.identity_snapshot().closed, "but the cluster is not open again");
    let mut copy = Catalog::default();
    fixture.catalog.rows().for_each(|row| copy.insert_row(row));
    assert!(copy.lost_identities(), "nor after a restart");
    fixture.must_apply(put_user("root", PutUserMode::Bootstrap, 0, &[]));
    assert!(!fixture.catalog.lost_identities() && fixture.catalog.has_identities());
    let mut alone = bootstrapped();
    alone.must_reject(remove_grant("user:root", Role::Admin, "/"), Code::FailedPrecondition);
    alone.must_apply(remove_user("root"));
    assert!(!alone.catalog.has_identities());
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
    fixture.must_apply(add_key("third", SIGNING_KEY_MS));
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().id, "third");
}

#[test]
fn signing_keys_are_checked_and_bounded() {
    let mut fixture = CatalogFixture::new();
    let short = SigningKey { id: "k".into(), public_key: Bytes::from_static(b"short"), ..SigningKey::default() };
    fixture.must_reject(
        Op::AddSigningKey(AddSigningKey { key: Some(short), ..AddSigningKey::default() }),
        Code::InvalidArgument,
    );
    fixture.must_reject(add_key("", 0), Code::InvalidArgument);
    (0..100).for_each(|n| fixture.must_apply(add_key(&format!("k{n}"), 0)));
    fixture.must_reject(add_key("k100", 0), Code::ResourceExhausted);
    let before = epoch(&fixture);
    fixture.must_apply(add_key("k99", 0));
    assert_eq!(epoch(&fixture), before, "a repeated command");
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().id, "k99", "all of one millisecond");
}

#[test]
fn signing_keys_are_revoked_by_one_that_replaces_all() {
    let mut fixture = bootstrapped();
    (0..100).for_each(|n| fixture.must_apply(add_key(&format!("k{n}"), 0)));
    let before = epoch(&fixture);
    let revoke = |id: &str| Op::AddSigningKey(AddSigningKey { revoke_others: true, ..signing_key(id, 0) });
    fixture.must_apply(revoke("a"));
    let keys = |fixture: &CatalogFixture| fixture.catalog.identity_snapshot().keys;
    assert!(keys(&fixture).len() == 1 && keys(&fixture)[0].id == "a" && epoch(&fixture) == before + 1);
    fixture.must_apply(add_key("b", 0));
    fixture.must_apply(revoke("a"));
    assert_eq!(keys(&fixture).len(), 2, "a repeated command");
    assert_eq!(fixture.catalog.newest_signing_key().unwrap().id, "b");
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
