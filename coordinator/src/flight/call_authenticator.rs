//! Who makes a call: found out before anything of the call is read.

use std::net::SocketAddr;

use http::request::Parts;
use volley_common::identity::{Access, Authenticator, Identified, Secret};
use volley_common::server::audit::{AuditKind, AuditLog, UnidentifiedCall, request_id};
use volley_common::server::serve::PeerAddress;
use volley_common::tls::Caller;
use volley_common::{Code, Error, Result};

use super::call_context::CallContext;
use super::rights;
use crate::service::Services;
use crate::service::login::LoginService;

/// Identifies the callers of one listener.
#[derive(Clone)]
pub struct CallAuthenticator {
    authenticator: Authenticator,
    login: LoginService,
    audit: AuditLog,
    /// Whether the callers are members, which assert for whom they call.
    from_members: bool,
}

impl CallAuthenticator {
    /// Identifies callers with these services.
    pub fn new(services: &Services, from_members: bool) -> Self {
        CallAuthenticator {
            authenticator: services.authenticator.clone(),
            login: services.login.clone(),
            audit: services.audit.clone(),
            from_members,
        }
    }

    /// Who makes a call, and whether it may make such calls at all. `method`: the method of Flight, or "" for other services, such
    /// as reflection, which check identity themselves or need none. A refusal is recorded in the audit log.
    ///
    /// # Errors
    /// Those of [`Authenticator::identify`], of [`LoginService::access`] for callers that send their password, and of
    /// [`rights::Requirement::admit`].
    pub async fn identify(&self, head: &Parts, method: &str) -> Result<CallContext> {
        let rights = rights::of_method(method);
        let kind = rights.map_or(AuditKind::Read, |rights| rights.kind);
        // Not a method that a client made up: it may be as long as its path.
        let operation = if rights.is_some() { method } else { "other" };
        let mut claimed = None;
        let access = self.access_of(head, &mut claimed).await.inspect_err(|error| {
            // The members' fault, not the caller's.
            if error.code == Code::Unavailable {
                return;
            }
            self.audit.record_unidentified(UnidentifiedCall {
                address: PeerAddress::of(&head.extensions),
                claimed: claimed.as_deref(),
                kind,
                operation,
                request_id: request_id(&head.headers),
                error,
            });
        })?;
        let call = CallContext::new(access, self.audit.clone(), &head.headers);
        if let Some(rights) = rights {
            let admitted = rights.requirement.admit(call.access());
            admitted.inspect_err(|refusal| call.record(kind, operation, Err(refusal)))?;
        }
        Ok(call)
    }

    /// `claimed` becomes the user that the caller claims to be.
    async fn access_of(&self, head: &Parts, claimed: &mut Option<String>) -> Result<Access> {
        let (peer, caller) = (PeerAddress::of(&head.extensions), Caller::of(&head.extensions));
        // Nodes forward the calls of an open cluster without assertion, from other machines too: they have checked whom they
        // serve.
        if self.from_members && self.authenticator.directory().is_some_and(|directory| directory.is_open()) {
            return Ok(Access::open());
        }
        // A member would ask another coordinator at once.
        if !self.from_members {
            self.authenticator.wait_for_directory(head.uri.path()).await;
        }
        match self.authenticator.identify(&head.headers, caller, peer, head.uri.path())? {
            Identified::Access(access) => Ok(access),
            Identified::Login { user, password } => {
                let access = self.log_in(&user, &password, peer).await;
                *claimed = Some(user);
                access
            }
        }
    }

    /// A password that arrives on the peer port was not verified by the node that forwards the call, an older one: the client's
    /// address is not known, and that of the node must not be slowed down.
    async fn log_in(&self, user: &str, password: &Secret, peer: Option<SocketAddr>) -> Result<Access> {
        if self.from_members {
            return Err(Error::unauthenticated(
                "the member that forwards this call has not verified its password: upgrade that member",
            ));
        }
        self.login.access(user, password, peer).await
    }
}
