//! Tickets and assertions: nobody without the key makes one, an altered one is refused, and the rights of who redeems a ticket
//! come of grants.
//!
//! The first byte chooses what the others are: bytes that a client sends as a ticket; a ticket or an assertion to sign and
//! alter; or users and grants, with a ticket and who redeems it.

use std::sync::Arc;

use http::Extensions;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::identity::{Access, Directory, LoginMethod, Principal};
use volley_common::options::TicketRequest;
use volley_common::ticket::{MAGIC, SQL_MAGIC, TicketKey, is_signed};
use volley_common::wire::catalog::{Grant, Role, User};
use volley_common::wire::cluster::{
    Assertion, Columns, IdentitySnapshot, Query, QueryResult, ResultSource, TableVersion, Ticket, TicketPart,
};

use crate::input::{FuzzInput, check_error, chunk};

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    match input.byte() % 4 {
        0 => received(input.rest()),
        1 => signed_ticket(input),
        2 => signed_assertion(input),
        _ => redeemed(input),
    }
}

/// The input cannot contain a signature: it does not know the key.
fn key() -> TicketKey {
    TicketKey::new(b"the fuzzer does not know this one")
}

fn received(bytes: &[u8]) {
    for result in [key().verify(bytes, 0).map(drop), key().verify_assertion(bytes, 0).map(drop)] {
        check_error(&result.expect_err("a signature without the key"), bytes.len());
    }
    match TicketRequest::from_ticket(bytes, &MetadataMap::new()) {
        Ok(TicketRequest::Signed(signed)) => assert!(is_signed(bytes) && signed == bytes),
        Ok(TicketRequest::Table(_)) => assert!(!is_signed(bytes)),
        Err(error) => check_error(&error, bytes.len()),
    }
}

/// Changes a byte of signed bytes, or cuts them off there if `flip` is 0.
fn altered(signed: &[u8], at: u16, flip: u8) -> Vec<u8> {
    let at = usize::from(at) % signed.len();
    let mut changed = signed.to_vec();
    match flip {
        0 => changed.truncate(at),
        _ => changed[at] ^= flip,
    }
    changed
}

fn signed_ticket(mut input: FuzzInput<'_>) {
    let (at, flip) = (input.number(), input.byte());
    let Ok(ticket) = Ticket::decode(input.rest()) else { return };
    let (key, signed) = (key(), key().sign(&ticket));
    assert!(is_signed(&signed));
    match ticket.expires_ms.checked_sub(1) {
        Some(before) => assert!(key.verify(&signed, before).as_ref() == Ok(&ticket), "a signed ticket is refused"),
        None => assert!(key.verify(&signed, 0).is_err()),
    }
    check_error(&key.verify(&signed, ticket.expires_ms).expect_err("it has expired"), signed.len());
    check_error(&key.verify(&altered(&signed, at, flip), 0).expect_err("it was altered"), signed.len());
    assert!(key.verify_assertion(&signed, 0).is_err(), "a ticket is an assertion");
}

fn signed_assertion(mut input: FuzzInput<'_>) {
    let (at, flip) = (input.number(), input.byte());
    let Ok(assertion) = Assertion::decode(input.rest()) else { return };
    let (key, signed) = (key(), key().sign_assertion(&assertion));
    if let Some(before) = assertion.expires_ms.checked_sub(1) {
        assert!(key.verify_assertion(&signed, before).as_ref() == Ok(&assertion), "a signed assertion is refused");
    }
    assert!(key.verify_assertion(&signed, assertion.expires_ms).is_err(), "it has expired");
    check_error(&key.verify_assertion(&altered(&signed, at, flip), 0).expect_err("it was altered"), signed.len());
    assert!(key.verify(&signed, 0).is_err(), "an assertion is a ticket");
}

fn redeemed(mut input: FuzzInput<'_>) {
    let Ok(snapshot) = IdentitySnapshot::decode(input.chunk()) else { return };
    let Ok(ticket) = Ticket::decode(input.chunk()) else { return };
    let name = String::from_utf8_lossy(input.chunk()).into_owned();
    let group = String::from_utf8_lossy(input.chunk()).into_owned();
    let directory = Arc::new(Directory::new(&snapshot));
    let principal = |name: &str| Principal {
        name: name.to_string(),
        groups: vec![group.clone()],
        method: LoginMethod::Oidc,
        credential: String::new(),
    };
    let access = Access::of_principal(principal(&name), directory.clone());
    check_rights(&access, &snapshot, &name, &group, &ticket.table);
    // A ticket as somebody planned it, perhaps long ago.
    if let Err(error) = access.check_ticket(&ticket) {
        check_error(&error, ticket.encoded_len() + name.len());
    }
    assert!(Access::of(&Extensions::new()).check_ticket(&ticket).is_err(), "nobody redeems a ticket");
    let mut own = ticket;
    access.bind_ticket(&mut own, false);
    assert!(access.check_ticket(&own).is_ok(), "a principal may redeem what it has just planned");
    let other = Access::of_principal(principal(&format!("{name}!")), directory);
    assert!(other.check_ticket(&own).is_err(), "another principal redeems a ticket that is not shareable");
}

