//! Logins at a coordinator whose cluster has users.
#![allow(clippy::unwrap_used)]

use futures::FutureExt;
use volley_common::identity::is_session_token;
use volley_common::wire::catalog::RevokeToken;
use volley_common::wire::cluster::IdentitySnapshot;

use super::*;
use crate::service::identity::PasswordChange;
use crate::service::testing::{ROOT_PASSWORD, ServicesFixture};

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

/// Of the administrator's password.
fn change(password: &str) -> PasswordChange {
    PasswordChange { user: "root".into(), password: secret(password), old_password: None, revoke_tokens: None }
}

async fn login(fixture: &ServicesFixture, user: &str, password: &str, address: &str) -> Result<IssuedToken> {
    let issued = fixture.services.login.login(user, &secret(password), address).await;
    fixture.follow_catalog();
    issued
}

#[tokio::test(flavor = "multi_thread")]
async fn right_password_yields_a_token_that_identifies_the_user() {
    let fixture = ServicesFixture::closed().await;
    let issued = login(&fixture, "root", ROOT_PASSWORD, "192.0.2.1").await.unwrap();
    assert!(is_session_token(issued.token.expose()) && issued.expires_ms > clock::now_ms());
    let access = fixture.services.authenticator.access_of_token(&issued.token, None).unwrap();
    assert_eq!(access.name(), "root");
    let again = login(&fixture, "root", ROOT_PASSWORD, "192.0.2.1").await.unwrap();
    assert_eq!(again.token, issued.token, "the login of a moment ago");
}

/// Whoever guesses does not learn which users exist, nor which have a password.
#[tokio::test(flavor = "multi_thread")]
async fn every_failed_login_has_the_same_error() {
    let fixture = ServicesFixture::closed().await;
    fixture.services.identity.create_user("etl", None, Vec::new()).await.unwrap();
    let mut errors = Vec::new();
    for (user, password) in [("root", "wrong"), ("root", ""), ("nobody", "wrong"), ("etl", "wrong"), ("etl", "")] {
        // Each from another address: failures slow down only the address that they came from.
        let address = format!("192.0.2.{}", errors.len());
        errors.push(login(&fixture, user, password, &address).await.unwrap_err());
    }
    assert!(errors.iter().all(|error| *error == errors[0] && error.code == Code::Unauthenticated), "{errors:?}");
}

/// Clients are often started together with the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn login_before_the_first_administrator_is_to_be_repeated() {
    let fixture = ServicesFixture::open().await;
    let closed = IdentitySnapshot { closed: true, ..fixture.services.raft.view().identity_snapshot() };
    fixture.services.directory.store(Directory::new(&closed));
    for _ in 0..10 {
        let early = fixture.services.login.login("root", &secret(ROOT_PASSWORD), "192.0.2.1").await.unwrap_err();
        assert_eq!((early.code, early.retry_after_ms), (Code::Unavailable, Some(RETRY_MS)), "{early}");
        assert!(early.message.contains("no user yet") && early.message.contains("bootstrap_admin_file"), "{early}");
    }
    fixture.create_administrator().await;
    login(&fixture, "root", ROOT_PASSWORD, "192.0.2.1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_by_address() {
    let fixture = ServicesFixture::closed().await;
    for _ in 0..3 {
        let error = login(&fixture, "root", "wrong", "192.0.2.1").await.unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
    }
    for password in ["wrong", ROOT_PASSWORD] {
        let error = login(&fixture, "root", password, "192.0.2.1").await.unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    }
    login(&fixture, "root", ROOT_PASSWORD, "192.0.2.2").await.unwrap();
}

