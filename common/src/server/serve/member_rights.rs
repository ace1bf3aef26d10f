//! Which member may call which method of a peer port: one table, applied to every call before its body is read.
//!
//! With `peer_tls = require` every caller must be a member. Before, while a cluster changes from plaintext to TLS, members
//! without TLS may call everything, and the table already holds for callers with TLS.
//!
//! The ids that a message claims are checked where it is handled: [`Caller::speaks_for_coordinator`] and
//! [`Caller::speaks_for_node`]. Their refusals are logged here too.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{Code, Status};
use tower::Service;

use super::Http2Service;
use crate::http2::status::shorten;
use crate::http2::{ReplyBody, grpc_error};
use crate::refusal_log::RefusalLog;
use crate::tls::{Caller, MemberRole};
use crate::{Error, Result, clock};

/// Whether a peer port serves members without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlaintextMembers {
    /// There is no peer TLS, or `peer_tls` is `accept` or `prefer`.
    #[default]
    Accepted,
    /// `peer_tls` is `require`.
    Refused,
}

impl PlaintextMembers {
    /// Accepted or not.
    pub fn accepted_if(accepted: bool) -> Self {
        if accepted { PlaintextMembers::Accepted } else { PlaintextMembers::Refused }
    }
}

/// The members that may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodCallers {
    Coordinators,
    Nodes,
    Members,
}

impl MethodCallers {
    fn include(self, role: &MemberRole) -> bool {
        match self {
            MethodCallers::Coordinators => matches!(role, MemberRole::Coordinator),
            MethodCallers::Nodes => matches!(role, MemberRole::Node),
            MethodCallers::Members => true,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            MethodCallers::Coordinators => "coordinators",
            MethodCallers::Nodes => "nodes",
            MethodCallers::Members => "members of the cluster",
        }
    }

    /// The URI in the certificates of these members.
    fn uri(self) -> &'static str {
        match self {
            MethodCallers::Coordinators => "volley://coordinator/ID",
            MethodCallers::Nodes => "volley://node/NAME",
            MethodCallers::Members => "volley://coordinator/ID or volley://node/NAME",
        }
    }
}

use MethodCallers::{Coordinators, Members, Nodes};

/// Every method of the peer ports, and who may call it. A method that is missing here is refused.
const METHODS: [(&str, MethodCallers); 38] = [
    ("/volley.raft.v1.Raft/Vote", Coordinators),
    ("/volley.raft.v1.Raft/Append", Coordinators),
    ("/volley.raft.v1.Raft/Snapshot", Coordinators),
    ("/volley.raft.v1.Raft/Identify", Coordinators),
    ("/volley.raft.v1.Raft/Transfer", Coordinators),
    ("/volley.raft.v1.Raft/LogChecksums", Coordinators),
    ("/volley.cluster.v1.Coordinator/Propose", Coordinators),
    ("/volley.cluster.v1.Coordinator/ReadIndex", Coordinators),
    ("/volley.cluster.v1.Coordinator/Session", Nodes),
    ("/volley.cluster.v1.Coordinator/BeginWrite", Nodes),
    ("/volley.cluster.v1.Coordinator/StageParts", Nodes),
    ("/volley.cluster.v1.Coordinator/RenewWrite", Nodes),
    ("/volley.cluster.v1.Coordinator/CommitWrite", Nodes),
    ("/volley.cluster.v1.Coordinator/AbortWrite", Nodes),
    ("/volley.cluster.v1.Coordinator/DeletableParts", Nodes),
    ("/volley.cluster.v1.Coordinator/PlanRead", Nodes),
    ("/volley.cluster.v1.Coordinator/PlanTables", Nodes),
    ("/volley.cluster.v1.Coordinator/ListTables", Nodes),
    ("/volley.cluster.v1.Coordinator/Login", Nodes),
    ("/volley.cluster.v1.Node/FetchPart", Nodes),
    ("/volley.cluster.v1.Node/CopyPart", Nodes),
    ("/volley.cluster.v1.Node/CopyOpenPart", Nodes),
    ("/volley.cluster.v1.Node/DiscardParts", Nodes),
    ("/volley.cluster.v1.Node/DescribeWorker", Nodes),
    ("/volley.cluster.v1.Node/RunQueryTask", Nodes),
    ("/volley.cluster.v1.Node/ReadQueryTask", Nodes),
    // Nodes forward calls of clients to coordinators, and followers forward actions to the leader.
    ("/arrow.flight.protocol.FlightService/Handshake", Members),
    ("/arrow.flight.protocol.FlightService/ListFlights", Members),
    ("/arrow.flight.protocol.FlightService/GetFlightInfo", Members),
    ("/arrow.flight.protocol.FlightService/PollFlightInfo", Members),
    ("/arrow.flight.protocol.FlightService/GetSchema", Members),
    ("/arrow.flight.protocol.FlightService/DoGet", Members),
    ("/arrow.flight.protocol.FlightService/DoPut", Members),
    ("/arrow.flight.protocol.FlightService/DoExchange", Members),
    ("/arrow.flight.protocol.FlightService/DoAction", Members),
    ("/arrow.flight.protocol.FlightService/ListActions", Members),
    ("/grpc.health.v1.Health/Check", Members),
    ("/grpc.health.v1.Health/Watch", Members),
];

