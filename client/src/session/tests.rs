//! Clients with a login against fake servers.
#![allow(clippy::unwrap_used)]

use futures::TryStreamExt;
use futures::future::join_all;
use serde_json::json;
use volley_common::options::Options;
use volley_common::tls::ClientTls;
use volley_common::{Code, TableName};

use super::*;
use crate::fake::*;
use crate::{Client, FetchOptions, FetchedBatch};

const PASSWORD: &str = "ana:correct horse: battery";

fn ana() -> ClientLogin {
    ClientLogin::password("ana", Secret::new("correct horse: battery"))
}

async fn connect(fake: &RunningFake, login: ClientLogin) -> Client {
    Client::connect_as(&fake.address, ClientTls::default(), login).await.unwrap()
}

/// A server whose sessions last for so many seconds, and a client that logs in there.
async fn start(session_s: u64) -> (RunningFake, Client) {
    let fake = start_fake(|_| {}).await;
    fake.logins.demand(PASSWORD, session_s);
    let client = connect(&fake, ana()).await;
    (fake, client)
}

async fn echo(client: &Client) -> Result<Value> {
    client.action("echo", &json!({ "a": 1 })).await
}

async fn put(client: &Client) -> Result<u64> {
    let table: TableName = "t".parse().unwrap();
    let batches = stream::iter([Ok(numbers(0..10))]);
    Ok(client.put(&table, &Options::default(), schema(), batches).await?.rows)
}

#[tokio::test]
async fn one_login_serves_every_call_at_every_location() {
    let (fake, client) = start(3600).await;
    assert_eq!(fake.logins.handshakes(), 0, "nothing is sent before the first call");
    assert_eq!(echo(&client).await.unwrap(), json!({ "a": 1 }));
    assert_eq!(put(&client).await.unwrap(), 10);
    client.do_get(arrow_flight::Ticket::new("0 5")).await.unwrap();
    client.flight().do_action(arrow_flight::Action::new("echo", "")).await.unwrap();

    let other = start_fake(|_| {}).await;
    other.logins.accept(&fake.logins.accepted());
    let flight_info = info(&[(0, 30), (30, 60)], &[other.uri()], true);
    let batches: Vec<FetchedBatch> =
        client.fetch(flight_info, FetchOptions::default()).unwrap().try_collect().await.unwrap();
    assert!(batches.iter().all(|fetched| *fetched.from == *other.address));
    echo(&client.connect_to(&other.address).await.unwrap()).await.unwrap();
    assert_eq!((fake.logins.handshakes(), other.logins.handshakes()), (1, 0));
}

#[tokio::test]
async fn raw_client_logs_in_by_itself() {
    let (fake, client) = start(3600).await;
    client.flight().do_action(arrow_flight::Action::new("echo", "")).await.unwrap();
    assert_eq!(fake.logins.handshakes(), 1);
}

#[tokio::test]
async fn refused_session_is_renewed_once_for_all_calls() {
    let (fake, client) = start(3600).await;
    echo(&client).await.unwrap();
    fake.logins.accept("another one");
    for outcome in join_all((0..8).map(|_| echo(&client))).await {
        outcome.unwrap();
    }
    assert_eq!(fake.logins.handshakes(), 2);
    fake.logins.accept("another one");
    client.do_get(arrow_flight::Ticket::new("0 5")).await.unwrap();
    assert_eq!(fake.logins.handshakes(), 3);
}

#[tokio::test]
async fn wrong_password_is_sent_once_for_waiting_calls() {
    let fake = start_fake(|_| {}).await;
    fake.logins.demand(PASSWORD, 3600);
    let client = connect(&fake, ClientLogin::password("ana", Secret::new("wrong one"))).await;
    for outcome in join_all((0..4).map(|_| echo(&client))).await {
        let error = outcome.unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        assert!(error.message.contains("\"ana\"") && error.message.contains(&fake.address), "{error}");
        assert!(!error.message.contains("wrong one"), "{error}");
    }
    assert_eq!(fake.logins.handshakes(), 1);
    // Later calls try again: the password may have been set meanwhile.
    fake.logins.demand("ana:wrong one", 3600);
    echo(&client).await.unwrap();
}

#[tokio::test]
async fn session_is_renewed_before_a_put_if_little_is_left() {
    let (mut fake, client) = start(200).await;
    echo(&client).await.unwrap();
    echo(&client).await.unwrap();
    assert_eq!(fake.logins.handshakes(), 1, "200 s suffice for a call");
    put(&client).await.unwrap();
    assert_eq!(fake.logins.handshakes(), 2, "a put might take longer");
    assert!(matches!(fake.puts.recv().await, Some(ReceivedPut::Complete(..))));
}

#[tokio::test]
async fn present_session_is_used_while_it_cannot_be_renewed() {
    let (fake, client) = start(200).await;
    echo(&client).await.unwrap();
    let token = fake.logins.accepted();
    fake.logins.demand("ana:changed password", 200);
    fake.logins.accept(&token);
    put(&client).await.unwrap();
    fake.logins.accept("another one");
    let error = echo(&client).await.unwrap_err();
    assert!(error.code == Code::Unauthenticated && error.message.contains("cannot be renewed"), "{error}");
}

