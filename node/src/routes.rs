//! Which call goes where: DoGet and DoPut below tonic, metadata to a coordinator.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use rand::seq::SliceRandom;
use tonic::service::Routes;
use tower::Service;
use volley_common::listen::host_port;
use volley_common::options::CAME_BY;
use volley_common::proxy::Loan;
use volley_common::serve::{ReplyBody, Whole, grpc_error};
use volley_common::{Code, Error, NodeId, Result};

use crate::state::{Members, Shared};
use crate::{get, put};

/// Flight calls that coordinators answer.
const METADATA: [&str; 6] = ["ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoAction", "ListActions"];
const SERVICE: &str = "/arrow.flight.protocol.FlightService/";
/// The largest request that is handed on to a coordinator: it is kept until one has answered.
const MAX_REQUEST: usize = 16 << 20;
/// A node that takes no parts hands puts on with this header; whoever gets it hands them on no further.
const RELAYED: &str = "x-volley-relayed";
/// A header that is sent back as it came.
const MIDDLEWARE: &str = "x-middleware";

/// A node's Flight listener.
#[derive(Clone)]
pub struct Router {
    state: Arc<Shared>,
    tonic: Routes,
    /// The name by which coordinators know its clients; none for a listener without one.
    came_by: Option<HeaderValue>,
}

impl Router {
    /// `tonic`: what answers the calls that are not taken out here. `listener`: the name of the one by which they come.
    pub fn new(state: Arc<Shared>, tonic: Routes, listener: &str) -> Self {
        let came_by = HeaderValue::from_str(listener).ok().filter(|name| !name.is_empty());
        Router { state, tonic, came_by }
    }

    async fn route(self, request: Request<Incoming>) -> Response<ReplyBody> {
        let method = request.uri().path().strip_prefix(SERVICE);
        if method == Some("DoGet") {
            return get::serve_get(self.state, request).await;
        }
        if method.is_some_and(|m| METADATA.contains(&m)) {
            return to_coordinator(&self.state, request, self.came_by).await.unwrap_or_else(grpc_error);
        }
        if method == Some("DoPut")
            && let Err(why) = accepts(&self.state).await
        {
            return put_elsewhere(&self.state, request, why).await.unwrap_or_else(grpc_error);
        }
        if method == Some("DoPut") {
            return put::serve_put(self.state, request);
        }
        let request = request.map(|body| tonic::body::Body::new(Whole(body)));
        let mut tonic = self.tonic;
        match tonic.call(request).await {
            Ok(response) => response.map(ReplyBody::Tonic),
            Err(never) => match never {},
        }
    }
}

impl Service<Request<Incoming>> for Router {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let router = self.clone();
        let echo: Option<HeaderValue> = request.headers().get(MIDDLEWARE).cloned();
        Box::pin(async move {
            let mut response = router.route(request).await;
            if let Some(value) = echo {
                response.headers_mut().entry(MIDDLEWARE).or_insert(value);
            }
            Ok(response)
        })
    }
}

