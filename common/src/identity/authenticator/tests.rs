mod assertions;
mod callers;
mod tokens;

use std::sync::Arc;

use http::HeaderValue;
use http::header::AUTHORIZATION;

use super::*;
use crate::Code;
use crate::identity::access::testing::{grant, name, user};
use crate::identity::assertion::ASSERTION_HEADER;
use crate::identity::{SessionTokenIssuer, new_service_token, new_signing_key};
use crate::tls::{ClientIdentity, MemberIdentity, MemberRole};
use crate::wire::catalog::{Role, ServiceToken, SigningKey, User};
use crate::wire::cluster::IdentitySnapshot;

const NOW: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;
const GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
const BEGIN_WRITE: &str = "/volley.cluster.v1.Coordinator/BeginWrite";
const REMOTE: &str = "10.1.2.3:4567";

/// A cluster with the users ann, who is in the group readers, and etl, who has a service token.
struct IdentityFixture {
    authenticator: Authenticator,
    handle: DirectoryHandle,
    snapshot: IdentitySnapshot,
    signing_key: SigningKey,
    service_token: Secret,
}

fn ticket_key() -> Arc<TicketKey> {
    Arc::new(TicketKey::new(&[7; 32]))
}

fn authenticator(handle: &DirectoryHandle, rules: IdentityRules) -> Authenticator {
    Authenticator::new(handle.clone(), rules, Arc::new(|| Some(ticket_key())))
}

impl IdentityFixture {
    fn new() -> Self {
        let signing_key = new_signing_key(NOW).unwrap();
        let (row, service_token) = new_service_token("etl", "nightly", NOW, 2 * HOUR);
        let snapshot = IdentitySnapshot {
            epoch: 5,
            users: vec![user("ann", &["readers"]), user("etl", &[])],
            tokens: vec![row],
            grants: vec![grant("group:readers", Role::Reader, "a"), grant("user:cert", Role::Writer, "c")],
            keys: vec![SigningKey { private_key: Default::default(), ..signing_key.clone() }],
            closed: false,
            ticket_keys: Vec::new(),
        };
        let handle = DirectoryHandle::new();
        handle.store(Directory::new(&snapshot));
        let authenticator = authenticator(&handle, IdentityRules::default());
        IdentityFixture { authenticator, handle, snapshot, signing_key, service_token }
    }

    fn token_id(&self) -> &str {
        &self.snapshot.tokens[0].id
    }

    /// A session token of a user of generation 1.
    fn session(&self, user: &str, service_token_id: &str) -> Secret {
        let user = User { name: user.into(), generation: 1, ..User::default() };
        SessionTokenIssuer::new(&self.signing_key).unwrap().issue(&user, service_token_id, NOW).unwrap().0
    }

    /// The next epoch, with a change.
    fn change(&mut self, change: impl FnOnce(&mut IdentitySnapshot)) {
        self.snapshot.epoch += 1;
        change(&mut self.snapshot);
        self.handle.store(Directory::new(&self.snapshot));
    }

    fn by_token(&self, token: &Secret, now_ms: u64) -> Result<Access> {
        access(self.authenticator.identify_at(&bearer(token), &Caller::Plaintext, remote(), GET, now_ms))
    }

    fn token_refusal(&self, token: &Secret, now_ms: u64) -> String {
        unauthenticated(self.by_token(token, now_ms))
    }

    fn by_assertion(&self, headers: &HeaderMap, caller: &Caller, path: &str) -> Result<Access> {
        let member = "10.9.9.9:9".parse().ok();
        access(self.authenticator.identify_at(headers, caller, member, path, NOW))
    }
}

fn remote() -> Option<SocketAddr> {
    Some(REMOTE.parse().unwrap())
}

fn bearer(token: &Secret) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {}", token.expose())).unwrap();
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

fn asserted(access: &Access, path: &str) -> HeaderMap {
    let value = access.assertion(&ticket_key(), path, NOW).unwrap();
    HeaderMap::from_iter([(http::HeaderName::from_static(ASSERTION_HEADER), value)])
}

fn access(identified: Result<Identified>) -> Result<Access> {
    identified.map(|identified| match identified {
        Identified::Access(access) => access,
        Identified::Login { user, .. } => panic!("a login of {user}"),
    })
}

fn unauthenticated(result: Result<Access>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code, Code::Unauthenticated, "{error}");
    error.message
}

fn client(name: &str) -> Caller {
    Caller::Client(Arc::new(ClientIdentity { name: name.into(), ..ClientIdentity::default() }))
}

fn member() -> Caller {
    Caller::Member(Arc::new(MemberIdentity { role: MemberRole::Node, name: "n1".into() }))
}
