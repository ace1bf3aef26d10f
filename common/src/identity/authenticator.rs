//! Identifies the callers of one process, from their headers and connections, by the newest [`Directory`].
//!
//! | module | what it holds |
//! |---|---|
//! | `bearer` | whose token a bearer is |
//! | `token_cache` | tokens that were verified |

mod bearer;
#[cfg(test)]
mod tests;
mod token_cache;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use self::bearer::verify_bearer;
use self::token_cache::TokenCache;
use super::access::Access;
use super::access::rights::PrincipalRights;
use super::assertion::{has_assertion, verify_assertion_header};
use super::credentials::Credentials;
use super::directory::{Directory, DirectoryHandle};
use super::oidc::OidcVerifier;
use super::principal::{LoginMethod, Principal};
use super::secret::Secret;
use crate::grpc::HANDSHAKE;
use crate::ticket::TicketKey;
use crate::tls::{Caller, ClientIdentity};
use crate::{Code, Error, Result, clock};

const HEALTH: &str = "/grpc.health.v1.Health/";
/// Calls that may wait until this member knows a directory. Further ones are refused at once.
const MAX_WAITING: usize = 1024;

/// Methods that members call of their own accord, not on behalf of a client: whole services, which end in `/`, and methods.
/// Only peer ports serve them, and `server::serve::member_rights` says there which member may call which.
const MEMBER_METHODS: [&str; 11] = [
    "/volley.raft.v1.Raft/",
    "/volley.cluster.v1.Node/",
    "/volley.cluster.v1.Coordinator/Propose",
    "/volley.cluster.v1.Coordinator/ReadIndex",
    "/volley.cluster.v1.Coordinator/Session",
    "/volley.cluster.v1.Coordinator/StageParts",
    "/volley.cluster.v1.Coordinator/RenewWrite",
    "/volley.cluster.v1.Coordinator/CommitWrite",
    "/volley.cluster.v1.Coordinator/AbortWrite",
    "/volley.cluster.v1.Coordinator/DeletableParts",
    "/volley.cluster.v1.Coordinator/Login",
];

/// Settings of identification.
#[derive(Clone, Default)]
pub struct IdentityRules {
    /// An open cluster serves other machines.
    pub insecure: bool,
    /// Any principal may redeem any ticket.
    pub shareable_tickets: bool,
    /// Verifies the tokens of an OIDC issuer.
    pub oidc: Option<Arc<OidcVerifier>>,
    /// How long a call waits at a member that knows no directory yet, because it has just started.
    pub directory_timeout: Duration,
}

/// Identifies the callers of one process. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<AuthenticatorState>);

struct AuthenticatorState {
    directory: DirectoryHandle,
    rules: IdentityRules,
    ticket_key: Arc<dyn Fn() -> Option<Arc<TicketKey>> + Send + Sync>,
    verified: TokenCache,
    /// Places of calls that wait for a directory.
    waiting: Semaphore,
}

/// The result of checking the credentials of a call.
#[derive(Debug)]
pub enum Identified {
    /// The caller's rights.
    Access(Access),
    /// The caller sent a user and a password with the call: they are to be exchanged for a session token first.
    Login {
        /// The user's name.
        user: String,
        /// The password, not verified.
        password: Secret,
    },
}

/// Whether a method needs no identity: Handshake, which gives one, and gRPC health. `path`: the gRPC path. Not gRPC reflection,
/// for which there is a setting.
pub fn is_public(path: &str) -> bool {
    path == HANDSHAKE || path.starts_with(HEALTH)
}

fn is_member_method(path: &str) -> bool {
    MEMBER_METHODS.iter().any(|member| if member.ends_with('/') { path.starts_with(member) } else { path == *member })
}

impl Authenticator {
    /// Identifies by `directory`. `ticket_key`: the cluster's key, once it is known, which signs assertions.
    pub fn new(
        directory: DirectoryHandle,
        rules: IdentityRules,
        ticket_key: Arc<dyn Fn() -> Option<Arc<TicketKey>> + Send + Sync>,
    ) -> Self {
        let (verified, waiting) = (TokenCache::default(), Semaphore::new(MAX_WAITING));
        Authenticator(Arc::new(AuthenticatorState { directory, rules, ticket_key, verified, waiting }))
    }

    /// For tests: of an open cluster that permits everything to everybody.
    pub fn open() -> Self {
        let rules = IdentityRules { insecure: true, ..IdentityRules::default() };
        Authenticator::new(DirectoryHandle::open(), rules, Arc::new(|| None))
    }

