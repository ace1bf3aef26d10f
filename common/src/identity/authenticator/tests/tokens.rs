//! Bearers: session tokens and service tokens.

use super::*;

#[test]
fn session_token_of_a_password_identifies_its_user() {
    let cluster = IdentityFixture::new();
    let ann = cluster.by_token(&cluster.session("ann", ""), NOW).unwrap();
    let expected = Principal {
        name: "ann".into(),
        groups: vec!["readers".into()],
        method: LoginMethod::Password,
        credential: cluster.signing_key.id.clone(),
    };
    assert_eq!(**ann.principal().unwrap(), expected);
    assert_eq!((ann.epoch(), ann.client_address()), (5, Some("10.1.2.3")));
    assert!(ann.can_read(&name("a/t")) && !ann.can_read(&name("b")));
    assert!(cluster.token_refusal(&cluster.session("ann", ""), NOW + HOUR).contains("expired"));
}

#[test]
fn service_token_identifies_its_user_directly_and_by_session() {
    let cluster = IdentityFixture::new();
    let session = cluster.session("etl", cluster.token_id());
    for token in [&cluster.service_token, &session] {
        let etl = cluster.by_token(token, NOW).unwrap();
        let principal = etl.principal().unwrap();
        assert_eq!((principal.name.as_str(), principal.method), ("etl", LoginMethod::ServiceToken));
        assert_eq!(principal.credential, cluster.token_id());
    }
    assert!(cluster.by_token(&cluster.service_token, NOW + 2 * HOUR - 1).is_ok());
    assert!(cluster.token_refusal(&cluster.service_token, NOW + 2 * HOUR).contains("has expired"));
    let expired = cluster.authenticator.access_of_token(&cluster.service_token, None);
    // By the clock of this machine, which is later.
    assert!(unauthenticated(expired).contains("has expired"));
}

#[test]
fn wrong_secret_of_a_service_token_is_refused() {
    let cluster = IdentityFixture::new();
    let (other, other_text) = new_service_token("etl", "", NOW, HOUR);
    assert!(cluster.token_refusal(&other_text, NOW).contains("revoked"));
    let wrong = other_text.expose().replace(&other.id, cluster.token_id());
    let message = cluster.token_refusal(&Secret::new(wrong.as_str()), NOW);
    assert!(!message.contains(&wrong[24..]), "{message}");
}

#[test]
fn revoked_service_token_is_refused_with_its_sessions() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("etl", cluster.token_id());
    cluster.by_token(&cluster.service_token, NOW).unwrap();
    cluster.by_token(&session, NOW).unwrap();
    cluster.change(|snapshot| snapshot.tokens.clear());
    assert!(cluster.token_refusal(&cluster.service_token, NOW).contains("revoked"));
    assert!(cluster.token_refusal(&session, NOW).contains("revoked"));
}

#[test]
fn session_ends_with_the_service_token_that_it_comes_of() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("etl", cluster.token_id());
    cluster.change(|snapshot| snapshot.tokens[0].expires_ms = NOW + 1000);
    cluster.by_token(&session, NOW + 999).unwrap();
    assert!(cluster.token_refusal(&session, NOW + 1000).contains("has expired"));
    // A token of another user.
    cluster.change(|snapshot| snapshot.tokens[0] = ServiceToken { user: "ann".into(), ..snapshot.tokens[0].clone() });
    assert!(cluster.token_refusal(&session, NOW).contains("revoked"));
}

#[test]
fn token_of_a_removed_user_is_refused() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("ann", "");
    cluster.by_token(&session, NOW).unwrap();
    cluster.change(|snapshot| snapshot.users.retain(|user| user.name == "etl"));
    assert!(cluster.token_refusal(&session, NOW).contains("no user \"ann\""));
    cluster.change(|snapshot| snapshot.users.clear());
    assert!(cluster.token_refusal(&cluster.service_token, NOW).contains("no user \"etl\""));
}

#[test]
fn session_of_an_older_generation_is_refused() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("ann", "");
    cluster.by_token(&session, NOW).unwrap();
    cluster.change(|snapshot| snapshot.users[0].generation = 2);
    assert!(cluster.token_refusal(&session, NOW).contains("password"));
}

#[test]
fn session_of_a_removed_key_is_refused_and_of_an_older_one_is_not() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("ann", "");
    let newer = new_signing_key(NOW + 1).unwrap();
    cluster.change(|snapshot| snapshot.keys.push(newer));
    cluster.by_token(&session, NOW).unwrap();
    cluster.change(|snapshot| drop(snapshot.keys.remove(0)));
    assert!(cluster.token_refusal(&session, NOW).contains("log in again"));
}

#[test]
fn changed_grants_apply_to_the_next_call_of_the_same_token() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("ann", "");
    let before = cluster.by_token(&session, NOW).unwrap();
    cluster.change(|snapshot| snapshot.grants.push(grant("user:ann", Role::Writer, "b")));
    let after = cluster.by_token(&session, NOW).unwrap();
    let table = name("b/t");
    assert_eq!((before.can_read(&table), after.can_read(&table)), (false, true));
    assert_eq!((before.epoch(), after.epoch()), (5, 6));
}

#[test]
fn token_is_verified_once_by_each_directory() {
    let mut cluster = IdentityFixture::new();
    let session = cluster.session("ann", "");
    let principal = |cluster: &IdentityFixture| cluster.by_token(&session, NOW).unwrap().principal().unwrap().clone();
    let first = principal(&cluster);
    assert!(Arc::ptr_eq(&first, &principal(&cluster)), "verified again");
    cluster.change(|_| ());
    let second = principal(&cluster);
    assert!(!Arc::ptr_eq(&first, &second), "not verified by the new directory");
    assert!(cluster.token_refusal(&session, NOW + HOUR).contains("expired"), "used after its end");
}

#[test]
fn unknown_or_malformed_credentials_are_refused() {
    let cluster = IdentityFixture::new();
    assert!(cluster.token_refusal(&Secret::new("nonsense"), NOW).contains("no kind"));
    let foreign = new_signing_key(NOW).unwrap();
    let forged = SessionTokenIssuer::new(&foreign).unwrap().issue(&user("ann", &[]), "", NOW).unwrap().0;
    cluster.token_refusal(&forged, NOW);
    let malformed = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Digest x"))]);
    unauthenticated(access(cluster.authenticator.identify(&malformed, &Caller::Plaintext, remote(), GET)));
}
