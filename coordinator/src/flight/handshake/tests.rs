//! Handshakes as clients make them: credentials in headers, in the first message, or none.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow_flight::BasicAuth;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{iter, pending};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use prost::Message;
use volley_common::identity::is_session_token;
use volley_common::tls::ClientIdentity;

use super::*;
use crate::service::testing::{ROOT_PASSWORD, ServicesFixture};

const LOOPBACK: &str = "127.0.0.1:5";

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("root:{password}")))
}

fn payload(password: &str) -> HandshakeRequest {
    let auth = BasicAuth { username: "root".into(), password: password.into() };
    HandshakeRequest { protocol_version: 7, payload: auth.encode_to_vec().into() }
}

/// The token in the header of the reply, and those of the replies to the messages, up to the first error.
struct HandshakeResult {
    bearer: Option<String>,
    replies: Vec<Result<String, Status>>,
}

impl HandshakeResult {
    fn code(&self) -> Code {
        self.replies.last().unwrap().as_ref().map_or_else(Status::code, |_| Code::Ok)
    }
}

async fn shake(
    fixture: &ServicesFixture,
    authorization: Option<&str>,
    caller: Caller,
    peer: &str,
    messages: impl Stream<Item = Result<HandshakeRequest, Status>> + Send + Unpin + 'static,
) -> Result<HandshakeResult, Status> {
    let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    extensions.insert(caller);
    extensions.insert(PeerAddress(peer.parse().unwrap()));
    let handshakes = Handshakes::new(&fixture.services);
    let (metadata, replies, _) = handshakes.answer(headers, &extensions, messages).await?.into_parts();
    fixture.follow_catalog();
    assert!(metadata.contains_key(NOW_HEADER));
    let bearer = metadata.get("authorization").map(|value| value.to_str().unwrap().to_string());
    let text = |reply: HandshakeResponse| String::from_utf8(reply.payload.to_vec()).unwrap();
    let replies = replies.map_ok(text).collect::<Vec<_>>().await;
    fixture.follow_catalog();
    Ok(HandshakeResult { bearer, replies })
}

/// A client that sends these messages and ends its side.
async fn shake_with(
    fixture: &ServicesFixture,
    authorization: Option<&str>,
    messages: Vec<HandshakeRequest>,
) -> Result<HandshakeResult, Status> {
    shake(fixture, authorization, Caller::Plaintext, LOOPBACK, iter(messages.into_iter().map(Ok))).await
}

fn name_of(fixture: &ServicesFixture, token: &str) -> String {
    fixture.services.authenticator.access_of_token(&Secret::new(token), None).unwrap().name().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_header_is_answered_by_a_bearer_header() {
    let fixture = ServicesFixture::closed().await;
    for messages in [vec![], vec![HandshakeRequest::default()]] {
        let count = messages.len();
        let result = shake_with(&fixture, Some(&basic(ROOT_PASSWORD)), messages).await.unwrap();
        let token = result.bearer.unwrap().strip_prefix("Bearer ").unwrap().to_string();
        assert_eq!(name_of(&fixture, &token), "root");
        let replies: Vec<String> = result.replies.into_iter().map(Result::unwrap).collect();
        assert_eq!(replies, vec![token; count]);
    }
    let status = shake_with(&fixture, Some(&basic("wrong")), vec![]).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "before any message");
}

/// pyarrow's older handler waits for the reply before it ends its side.
#[tokio::test(flavor = "multi_thread")]
async fn payload_is_answered_while_the_client_keeps_its_side_open() {
    let fixture = ServicesFixture::closed().await;
    let (headers, extensions) = (HeaderMap::new(), Extensions::new());
    let messages = iter([Ok(payload(ROOT_PASSWORD))]).chain(pending());
    let response = Handshakes::new(&fixture.services).answer(headers, &extensions, messages).await.unwrap();
    assert!(!response.metadata().contains_key("authorization"), "it is not known yet");
    let first = response.into_inner().next().await.unwrap().unwrap();
    fixture.follow_catalog();
    assert_eq!(
        (first.protocol_version, name_of(&fixture, str::from_utf8(&first.payload).unwrap())),
        (7, "root".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_or_missing_credentials_are_refused() {
    let fixture = ServicesFixture::closed().await;
    let garbage = HandshakeRequest { protocol_version: 0, payload: b"root:hunter2".to_vec().into() };
    for messages in [vec![payload("wrong")], vec![garbage], vec![HandshakeRequest::default()], vec![]] {
        let result = shake_with(&fixture, None, messages).await.unwrap();
        assert_eq!((result.bearer.as_ref(), result.replies.len(), result.code()), (None, 1, Code::Unauthenticated));
        let text = result.replies[0].as_ref().unwrap_err().message();
        assert!(!text.contains("hunter2"), "{text}");
    }
    for header in ["Bearer guessed", "Digest x", "Basic !"] {
        let status = shake_with(&fixture, Some(header), vec![]).await.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presented_token_is_renewed() {
    let fixture = ServicesFixture::closed().await;
    let created = fixture.services.identity.create_token(&fixture.access("root"), None, "", 60).await.unwrap();
    fixture.follow_catalog();
    let mut token = created["token"].as_str().unwrap().to_string();
    for _ in 0..2 {
        let result = shake_with(&fixture, Some(&format!("Bearer {token}")), vec![]).await.unwrap();
        token = result.bearer.unwrap().strip_prefix("Bearer ").unwrap().to_string();
        assert!(is_session_token(&token));
        assert_eq!(name_of(&fixture, &token), "root");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_with_a_certificate_needs_no_handshake() {
    let fixture = ServicesFixture::closed().await;
    let client = || Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() }));
    let result = shake(&fixture, None, client(), LOOPBACK, iter([])).await.unwrap();
    assert_eq!(result.code(), Code::FailedPrecondition);
    assert!(result.replies[0].as_ref().unwrap_err().message().contains("\"alice\""));
    let result = shake(&fixture, Some(&basic(ROOT_PASSWORD)), client(), LOOPBACK, iter([])).await.unwrap();
    assert!(result.bearer.is_some(), "unless it logs in as another user");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_cluster_gives_everybody_on_its_machines_a_token() {
    let fixture = ServicesFixture::open().await;
    for (header, messages) in [(None, vec![]), (Some("Bearer old"), vec![payload("any")]), (Some("x"), vec![])] {
        let count = messages.len();
        let result = shake_with(&fixture, header, messages).await.unwrap();
        assert!(result.bearer.is_some() && result.replies.iter().all(Result::is_ok), "{header:?}");
        assert_eq!(result.replies.len(), count);
    }
    let status = shake(&fixture, None, Caller::Plaintext, "192.0.2.1:5", iter([])).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn number_of_replies_is_limited() {
    let fixture = ServicesFixture::open().await;
    let result = shake_with(&fixture, None, vec![HandshakeRequest::default(); MAX_MESSAGES + 5]).await.unwrap();
    assert_eq!(result.replies.len(), MAX_MESSAGES);
}
