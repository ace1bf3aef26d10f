//! The replacement of ticket keys: which one signs, and which are accepted, at each step.

use bytes::Bytes;
use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{RotateTicketKey, WriteMode};

use super::helpers::*;
use super::identity::{bootstrapped, epoch};
use crate::catalog::ticket_keys::MAX_FORMER;

const LEARN: u64 = 60;
const KEEP: u64 = 1_000;

fn key(n: u8) -> Bytes {
    Bytes::from(vec![n; 32])
}

fn rotate(n: u8) -> Op {
    Op::RotateTicketKey(RotateTicketKey {
        key: key(n),
        sign_after_ms: LEARN,
        keep_former_ms: KEEP,
        revoke_former: false,
    })
}

fn revoke(n: u8, keep_former_ms: u64) -> Op {
    Op::RotateTicketKey(RotateTicketKey { key: key(n), sign_after_ms: LEARN, keep_former_ms, revoke_former: true })
}

/// The keys as members get them, by their first byte; that of the fixture is `b'k'`.
fn keys(fixture: &CatalogFixture) -> Vec<u8> {
    fixture.catalog.identity_snapshot().ticket_keys.iter().map(|key| key[0]).collect()
}

fn expire(fixture: &mut CatalogFixture, after_ms: u64) {
    fixture.now += after_ms;
    fixture.must_apply(Op::Expire(keep(1_000_000)));
}

#[test]
fn new_key_is_accepted_then_signs_and_the_former_one_ends() {
    let mut fixture = bootstrapped();
    let needed = |fixture: &CatalogFixture| fixture.catalog.needs_expiry(fixture.now, &keep(1_000_000));
    assert_eq!(keys(&fixture), [b'k']);
    let before = epoch(&fixture);
    fixture.must_apply(rotate(1));
    assert_eq!((keys(&fixture), epoch(&fixture)), (vec![b'k', 1], before + 1), "it does not sign yet");
    expire(&mut fixture, LEARN - 1);
    assert!(!needed(&fixture));
    assert_eq!((keys(&fixture), epoch(&fixture)), (vec![b'k', 1], before + 1));
    fixture.now += 1;
    assert!(needed(&fixture));
    expire(&mut fixture, 0);
    assert_eq!((keys(&fixture), epoch(&fixture)), (vec![1, b'k'], before + 2));
    expire(&mut fixture, KEEP - 1);
    assert!(!needed(&fixture) && keys(&fixture) == [1, b'k']);
    expire(&mut fixture, 1);
    assert_eq!((keys(&fixture), epoch(&fixture)), (vec![1], before + 3));
}

#[test]
fn former_key_is_kept_from_the_moment_at_which_it_stopped_signing() {
    let mut fixture = bootstrapped();
    fixture.must_apply(rotate(1));
    // No leader was there in time.
    expire(&mut fixture, LEARN + 10 * KEEP);
    assert_eq!(keys(&fixture), [1, b'k']);
    expire(&mut fixture, KEEP);
    assert_eq!(keys(&fixture), [1]);
}

#[test]
fn one_key_is_learned_at_a_time() {
    let mut fixture = bootstrapped();
    fixture.must_apply(rotate(1));
    let before = epoch(&fixture);
    fixture.must_apply(rotate(1));
    assert_eq!(epoch(&fixture), before, "a repeated command");
    for op in [rotate(2), revoke(2, 1)] {
        assert!(fixture.must_reject(op, Code::FailedPrecondition).contains("learning"));
    }
    expire(&mut fixture, LEARN);
    let before = epoch(&fixture);
    fixture.must_apply(rotate(1));
    assert_eq!(epoch(&fixture), before, "it signs already");
    fixture.must_apply(rotate(2));
    assert_eq!(keys(&fixture), [1, 2, b'k']);
}

#[test]
fn former_keys_are_bounded_and_end_with_the_key_that_is_revoked() {
    let mut fixture = bootstrapped();
    for n in 1..=MAX_FORMER as u8 {
        fixture.must_apply(rotate(n));
        expire(&mut fixture, LEARN);
    }
    assert_eq!(keys(&fixture), [3, b'k', 1, 2]);
    assert!(fixture.must_reject(rotate(9), Code::ResourceExhausted).contains("revoke"));
    fixture.must_apply(revoke(9, 100));
    expire(&mut fixture, LEARN);
    assert_eq!(keys(&fixture), [9, 1, 2, 3]);
    expire(&mut fixture, 99);
    assert_eq!(keys(&fixture), [9, 1, 2, 3], "members have asserted clients with it");
    expire(&mut fixture, 1);
    assert_eq!(keys(&fixture), [9]);
}

#[test]
fn key_of_a_wrong_length_is_refused() {
    let mut fixture = CatalogFixture::new();
    for length in [0, 31, 33] {
        let key = Bytes::from(vec![1; length]);
        let rotate = RotateTicketKey { key, ..RotateTicketKey::default() };
        fixture.must_reject(Op::RotateTicketKey(rotate), Code::InvalidArgument);
    }
}

#[test]
fn longest_retention_is_that_of_any_version() {
    let mut fixture = CatalogFixture::new();
    assert_eq!(fixture.catalog.longest_retention_ms(), 0);
    fixture.put("w", "a", WriteMode::Replace, &[1]);
    assert_eq!(fixture.catalog.longest_retention_ms(), RETENTION);
}