/// Polled once, as by a client that sends a guess and cancels the call.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_cancelled_calls_count() {
    let fixture = ServicesFixture::closed().await;
    let state = &fixture.services.login.state;
    let turns = state.turns.acquire_many(TURNS as u32).await.unwrap();
    for _ in 0..3 {
        assert!(login(&fixture, "root", "wrong", "192.0.2.1").now_or_never().is_none());
    }
    while state.pending.available_permits() > MAX_PENDING - 3 {
        tokio::task::yield_now().await;
    }
    drop(turns);
    while state.pending.available_permits() < MAX_PENDING {
        tokio::task::yield_now().await;
    }
    let error = login(&fixture, "root", ROOT_PASSWORD, "192.0.2.1").await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_beyond_the_limit_are_refused_at_once() {
    let fixture = ServicesFixture::closed().await;
    let others = fixture.services.login.state.pending.try_acquire_many(MAX_PENDING as u32).unwrap();
    let refused = login(&fixture, "root", ROOT_PASSWORD, "192.0.2.1").await.unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)), "{refused}");
    drop(others);
    login(&fixture, "root", ROOT_PASSWORD, "192.0.2.1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guesses_at_once_are_slowed_down_too() {
    let fixture = ServicesFixture::closed().await;
    let guesses = (0..50).map(|at| {
        let service = fixture.services.login.clone();
        async move { service.login("root", &secret(&format!("guess {at}")), "192.0.2.1").await.unwrap_err().code }
    });
    let codes = futures::future::join_all(guesses).await;
    let verified = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    // A fourth one after a second, if verifying is slow.
    assert!((3..=4).contains(&verified), "{verified} of 50 guesses were verified");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_password_ends_the_sessions_of_the_old_one() {
    let fixture = ServicesFixture::closed().await;
    let (login_service, identity) = (&fixture.services.login, &fixture.services.identity);
    let old = login(&fixture, "root", ROOT_PASSWORD, "").await.unwrap();
    let access = login_service.access("root", &secret(ROOT_PASSWORD), None).await.unwrap();
    identity.set_password(&access, change("another password")).await.unwrap();
    fixture.follow_catalog();
    for result in [
        login_service.renew(&old.token, None).await,
        // Also not from the logins of the last minute.
        login(&fixture, "root", ROOT_PASSWORD, "").await,
    ] {
        assert_eq!(result.unwrap_err().code, Code::Unauthenticated);
    }
    login(&fixture, "root", "another password", "").await.unwrap();
}

/// The catalog has the new password, but the directory not yet.
#[tokio::test(flavor = "multi_thread")]
async fn session_is_not_renewed_while_its_password_changes() {
    let fixture = ServicesFixture::closed().await;
    let old = login(&fixture, "root", ROOT_PASSWORD, "").await.unwrap();
    let root = fixture.access("root");
    fixture.services.identity.set_password(&root, change("another password")).await.unwrap();
    fixture.services.authenticator.access_of_token(&old.token, None).unwrap();
    let error = fixture.services.login.renew(&old.token, None).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn session_of_a_service_token_ends_with_it() {
    let fixture = ServicesFixture::closed().await;
    let (service, root) = (&fixture.services.login, fixture.access("root"));
    let created = fixture.services.identity.create_token(&root, None, "nightly", 60).await.unwrap();
    let (id, token) = (created["id"].as_str().unwrap().to_string(), secret(created["token"].as_str().unwrap()));
    login(&fixture, "root", ROOT_PASSWORD, "").await.unwrap();
    let session = service.renew(&token, None).await.unwrap();
    assert!(is_session_token(session.token.expose()));
    let access = fixture.services.authenticator.access_of_token(&session.token, None).unwrap();
    let principal = access.principal().unwrap();
    assert_eq!((principal.method, principal.credential.as_str()), (LoginMethod::ServiceToken, id.as_str()));
    let renewed = service.renew(&session.token, None).await.unwrap();
    fixture.apply(Op::RevokeToken(RevokeToken { id })).await;
    for token in [token, session.token, renewed.token] {
        assert_eq!(service.renew(&token, None).await.unwrap_err().code, Code::Unauthenticated);
    }
}
