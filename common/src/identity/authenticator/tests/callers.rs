//! Calls without a token, and those that need no identity.

use futures::FutureExt;

use super::*;

#[test]
fn caller_without_credentials_is_nobody() {
    let cluster = IdentityFixture::new();
    for caller in [Caller::Plaintext, Caller::Anonymous, member()] {
        for path in [GET, BEGIN_WRITE, "/volley.cluster.v1.Coordinator/PlanRead"] {
            let nobody = access(cluster.authenticator.identify(&HeaderMap::new(), &caller, remote(), path)).unwrap();
            assert_eq!(nobody.require_identity().unwrap_err().code, Code::Unauthenticated, "{caller} {path}");
            assert_eq!(nobody.client_address(), Some("10.1.2.3"));
        }
    }
}

#[test]
fn basic_credentials_are_a_login() {
    let cluster = IdentityFixture::new();
    // ann:hunter2!
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic YW5uOmh1bnRlcjIh"))]);
    let identified = cluster.authenticator.identify(&headers, &client("cert"), remote(), GET).unwrap();
    assert!(!format!("{identified:?}").contains("hunter2"), "{identified:?}");
    let Identified::Login { user, password } = identified else { panic!("not a login") };
    assert_eq!((user.as_str(), password.expose()), ("ann", "hunter2!"));
}

#[test]
fn certificate_identifies_a_client_without_a_token() {
    let cluster = IdentityFixture::new();
    let identify = |headers: &HeaderMap, caller: &Caller| {
        access(cluster.authenticator.identify_at(headers, caller, remote(), GET, NOW)).unwrap()
    };
    let cert = identify(&HeaderMap::new(), &client("cert"));
    assert_eq!((cert.name(), cert.principal().unwrap().method), ("cert", LoginMethod::Certificate));
    cert.require(Role::Writer, &name("c/t")).unwrap();
    // One whose name a user has is in the groups of that user.
    let ann = identify(&HeaderMap::new(), &client("ann"));
    assert!(ann.can_read(&name("a/t")));
    assert_eq!(ann.principal().unwrap().groups, ["readers"]);
    // A token counts more, and a bad one is not replaced by the certificate.
    assert_eq!(identify(&bearer(&cluster.session("ann", "")), &client("cert")).name(), "ann");
    let bad = bearer(&Secret::new("nonsense"));
    unauthenticated(access(cluster.authenticator.identify(&bad, &client("cert"), remote(), GET)));
}

#[test]
fn open_cluster_serves_its_own_machine_and_certificates() {
    let handle = DirectoryHandle::new();
    handle.store(Directory::new(&IdentitySnapshot { epoch: 3, ..IdentitySnapshot::default() }));
    let is_served = |caller: &Caller, peer: Option<&str>, insecure: bool| {
        let rules = IdentityRules { insecure, ..IdentityRules::default() };
        let peer = peer.map(|peer| peer.parse().unwrap());
        // Credentials are not looked at.
        let headers = bearer(&Secret::new("nonsense"));
        match access(authenticator(&handle, rules).identify(&headers, caller, peer, GET)) {
            Ok(access) => {
                assert!(access.is_open() && access.epoch() == 3);
                let is_client = !matches!(caller, Caller::Member(_)) && peer.is_some();
                assert_eq!(access.client_ip().is_some(), is_client, "a member's calls are not those of one client");
                true
            }
            Err(error) => {
                assert_eq!(error.code, Code::PermissionDenied);
                assert!(error.message.contains("--insecure"), "{error}");
                false
            }
        }
    };
    for local in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5", "127.9.9.9:5"] {
        assert!(is_served(&Caller::Plaintext, Some(local), false), "{local}");
    }
    for remote in [Some(REMOTE), Some("[::ffff:10.1.2.3]:5"), Some("[2001:db8::1]:5"), None] {
        for caller in [Caller::Plaintext, Caller::Anonymous] {
            assert!(!is_served(&caller, remote, false), "{caller} {remote:?}");
            assert!(is_served(&caller, remote, true), "{caller} {remote:?}");
        }
        assert!(is_served(&client("cert"), remote, false) && is_served(&member(), remote, false), "{remote:?}");
    }
    let by_token = authenticator(&handle, IdentityRules::default());
    let denied = by_token.access_of_token(&Secret::new("x"), remote()).unwrap_err();
    assert_eq!(denied.code, Code::PermissionDenied);
}

#[test]
fn closed_cluster_without_users_serves_nobody() {
    let handle = DirectoryHandle::new();
    handle.store(Directory::new(&IdentitySnapshot { closed: true, ..IdentitySnapshot::default() }));
    let rules = IdentityRules { insecure: true, ..IdentityRules::default() };
    let local = "127.0.0.1:5".parse().ok();
    let nobody = access(authenticator(&handle, rules).identify(&HeaderMap::new(), &Caller::Plaintext, local, GET));
    assert_eq!(nobody.unwrap().require_identity().unwrap_err().code, Code::Unauthenticated);
}