#[tokio::test]
async fn refused_put_is_repeated_while_its_messages_are_kept() {
    let (mut fake, client) = start(3600).await;
    echo(&client).await.unwrap();
    fake.logins.accept("another one");
    assert_eq!(put(&client).await.unwrap(), 10);
    let Some(ReceivedPut::Complete(_, batches)) = fake.puts.recv().await else { panic!("the put broke") };
    assert_eq!(batches, [numbers(0..10)]);
    assert_eq!(fake.logins.handshakes(), 2);
}

#[tokio::test]
async fn refused_token_is_an_error_without_a_login() {
    let fake = start_fake(|_| {}).await;
    fake.logins.accept("volley_1_abc");
    let client = connect(&fake, ClientLogin::token(Secret::new("volley_1_abc\n"))).await;
    echo(&client).await.unwrap();
    fake.logins.accept("other");
    assert_eq!(echo(&client).await.unwrap_err().code, Code::Unauthenticated);
    assert_eq!(fake.logins.handshakes(), 0);
    let tls = ClientTls::default();
    for bad in ["", " \n", "two words", "Bearer volley_1_abc", "gr\u{fc}n"] {
        let connected = Client::connect_as(&fake.address, tls.clone(), ClientLogin::token(Secret::new(bad))).await;
        let error = connected.err().unwrap();
        assert!(error.code == Code::InvalidArgument && !error.message.contains("volley_1"), "{error}");
    }
}

#[tokio::test]
async fn replaced_token_file_is_read_again_after_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let fake = start_fake(|_| {}).await;
    fake.logins.accept("first");
    let client = connect(&fake, ClientLogin::token_file(&path)).await;
    let error = echo(&client).await.unwrap_err();
    assert!(error.message.contains("cannot be read"), "{error}");
    std::fs::write(&path, "first\n").unwrap();
    echo(&client).await.unwrap();
    std::fs::write(&path, "second\n").unwrap();
    fake.logins.accept("second");
    echo(&client).await.unwrap();
    fake.logins.accept("third");
    assert_eq!(echo(&client).await.unwrap_err().code, Code::Unauthenticated);
}

#[tokio::test]
async fn login_at_a_member_without_users_says_what_to_do() {
    let fake = start_fake(|_| {}).await;
    let error = echo(&connect(&fake, ana()).await).await.unwrap_err();
    assert_eq!(error.code, Code::Unauthenticated);
    assert!(error.message.contains("no token") && error.message.contains("connect without a login"), "{error}");
}

#[tokio::test]
async fn plaintext_to_another_machine_is_refused_before_it_is_dialled() {
    // Nobody answers at addresses of this network, which is for documentation.
    let refused = Client::connect_as("grpc://192.0.2.1:8815", ClientTls::default(), ana()).await.err().unwrap();
    assert!(refused.code == Code::InvalidArgument && refused.message.contains("--plaintext-login"), "{refused}");
    let fake = start_fake(|_| {}).await;
    let client = connect(&fake, ana()).await;
    let refused = client.connect_to("grpc://192.0.2.1:8815").await.err().unwrap();
    assert!(refused.message.contains("--plaintext-login"), "{refused}");
    let elsewhere = |uri: &str| client.permits(&crate::address::parse_location(uri).unwrap());
    assert!(!elsewhere("grpc+tcp://192.0.2.1:8816") && elsewhere("grpc+tls://192.0.2.1:8816"));
    assert!(elsewhere(&fake.uri()));
    client.check_confidential().unwrap();
}

#[test]
fn lifetime_is_the_claim_of_the_token() {
    let token = |claims: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims));
    assert_eq!(time_left(&token("{\"exp\": 100}"), 40_000), Some(Duration::from_secs(60)));
    assert_eq!(time_left(&token("{\"exp\": 100}"), 140_000), Some(Duration::ZERO));
    let longest = token(&format!("{{\"exp\": {}}}", u64::MAX));
    for other in
        [token("{}"), token("{\"exp\": \"x\"}"), token("no json"), longest, "volley_1_a".into(), "a.?.c".into()]
    {
        assert_eq!(time_left(&other, 0), None, "{other}");
    }
    // A lifetime that no clock can hold is no end.
    let far = SessionCredential::new(&Secret::new("t"), Some(Duration::MAX), 1).unwrap();
    assert!(far.lasts(MIN_LEFT_FOR_PUT));
}

#[test]
fn bearer_scheme_is_read_in_any_case() {
    assert_eq!(bearer_token("Bearer abc"), Some("abc"));
    assert_eq!(bearer_token("bearer  abc "), Some("abc"));
    assert_eq!(bearer_token("Basic abc"), None);
    assert_eq!(bearer_token("Bearer"), None);
}
