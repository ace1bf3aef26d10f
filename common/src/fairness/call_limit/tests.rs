use std::time::Duration;

use arrow_flight::Ticket;
use futures::{StreamExt, stream};
use tonic::Code;

use super::*;
use crate::grpc::retry_after;
use crate::http2::{grpc_error, grpc_frames};
use crate::server::serve::testing::{TestServer, message, soon};

fn caller(name: &str) -> CallerKey {
    CallerKey::Principal(name.into())
}

fn admitted(limit: &Arc<CallLimit>, name: &str, count: usize) -> Vec<CallPermit> {
    (0..count).map_while(|_| limit.admit_caller(CallKind::Identified, caller(name)).ok()).collect()
}

#[test]
fn one_principal_leaves_places_for_the_others() {
    let limit = CallLimit::new(10, 6);
    let first = admitted(&limit, "a", 20);
    assert_eq!(first.len(), 6);
    let status = limit.admit_caller(CallKind::Identified, caller("a")).err().unwrap();
    assert_eq!((status.code(), retry_after(&status)), (Code::ResourceExhausted, Some(Duration::from_millis(RETRY_MS))));
    assert!(status.metadata().contains_key("retry-after-ms"), "{status:?}");
    assert!(status.message().contains("\"a\" has 6 calls") && status.message().contains("max_calls_per_principal"));
    let second = admitted(&limit, "b", 20);
    assert_eq!(second.len(), 4);
    let status = limit.admit_caller(CallKind::Identified, caller("c")).err().unwrap();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("`max_calls`"), "{status}");
    drop(first);
    assert_eq!(admitted(&limit, "c", 20).len(), 6);
    drop(second);
    let calls = limit.identified.calls.lock();
    assert!(calls.is_empty(), "callers without calls are forgotten");
}

#[test]
fn calls_of_the_cluster_count_in_all_only() {
    let limit = CallLimit::new(3, 1);
    let own: Vec<_> = (0..5).map_while(|_| limit.admit(&Access::open()).ok()).collect();
    assert_eq!(own.len(), 3);
    assert!(limit.admit_caller(CallKind::Identified, caller("a")).is_err());
    drop(own);
    assert_eq!(admitted(&limit, "a", 5).len(), 1);
}

#[test]
fn callers_without_identity_take_no_places_of_others() {
    let limit = CallLimit::new(2, 2);
    let network = |at: u8| CallerKey::Network([192, 0, 2, at].into());
    let strangers = |at, most| -> Vec<_> {
        (0..most).map_while(|_| limit.admit_caller(CallKind::Unidentified, network(at)).ok()).collect()
    };
    let held: Vec<_> = (0..10).map(|at| strangers(at, 100)).collect();
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 4, 0, 0, 0, 0, 0, 0]);
    let status = limit.admit(&Access::of(&http::Extensions::new())).err().unwrap();
    assert!(status.message().contains("without identity"), "{status}");
    let own = admitted(&limit, "a", 5);
    assert_eq!(own.len(), 2);
    let health: Vec<_> = (0..2000).map_while(|_| limit.admit_caller(CallKind::OtherService, network(1)).ok()).collect();
    assert_eq!(health.len(), OTHER_SERVICES.1);
    assert!(limit.admit_other_service(&Access::open()).is_ok(), "a full member is healthy");
    drop((held, own, health));
    for kind in [CallKind::Identified, CallKind::Unidentified, CallKind::OtherService] {
        let calls = limit.pool(kind).calls.lock();
        assert!(calls.is_empty());
    }
    let default = CallLimit::new(16_384, 8192);
    assert_eq!((default.unidentified.most, default.unidentified.most_per_caller), (1024, 128));
}

/// A call counts until its stream has ended, is read or not, and a client that goes away gives its place back.
#[tokio::test]
async fn place_is_kept_until_the_stream_ends() {
    let limit = CallLimit::new(1, 1);
    let counted = limit.clone();
    let server = TestServer::start(move |request| {
        let (limit, is_endless) = (counted.clone(), request.headers().contains_key("endless"));
        async move {
            let permit = match limit.admit(&Access::open()) {
                Ok(permit) => permit,
                Err(status) => return grpc_error(status),
            };
            let mut reply = match is_endless {
                true => grpc_frames(stream::once(async { Ok(message(1, 10)) }).chain(stream::pending())),
                false => grpc_frames(stream::iter([Ok(message(1, 10))])),
            };
            permit.hold(&mut reply);
            reply
        }
    })
    .await;
    let mut client = server.client().await;
    let mut request = tonic::Request::new(Ticket::default());
    request.metadata_mut().insert("endless", "1".parse().unwrap());
    let mut open = client.do_get(request).await.unwrap().into_inner();
    assert!(open.message().await.unwrap().is_some());
    let status = client.do_get(Ticket::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.metadata().contains_key("retry-after-ms") && retry_after(&status).is_some(), "{status:?}");
    drop(open);
    let mut reply = soon(async {
        loop {
            if let Ok(reply) = client.do_get(Ticket::default()).await {
                return reply.into_inner();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    while reply.message().await.unwrap().is_some() {}
    soon(async {
        while limit.identified.calls.lock().all > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
}