#[test]
fn member_without_a_directory_serves_only_public_and_member_methods() {
    let unknown = authenticator(&DirectoryHandle::new(), IdentityRules { insecure: true, ..IdentityRules::default() });
    let identify = |path| access(unknown.identify(&HeaderMap::new(), &Caller::Plaintext, remote(), path));
    assert_eq!(identify(GET).unwrap_err().code, Code::Unavailable);
    assert_eq!(unknown.access_of_token(&Secret::new("x"), None).unwrap_err().code, Code::Unavailable);
    for public in [HANDSHAKE, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        assert!(!identify(public).unwrap().is_open(), "{public}");
    }
    assert!(identify("/volley.raft.v1.Raft/Vote").unwrap().is_open());
    assert!(Authenticator::open().identify(&HeaderMap::new(), &Caller::Plaintext, remote(), GET).is_ok());
}

#[test]
fn only_handshake_and_health_are_public() {
    for path in [
        GET,
        "/arrow.flight.protocol.FlightService/Handshake/",
        "/arrow.flight.protocol.FlightService/DoAction",
        "/grpc.health.v1.Healthy/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/volley.cluster.v1.Coordinator/Login",
        "",
        "/",
    ] {
        assert!(!is_public(path), "{path}");
    }
    assert!(is_public(HANDSHAKE) && is_public("/grpc.health.v1.Health/Check"));
}

/// A new method needs a decision: is it called because of a client?
#[test]
fn every_coordinator_method_is_a_members_or_a_clients() {
    let definitions = include_str!("../../../../proto/cluster.proto");
    let service = definitions.split("service Coordinator {").nth(1).unwrap().split("\n}").next().unwrap();
    let methods = service.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    let for_clients: Vec<&str> =
        methods.filter(|method| !is_member_method(&format!("/volley.cluster.v1.Coordinator/{method}"))).collect();
    assert_eq!(for_clients, ["BeginWrite", "PlanRead", "PlanTables", "ListTables"]);
    assert!(is_member_method("/volley.cluster.v1.Node/FetchPart") && !is_member_method(GET));
    assert!(!is_member_method("/volley.cluster.v1.Coordinator/LoginX") && !is_member_method("/volley.raft.v1.RaftX/A"));
}

#[test]
fn client_with_tls_is_no_member() {
    let cluster = IdentityFixture::new();
    for caller in [client("cert"), Caller::Anonymous] {
        let path = "/volley.cluster.v1.Coordinator/CommitWrite";
        let access = access(cluster.authenticator.identify(&HeaderMap::new(), &caller, remote(), path)).unwrap();
        assert!(!access.is_open(), "{caller}");
    }
}

#[tokio::test]
async fn call_waits_for_the_first_directory_health_checks_do_not() {
    let handle = DirectoryHandle::new();
    let rules = IdentityRules { directory_timeout: Duration::from_secs(600), ..IdentityRules::default() };
    let authenticator = authenticator(&handle, rules);
    authenticator.wait_for_directory("/grpc.health.v1.Health/Check").await;
    let others = authenticator.0.waiting.try_acquire_many(MAX_WAITING as u32).unwrap();
    authenticator.wait_for_directory(GET).await;
    drop(others);
    let waiting = authenticator.wait_for_directory(GET);
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    handle.store(Directory::open());
    waiting.await;
}

#[tokio::test]
async fn call_that_waits_in_vain_for_a_directory_is_refused() {
    let rules = IdentityRules { directory_timeout: Duration::from_millis(10), ..IdentityRules::default() };
    let authenticator = authenticator(&DirectoryHandle::new(), rules);
    authenticator.wait_for_directory(GET).await;
    let refused = authenticator.identify(&HeaderMap::new(), &Caller::Plaintext, remote(), GET).unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
}

#[test]
fn setting_makes_tickets_of_others_redeemable() {
    let cluster = IdentityFixture::new();
    let ann = cluster.by_token(&cluster.session("ann", ""), NOW).unwrap();
    let mut ticket = crate::wire::cluster::Ticket { table: name("a/t"), ..Default::default() };
    ann.bind_ticket(&mut ticket, false);
    for (shareable_tickets, expected) in [(false, false), (true, true)] {
        let rules = IdentityRules { shareable_tickets, ..IdentityRules::default() };
        let identified = authenticator(&cluster.handle, rules).identify_at(
            &bearer(&cluster.service_token),
            &Caller::Plaintext,
            remote(),
            GET,
            NOW,
        );
        assert_eq!(access(identified).unwrap().check_ticket(&ticket).is_ok(), expected);
    }
}