    /// The newest directory; `None`: this member knows none yet.
    pub fn directory(&self) -> Option<Arc<Directory>> {
        self.0.directory.load()
    }

    /// Waits until this member knows a directory, for [`IdentityRules::directory_timeout`] at most: a call that arrives right
    /// after the start of a member need not fail. Whoever waits in vain is refused by [`Authenticator::identify`]. Health checks,
    /// by the path of the method, do not wait.
    pub async fn wait_for_directory(&self, path: &str) {
        if path.starts_with(HEALTH) || self.directory().is_some() {
            return;
        }
        let Ok(_place) = self.0.waiting.try_acquire() else { return };
        let mut epochs = self.0.directory.subscribe();
        let _ = tokio::time::timeout(self.0.rules.directory_timeout, epochs.wait_for(Option::is_some)).await;
    }

    /// Who makes a call of the method `path`. By this order: the assertion of a member; a token; the client's certificate;
    /// nobody, who is refused everything but the methods of [`is_public`]. Credentials of public methods and in an open cluster
    /// are not looked at.
    ///
    /// # Errors
    /// UNAUTHENTICATED: invalid, expired or revoked credentials. UNAVAILABLE: this member knows no directory yet.
    /// PERMISSION_DENIED: the cluster is open, the caller is on another machine and has no certificate, and
    /// [`IdentityRules::insecure`] is not set.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        peer: Option<SocketAddr>,
        path: &str,
    ) -> Result<Identified> {
        let identified = self.identify_at(headers, caller, peer, path, clock::now_ms());
        count_identified(&identified);
        identified
    }

    /// The rights of whom a token is of: a session token, a service token, or one of an OIDC issuer.
    ///
    /// # Errors
    /// As [`Authenticator::identify`].
    pub fn access_of_token(&self, token: &Secret, peer: Option<SocketAddr>) -> Result<Access> {
        let (directory, ip) = (self.known_directory()?, client_ip(peer));
        if directory.is_open() {
            return self.access_to_open(&directory, &Caller::Anonymous, ip);
        }
        Ok(self.for_client(Access::with_rights(self.rights_of_token(&directory, token, clock::now_ms())?), ip))
    }

    fn identify_at(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        peer: Option<SocketAddr>,
        path: &str,
        now_ms: u64,
    ) -> Result<Identified> {
        let ip = client_ip(peer);
        // Members must reach each other before they know any directory.
        if is_member_method(path) && matches!(caller, Caller::Member(_) | Caller::Plaintext) {
            return Ok(Identified::Access(Access::open()));
        }
        if is_public(path) {
            return Ok(Identified::Access(self.for_client(Access::anonymous(), ip)));
        }
        let directory = self.known_directory()?;
        if directory.is_open() {
            let access = self.access_to_open(&directory, caller, ip)?;
            // What another member forwards is of no client in particular: all its clients together are not one.
            let is_forwarded = matches!(caller, Caller::Member(_));
            return Ok(Identified::Access(if is_forwarded { self.for_client(access, None) } else { access }));
        }
        if has_assertion(headers) {
            return self.asserted(&directory, headers, caller, path, now_ms).map(Identified::Access);
        }
        let access = match (Credentials::of_headers(headers)?, caller) {
            (Credentials::Basic { user, password }, _) => return Ok(Identified::Login { user, password }),
            (Credentials::Bearer(token), _) => Access::with_rights(self.rights_of_token(&directory, &token, now_ms)?),
            (Credentials::None, Caller::Client(client)) => {
                Access::of_principal(certified_principal(&directory, client), directory)
            }
            (Credentials::None, Caller::Plaintext | Caller::Anonymous | Caller::Member(_)) => Access::anonymous(),
        };
        Ok(Identified::Access(self.for_client(access, ip)))
    }

    fn known_directory(&self) -> Result<Arc<Directory>> {
        self.directory().ok_or_else(|| {
            Error::unavailable(
                "this member does not know the users of the cluster yet, because it has not reached the leader since it started: try again in a moment",
            )
        })
    }

    fn for_client(&self, access: Access, ip: Option<IpAddr>) -> Access {
        access.for_client(ip, self.0.rules.shareable_tickets)
    }

    /// The access of everybody in an open cluster, to whoever it serves.
    fn access_to_open(&self, directory: &Directory, caller: &Caller, ip: Option<IpAddr>) -> Result<Access> {
        let is_certified = matches!(caller, Caller::Client(_) | Caller::Member(_));
        if self.0.rules.insecure || is_certified || ip.is_some_and(|ip| ip.is_loopback()) {
            return Ok(self.for_client(Access::open_at_epoch(directory.epoch()), ip));
        }
        Err(Error::denied(
            "this cluster has no users yet, so it serves only clients on the machines of its members, and those with a certificate: create the first administrator with --bootstrap-admin-file at a coordinator, or start every member with --insecure if the network is trusted",
        ))
    }

    /// The access of whom a member calls for, with the address of the client that called that member.
    fn asserted(
        &self,
        directory: &Arc<Directory>,
        headers: &HeaderMap,
        caller: &Caller,
        path: &str,
        now_ms: u64,
    ) -> Result<Access> {
        if matches!(caller, Caller::Client(_) | Caller::Anonymous) {
            return Err(Error::unauthenticated(format!(
                "only members may say on whose behalf they call, and {caller} does: present credentials"
            )));
        }
        let key = (self.0.ticket_key)().ok_or_else(|| {
            Error::unavailable("this member does not know the key of the cluster yet: try again in a moment")
        })?;
        let (asserted, ip) = verify_assertion_header(headers, &key, path, now_ms)?;
        let principal = current_principal(directory, asserted, now_ms)?;
        Ok(self.for_client(Access::of_principal(principal, directory.clone()), ip))
    }

    /// The rights of whom a token is of. A token is verified once by each directory.
    fn rights_of_token(&self, directory: &Arc<Directory>, token: &Secret, now_ms: u64) -> Result<Arc<PrincipalRights>> {
        let digest: [u8; 32] = Sha256::digest(token.expose()).into();
        if let Some(rights) = self.0.verified.get(&digest, directory, now_ms) {
            return Ok(rights);
        }
        let verified = verify_bearer(directory, self.0.rules.oidc.as_deref(), token.expose(), now_ms)?;
        let rights = Arc::new(PrincipalRights::new(verified.principal, directory.clone()));
        self.0.verified.insert(digest, directory, &rights, verified.valid_until_ms);
        Ok(rights)
    }
}