/// Hands a call about metadata to a coordinator; to another one if it cannot be reached.
async fn to_coordinator(
    state: &Arc<Shared>,
    request: Request<Incoming>,
    came_by: Option<HeaderValue>,
) -> Result<Response<ReplyBody>> {
    let (mut head, body) = request.into_parts();
    head.headers.remove(CAME_BY);
    head.headers.extend(came_by.map(|name| (HeaderName::from_static(CAME_BY), name)));
    let body = Limited::new(body, MAX_REQUEST)
        .collect()
        .await
        .map_err(|e| Error::exhausted(format!("the request is broken, or over {MAX_REQUEST} bytes: {e}")))?
        .to_bytes();
    let addrs = state.members.load().coordinator_flight.clone();
    let mut last = Error::unavailable("this node knows no coordinator yet: try again");
    for addr in addrs.iter().filter(|addr| !addr.is_empty()) {
        let request: Request<Bytes> = Request::from_parts(head.clone(), body.clone());
        match state.relay.forward(host_port(addr), request).await {
            Ok(response) => return Ok(response),
            Err(error) if error.code == Code::Unavailable => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last.at("no coordinator can be reached"))
}

/// Whether this node takes new parts.
async fn accepts(state: &Arc<Shared>) -> Result<()> {
    let store = state.store.clone();
    let looked = tokio::task::spawn_blocking(move || store.check_writable(0)).await;
    looked.unwrap_or_else(|e| Err(Error::internal(format!("looking at the disk: {e}"))))
}

/// Hands a put to a node that takes parts; another one is tried only while nothing of the put was read. `why`: this one
/// takes none.
///
/// # Errors
/// UNAVAILABLE: there are nodes that take parts, but none could be reached, or the put broke on its way. Else `why`.
async fn put_elsewhere(state: &Arc<Shared>, request: Request<Incoming>, why: Error) -> Result<Response<ReplyBody>> {
    let (mut head, body) = request.into_parts();
    if head.headers.insert(RELAYED, HeaderValue::from_static("1")).is_some() {
        return Err(why);
    }
    let mut nodes = writable_nodes(&state.members.load(), state.node());
    nodes.shuffle(&mut rand::rng());
    let loan = Loan::new(body);
    let mut broken = None;
    for addr in nodes {
        let Some(body) = loan.unread() else { break };
        match state.relay.forward(&addr, Request::from_parts(head.clone(), body)).await {
            Ok(response) => return Ok(response),
            Err(error) => {
                tracing::warn!(node = addr, %error, "a put could not be handed on");
                broken = Some(error);
            }
        }
    }
    let refusal = match broken {
        Some(error) => Error::unavailable(format!("the put could not be handed on: {error} (here: {why}); try again")),
        None => why,
    };
    tracing::info!(why = %refusal, "a put was refused");
    Err(refusal)
}

/// Where the other nodes are reached that take parts, as the leader last said.
fn writable_nodes(members: &Members, me: NodeId) -> Vec<String> {
    let others = members.nodes.iter().filter(|(id, _)| **id != me).map(|(_, node)| node);
    let takes = others.filter(|n| n.is_writable());
    takes.map(|node| host_port(&node.flight_uri).to_string()).filter(|addr| !addr.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use arrow_flight::FlightData;
    use arrow_flight::flight_service_client::FlightServiceClient;
    use futures::{StreamExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use volley_common::proxy::Relay;
    use volley_common::serve::bind;
    use volley_common::wire::catalog::Node;

    use volley_common::wire::catalog::NodeState;

    use super::*;
    use crate::get::tests::cluster::TestNode;
    use crate::storage::DiskSpace;

    #[test]
    fn puts_go_on_to_live_nodes_that_take_parts() {
        let node = |id, state: NodeState| Node {
            id,
            state: state.into(),
            flight_uri: format!("grpc+tcp://n{id}:1"),
            ..Node::default()
        };
        let nodes = [
            node(1, NodeState::Alive),
            node(2, NodeState::Alive),
            node(3, NodeState::Unreachable),
            Node { draining: true, ..node(4, NodeState::Alive) },
            Node { read_only_reason: "full".into(), ..node(5, NodeState::Alive) },
        ];
        let nodes = nodes.into_iter().map(|node| (NodeId(node.id), node)).collect();
        assert_eq!(writable_nodes(&Members { nodes, ..Members::default() }, NodeId(1)), ["n2:1"]);
    }

    /// Takes connections, reads the beginning of what comes, and hangs up without a word.
    async fn hangs_up(listener: TcpListener) {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            socket.write_all(&empty_settings).await.unwrap();
            socket.read_exact(&mut [0; 10_000]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_put_that_breaks_on_its_way_to_another_node_is_unavailable() {
        let node = TestNode::answering(|state, request| Router::new(state, Routes::default(), "").route(request)).await;
        node.state.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
        let put = async || {
            let first = FlightData { data_body: vec![0; 100_000].into(), ..FlightData::default() };
            let channel = Relay::new().channel(&node.addr).unwrap();
            let upload = stream::iter([first]).chain(stream::pending());
            FlightServiceClient::new(channel).do_put(upload).await.unwrap_err()
        };
        assert_eq!(put().await.code(), Code::ResourceExhausted, "nobody takes it");
        let listener = bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let row =
            Node { id: 9, flight_uri: format!("grpc+tcp://{addr}"), state: NodeState::Alive.into(), ..Node::default() };
        node.state.members.store(Arc::new(Members { nodes: [(NodeId(9), row)].into(), ..Members::default() }));
        let task = tokio::spawn(hangs_up(listener));
        for what in ["broken off", "not reached"] {
            let status = put().await;
            assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
            assert!(status.message().contains(&addr) && status.message().contains("98.0 % used"), "{what}: {status}");
            task.abort();
        }
    }
}