/// Whether a caller may call a method of a peer port; `path` is the gRPC path, `/PACKAGE.SERVICE/METHOD`.
///
/// # Errors
/// UNAUTHENTICATED: the caller has no certificate. PERMISSION_DENIED: it is no member, or one of another role. UNIMPLEMENTED:
/// a member calls a method that the table does not have, as a member of a later version may.
pub fn authorize(caller: &Caller, plaintext: PlaintextMembers, path: &str) -> Result<()> {
    let found = METHODS.iter().find(|(method, _)| *method == path).map(|(_, callers)| *callers);
    let needed = found.unwrap_or(Members);
    let refused = |why: &str| {
        format!(
            "{} is refused to {caller}: only {} may call it{why}; give the caller a certificate with the URI {}, in peer_cert, peer_key and peer_ca",
            shorten(path),
            needed.describe(),
            needed.uri()
        )
    };
    match caller {
        Caller::Plaintext if plaintext == PlaintextMembers::Accepted => Ok(()),
        Caller::Plaintext => {
            Err(Error::unauthenticated(refused(", and by TLS, because this member has peer_tls = require")))
        }
        Caller::Anonymous => Err(Error::unauthenticated(refused(""))),
        Caller::Client(_) => Err(Error::denied(refused(", and its certificate names no member"))),
        Caller::Member(member) => match found {
            Some(callers) if callers.include(&member.role) => Ok(()),
            Some(_) => Err(Error::denied(refused(""))),
            // Members of another version call another method then.
            None => Err(Error::unimplemented(format!(
                "{} is refused to {caller}: peer ports of this version have no such method; upgrade this member",
                shorten(path)
            ))),
        },
    }
}

/// A peer port's service, restricted to the calls that [`authorize`] permits.
#[derive(Clone, Debug)]
pub struct MemberRights<S> {
    service: S,
    plaintext: PlaintextMembers,
}

impl<S> MemberRights<S> {
    /// Restricts a service. The listener puts the [`Caller`] into the extensions of each request.
    pub fn new(service: S, plaintext: PlaintextMembers) -> Self {
        MemberRights { service, plaintext }
    }
}

impl<S: Http2Service> Service<Request<Incoming>> for MemberRights<S> {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (caller, uri) = (Caller::of(request.extensions()).clone(), request.uri().clone());
        if let Err(error) = authorize(&caller, self.plaintext, uri.path()) {
            log_refused(uri.path(), &caller, &error.message);
            return Box::pin(std::future::ready(Ok(grpc_error(error))));
        }
        let reply = self.service.call(request);
        Box::pin(async move {
            let reply = reply.await?;
            let status = Status::from_header_map(reply.headers());
            let refusal =
                status.filter(|status| matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated));
            if let Some(refusal) = refusal {
                log_refused(uri.path(), &caller, refusal.message());
            }
            Ok(reply)
        })
    }
}

/// Logs a refused call. Under a flood of them one line a second says how many there were.
fn log_refused(method: &str, caller: &Caller, reason: &str) {
    static LOG: RefusalLog = RefusalLog::new();
    let method = shorten(method);
    match LOG.count(clock::now_ms()) {
        Some(unlogged) => tracing::warn!(%method, %caller, reason, unlogged, "a call of the peer port was refused"),
        None => tracing::debug!(%method, %caller, reason, "a call of the peer port was refused"),
    }
}