/// Counts a caller who was looked for, by the result.
fn count_identified(identified: &Result<Identified>) {
    let counter = match identified {
        Ok(Identified::Access(_)) => metrics::counter!("volley_authentications_total", "result" => "accepted"),
        Ok(Identified::Login { .. }) => metrics::counter!("volley_authentications_total", "result" => "password"),
        Err(error) if error.code == Code::PermissionDenied => {
            metrics::counter!("volley_authentications_total", "result" => "denied")
        }
        Err(error) if error.code == Code::Unavailable => {
            metrics::counter!("volley_authentications_total", "result" => "unavailable")
        }
        Err(_) => metrics::counter!("volley_authentications_total", "result" => "unauthenticated"),
    };
    counter.increment(1);
}

/// The IP address of a client. A listener on `::` sees clients of IPv4 by mapped addresses.
fn client_ip(peer: Option<SocketAddr>) -> Option<IpAddr> {
    peer.map(|peer| peer.ip().to_canonical())
}

fn groups_in_catalog(directory: &Directory, user: &str) -> Vec<String> {
    directory.user(user).map(|user| user.groups.clone()).unwrap_or_default()
}

fn certified_principal(directory: &Directory, client: &ClientIdentity) -> Principal {
    Principal {
        name: client.name.clone(),
        groups: groups_in_catalog(directory, &client.name),
        method: LoginMethod::Certificate,
        credential: client.fingerprint.clone(),
    }
}

/// An asserted principal as of this member's directory, which may be newer than that of the member that asserts it.
///
/// # Errors
/// UNAUTHENTICATED: its user was removed, or its service token revoked.
fn current_principal(directory: &Directory, asserted: Principal, now_ms: u64) -> Result<Principal> {
    match asserted.method {
        LoginMethod::Oidc => return Ok(asserted),
        LoginMethod::Certificate => {}
        LoginMethod::Password => {
            bearer::require_user(directory, &asserted.name)?;
        }
        LoginMethod::ServiceToken => {
            bearer::require_user(directory, &asserted.name)?;
            bearer::require_service_token(directory, &asserted.credential, &asserted.name, now_ms)?;
        }
    }
    let groups = groups_in_catalog(directory, &asserted.name);
    Ok(Principal { groups, ..asserted })
}