/// Compares the rights on a table with the grants.
fn check_rights(access: &Access, snapshot: &IdentitySnapshot, name: &str, group: &str, table: &[String]) {
    let of_user = snapshot.users.iter().filter(|user| user.name == name).flat_map(|user| &user.groups);
    let groups: Vec<&str> = of_user.map(String::as_str).chain([group]).collect();
    let is_granted = |grant: &Grant| {
        let is_to = match grant.to.split_once(':') {
            Some(("user", to)) => to == name,
            Some(("group", to)) => groups.contains(&to),
            _ => false,
        };
        let gives_data = matches!(grant.role(), Role::Reader | Role::Writer | Role::Owner | Role::Admin);
        is_to && gives_data && table.starts_with(&grant.prefix)
    };
    let (reads, writes) = (access.can_read(table), access.require(Role::Writer, table).is_ok());
    let owns = access.require(Role::Owner, table).is_ok();
    assert_eq!(reads, access.require(Role::Reader, table).is_ok());
    assert!(!writes || reads, "who writes reads");
    assert!(!owns || writes, "who owns writes");
    assert!(!reads || snapshot.grants.iter().any(is_granted), "a right that nobody granted");
    assert_eq!(access.permitted_columns(table).is_none(), access.permitted_columns_hash(table) == 0);
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let part = TicketPart { holders: vec![1, 2], rows: 10, ..TicketPart::default() };
    let ticket = Ticket {
        table: vec!["sales".into(), "eu".into()],
        expires_ms: 1000,
        version: 3,
        principal: "ann".into(),
        grant_epoch: 1,
        parts: vec![part],
        columns: Some(Columns { index: vec![1] }),
        limit: Some(7),
        ..Ticket::default()
    };
    let filtered = Ticket { filter: "a > 1".into(), ..ticket.clone() };
    let table = TableVersion { table: ticket.table.clone(), version: Some(3), table_id: 7 };
    let query = Query { sql: "SELECT 1".into(), tables: vec![table], ..Query::default() };
    let query = Ticket { principal: "ann".into(), expires_ms: 1000, query: Some(query), ..Ticket::default() };
    let source = ResultSource { table: ticket.table.clone(), permitted_columns: 0 };
    let result = Ticket { result: Some(QueryResult { sources: vec![source] }), ..ticket.clone() };
    let assertion = Assertion { principal: "ann".into(), path: "/x".into(), expires_ms: 1000, ..Assertion::default() };
    let grant = |to: &str, role: Role, prefix: &[&str]| Grant {
        to: to.into(),
        role: role.into(),
        prefix: prefix.iter().map(ToString::to_string).collect(),
        ..Grant::default()
    };
    let columns = Grant { columns: vec!["id".into()], ..grant("group:b", Role::Reader, &["sales"]) };
    let snapshot = IdentitySnapshot {
        epoch: 2,
        users: vec![User { name: "ann".into(), groups: vec!["b".into()], ..User::default() }],
        grants: vec![columns, grant("user:ann", Role::Owner, &["sales", "eu"]), grant("group:a", Role::Admin, &[])],
        ..IdentitySnapshot::default()
    };
    let redeemed_as = |ticket: &Ticket, name: &str, group: &str| {
        let parts = [chunk(&snapshot.encode_to_vec()), chunk(&ticket.encode_to_vec())];
        [vec![3], parts.concat(), chunk(name.as_bytes()), chunk(group.as_bytes())].concat()
    };
    let redeemed = |name: &str, group: &str| redeemed_as(&ticket, name, group);
    vec![
        b"\0sales/eu".to_vec(),
        b"\0{\"table\": \"sales\", \"limit\": 3}".to_vec(),
        [&b"\0"[..], MAGIC, &[7; 32], &ticket.encode_to_vec()].concat(),
        [&b"\0"[..], SQL_MAGIC, &[7; 32], &filtered.encode_to_vec()].concat(),
        [&[1, 9, 0, 1][..], &ticket.encode_to_vec()].concat(),
        [&[1, 9, 0, 1][..], &filtered.encode_to_vec()].concat(),
        [&[1, 7, 0, 3][..], &query.encode_to_vec()].concat(),
        [&[1, 9, 0, 0][..], &ticket.encode_to_vec()].concat(),
        [&[2, 60, 0, 1][..], &assertion.encode_to_vec()].concat(),
        redeemed("ann", ""),
        redeemed("bob", "a"),
        redeemed("bob", "b"),
        redeemed_as(&query, "ann", ""),
        redeemed_as(&query, "bob", "b"),
        redeemed_as(&result, "ann", ""),
        redeemed_as(&result, "bob", "b"),
    ]
}
