//! Metadata calls as coordinators receive them.

use arrow_flight::{Criteria, FlightDescriptor};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::http2::grpc_error;
use volley_common::{Code, clock};

use super::*;
use crate::callers::tests::{TestUsers, client, with_token};
use crate::cluster_view::ClusterMembers;
use crate::get::tests::cluster::{TestNode, key};

#[test]
fn client_cannot_describe_its_own_connection() {
    let said = || {
        let forged = [(CLIENT_LISTENER_HEADER, "forged"), (CLIENT_TLS_HEADER, "forged")];
        HeaderMap::from_iter(
            forged.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        )
    };
    let mut plaintext = said();
    describe_client(&mut plaintext, None, false);
    assert!(plaintext.is_empty(), "{plaintext:?}");
    let mut tls = said();
    describe_client(&mut tls, Some(HeaderValue::from_static("external")), true);
    assert_eq!(
        (tls[CLIENT_LISTENER_HEADER].as_bytes(), tls[CLIENT_TLS_HEADER].as_bytes()),
        (&b"external"[..], &b"true"[..])
    );
    assert_eq!(tls.len(), 2);
}

#[tokio::test]
async fn incomplete_metadata_request_ends_in_an_error() {
    let half = Bytes::from_static(b"\0\0\0\x01\0half of a message");
    let frames = |frames: Vec<Bytes>| stream::iter(frames).map(|data| Ok::<_, Status>(http_body::Frame::data(data)));
    for sent in [vec![], vec![half]] {
        let body = http_body_util::StreamBody::new(frames(sent).chain(stream::pending()));
        let error = read_body(body, MAX_METADATA_REQUEST, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
    }
    let (nobody, everybody) = (Access::of(&http::Extensions::new()), Access::open());
    assert_eq!(metadata_limits(&nobody), (64 << 10, Duration::from_secs(10)));
    for (max_bytes, timeout) in [metadata_limits(&nobody), metadata_limits(&everybody)] {
        let large = vec![Bytes::from(vec![0; max_bytes]), Bytes::from_static(b"x")];
        let body = http_body_util::StreamBody::new(frames(large));
        let error = read_body(body, max_bytes, timeout).await.unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    }
}

#[tokio::test]
async fn proxied_call_has_an_assertion_instead_of_credentials() {
    let seen = Arc::new(Mutex::new(None));
    let sent = seen.clone();
    let coordinator = TestNode::serving(move |_, request| {
        *sent.lock() = Some(request.headers().clone());
        std::future::ready(grpc_error(Error::unauthenticated("the coordinator's own reason")))
    })
    .await;
    let users = TestUsers::new();
    let node = users.node().await;
    let coordinator_flight = vec![coordinator.addr.clone()];
    node.context.cluster.members.store(Arc::new(ClusterMembers { coordinator_flight, ..ClusterMembers::default() }));
    let mut request = with_token(Criteria::default(), &users.token("ann"));
    request.metadata_mut().insert("x-request-id", "7".parse().unwrap());
    let status = client(&node).list_flights(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the coordinator's own reason"));
    let headers: HeaderMap = seen.lock().take().unwrap();
    assert!(!headers.contains_key("authorization") && headers["x-request-id"] == "7", "{headers:?}");
    let metadata = MetadataMap::from_headers(headers);
    let signed = metadata.get_bin(ASSERTION_HEADER).unwrap().to_bytes().unwrap();
    let assertion = key().verify_assertion(&signed, clock::now_ms()).unwrap();
    assert_eq!((assertion.principal.as_str(), assertion.address.as_str()), ("ann", "127.0.0.1"));
    assert_eq!(assertion.path, "/arrow.flight.protocol.FlightService/ListFlights");
}

/// The header of an earlier hop counts only if a member sends it.
#[test]
fn only_members_forward_descriptions_of_clients() {
    let forwarded = |access: Access, caller: Caller, is_asserted: bool| {
        let mut request = Request::new(());
        request.headers_mut().insert(SQL_FORWARDED_HEADER, HeaderValue::from_static("1"));
        if is_asserted {
            request.headers_mut().insert(ASSERTION_HEADER, HeaderValue::from_static("verified"));
        }
        request.extensions_mut().insert(access);
        request.extensions_mut().insert(caller);
        is_forwarded(&request.into_parts().0)
    };
    let nobody = || Access::of(&http::Extensions::new());
    assert!(forwarded(Access::open(), Caller::Plaintext, false));
    assert!(forwarded(nobody(), Caller::Plaintext, true));
    assert!(!forwarded(nobody(), Caller::Plaintext, false));
    assert!(!forwarded(Access::open(), Caller::Anonymous, true));
}

#[tokio::test]
async fn message_of_a_call_is_read_again_for_another_call() {
    let mut request = Request::new(());
    *request.uri_mut() = "/arrow.flight.protocol.FlightService/PollFlightInfo".parse().unwrap();
    let (head, ()) = request.into_parts();
    let descriptor = FlightDescriptor::new_cmd("t");
    let body = volley_common::grpc::encode_message(&descriptor);
    let call = MetadataRequest { head, body };
    assert_eq!(call.method(), "PollFlightInfo");
    let again = call.with_message("GetFlightInfo", &descriptor).unwrap();
    assert_eq!(again.method(), "GetFlightInfo");
    assert_eq!(FlightDescriptor::decode(again.message().await.unwrap()).unwrap(), descriptor);
}
