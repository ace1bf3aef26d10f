//! All methods of the protobuf services × all callers, and the refusals over a connection.

use std::collections::BTreeSet;
use std::sync::Arc;

use tower::ServiceExt;

use super::*;
use crate::net::ConnectionPool;
use crate::server::serve::testing::TestServer;
use crate::tls::{ClientIdentity, MemberIdentity};
use crate::wire::cluster::ProposeRequest;
use crate::wire::cluster::coordinator_client::CoordinatorClient;

/// tonic-health brings the definition of its service.
const HEALTH: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

fn member(role: MemberRole, name: &str) -> Caller {
    Caller::Member(Arc::new(MemberIdentity { role, name: name.into() }))
}

fn coordinator() -> Caller {
    member(MemberRole::Coordinator, "1")
}

fn node() -> Caller {
    member(MemberRole::Node, "n1")
}

fn client() -> Caller {
    Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() }))
}

/// The gRPC paths of all methods that a protobuf file defines.
fn methods_of(proto: &str) -> Vec<String> {
    let (mut package, mut service, mut found) = ("", "", Vec::new());
    for line in proto.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("package ") {
            package = name.trim_end_matches(';');
        } else if let Some(name) = line.strip_prefix("service ") {
            service = name.trim_end_matches('{').trim();
        } else if let Some(rpc) = line.strip_prefix("rpc ") {
            let name = rpc.split('(').next().unwrap().trim();
            found.push(format!("/{package}.{service}/{name}"));
        }
    }
    found
}

/// The paths of all methods that a peer port may serve.
fn all_methods() -> BTreeSet<String> {
    let mut found: BTreeSet<String> = HEALTH.iter().map(|path| path.to_string()).collect();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/proto")).unwrap() {
        found.extend(methods_of(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
    }
    found
}

#[test]
fn methods_of_a_proto_file_are_found() {
    let proto = "package a.b;\n// rpc of service\nservice S {\n  rpc One(X) returns (Y);\n  rpc Two(stream X)\n}\n";
    assert_eq!(methods_of(proto), ["/a.b.S/One", "/a.b.S/Two"]);
}

#[test]
fn table_has_exactly_the_methods_of_the_services() {
    let table: BTreeSet<String> = METHODS.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(table.len(), METHODS.len(), "a method is listed twice");
    assert_eq!(table, all_methods());
}

/// Who may call a method, stated by services.
fn allows(path: &str, role: MemberRole) -> bool {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap();
    match (service, method) {
        ("volley.raft.v1.Raft", _) | ("volley.cluster.v1.Coordinator", "Propose" | "ReadIndex") => {
            role == MemberRole::Coordinator
        }
        ("volley.cluster.v1.Coordinator" | "volley.cluster.v1.Node", _) => role == MemberRole::Node,
        ("arrow.flight.protocol.FlightService" | "grpc.health.v1.Health", _) => true,
        _ => panic!("a new service, {service}: say here who may call it"),
    }
}

fn code(caller: &Caller, plaintext: PlaintextMembers, path: &str) -> Code {
    authorize(caller, plaintext, path).map_or_else(|error| error.code, |()| Code::Ok)
}

#[test]
fn every_method_has_its_callers() {
    for path in all_methods() {
        for plaintext in [PlaintextMembers::Accepted, PlaintextMembers::Refused] {
            let of_role = |role| if allows(&path, role) { Code::Ok } else { Code::PermissionDenied };
            let without_tls = match plaintext {
                PlaintextMembers::Accepted => Code::Ok,
                PlaintextMembers::Refused => Code::Unauthenticated,
            };
            for (caller, expected) in [
                (coordinator(), of_role(MemberRole::Coordinator)),
                (node(), of_role(MemberRole::Node)),
                (client(), Code::PermissionDenied),
                (Caller::Anonymous, Code::Unauthenticated),
                (Caller::Plaintext, without_tls),
            ] {
                assert_eq!(code(&caller, plaintext, &path), expected, "{path} {caller:?} {plaintext:?}");
            }
        }
    }
}

#[test]
fn every_method_has_its_label_in_metrics() {
    let known: BTreeSet<&str> = METHODS.iter().map(|(method, _)| *method).collect();
    let labelled: BTreeSet<&str> = crate::telemetry::methods::METHODS.into_iter().collect();
    assert_eq!(known, labelled);
}

#[test]
fn unknown_method_is_refused_to_everybody() {
    for path in ["/volley.cluster.v1.Coordinator/propose", "/volley.cluster.v1.Coordinator/Propose/", "/", "", "x"] {
        for (caller, expected) in [
            (coordinator(), Code::Unimplemented),
            (node(), Code::Unimplemented),
            (client(), Code::PermissionDenied),
            (Caller::Anonymous, Code::Unauthenticated),
            (Caller::Plaintext, Code::Unauthenticated),
        ] {
            assert_eq!(code(&caller, PlaintextMembers::Refused, path), expected, "{path} {caller:?}");
        }
    }
}

#[test]
fn refusal_names_method_identity_role_and_remedy() {
    let path = "/volley.cluster.v1.Coordinator/Propose";
    let refusal = |caller: Caller| authorize(&caller, PlaintextMembers::Refused, path).unwrap_err().message;
    for (caller, name) in [
        (node(), "volley://node/n1"),
        (client(), "the client alice"),
        (Caller::Anonymous, "without a certificate"),
        (Caller::Plaintext, "without TLS"),
    ] {
        let message = refusal(caller);
        for part in [path, name, "only coordinators", "volley://coordinator/ID", "peer_cert"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let long = format!("/{}", "x".repeat(1 << 20));
    assert!(authorize(&node(), PlaintextMembers::Refused, &long).unwrap_err().message.len() < 4 << 10);
}

/// The status of a proposal that this caller makes over a connection to a service that answers NOT_FOUND.
async fn proposed_by(caller: Option<Caller>, plaintext: PlaintextMembers) -> Status {
    let served = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(grpc_error(Error::not_found("it was served")))
    });
    let rights = MemberRights::new(served, plaintext);
    let server = TestServer::start(move |mut request| {
        if let Some(caller) = caller.clone() {
            request.extensions_mut().insert(caller);
        }
        let rights = rights.clone();
        async move {
            match rights.oneshot(request).await {
                Ok(reply) => reply,
                Err(never) => match never {},
            }
        }
    })
    .await;
    let mut client = CoordinatorClient::new(ConnectionPool::new().channel(&server.addr).unwrap());
    client.propose(ProposeRequest::default()).await.unwrap_err()
}

#[tokio::test]
async fn node_or_unauthenticated_caller_cannot_propose() {
    use PlaintextMembers::{Accepted, Refused};
    for (caller, plaintext, expected) in [
        (None, Refused, Code::Unauthenticated),
        (None, Accepted, Code::NotFound),
        (Some(Caller::Anonymous), Accepted, Code::Unauthenticated),
        (Some(client()), Accepted, Code::PermissionDenied),
        (Some(node()), Accepted, Code::PermissionDenied),
        (Some(coordinator()), Refused, Code::NotFound),
    ] {
        let status = proposed_by(caller.clone(), plaintext).await;
        assert_eq!(status.code(), expected, "{caller:?} {plaintext:?} {status}");
    }
}
