//! Who calls the HTTP port: the same principals as at Flight listeners, by `Authorization: Basic` or `Bearer`, or by a client
//! certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;

use crate::identity::{Access, Authenticator, Identified, Secret};
use crate::server::audit::{AuditEvent, AuditKind, AuditLog, UnidentifiedCall, request_id};
use crate::server::serve::PeerAddress;
use crate::tls::Caller;
use crate::wire::catalog::Role;
use crate::{Code, Error, Result};

/// What a caller without identity may send: the header `www-authenticate` of a response with 401.
pub const CHALLENGE: &str = "Basic realm=\"volley\", Bearer";
/// The name of a scrape in the audit log.
const METRICS: &str = "metrics";

/// Verifies user and password; each server has its own way to the users.
pub trait HttpLogin: Send + Sync {
    /// Who a caller at `address` is, with its rights.
    ///
    /// # Errors
    /// UNAUTHENTICATED: no such user, or another password. RESOURCE_EXHAUSTED: too many failures before.
    fn login<'a>(
        &'a self,
        user: &'a str,
        password: &'a Secret,
        address: Option<SocketAddr>,
    ) -> BoxFuture<'a, Result<Access>>;
}

/// How a server identifies the callers of its HTTP port, once it can.
#[derive(Clone)]
pub struct HttpIdentity {
    /// Identifies callers by tokens and certificates.
    pub authenticator: Authenticator,
    /// Identifies them by passwords.
    pub login: Arc<dyn HttpLogin>,
    /// Where scrapes are recorded.
    pub audit: AuditLog,
    /// Whether metrics need no identity (`public_metrics`).
    pub public_metrics: bool,
}

impl HttpIdentity {
    /// Checks that the caller of `/metrics` may read them: an operator, or anybody if the cluster is open or they are public.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED, and those of [`Authenticator::identify`] and [`HttpLogin::login`].
    pub(super) async fn check_metrics(&self, request: &Parts) -> Result<()> {
        if self.public_metrics {
            return Ok(());
        }
        let address = PeerAddress::of(&request.extensions);
        let request_id = request_id(&request.headers);
        let mut claimed = None;
        let access = match self.identify(request, address, &mut claimed).await {
            Ok(access) => access,
            Err(error) => {
                self.audit.record_unidentified(UnidentifiedCall {
                    address,
                    claimed: claimed.as_deref(),
                    kind: AuditKind::Read,
                    operation: METRICS,
                    request_id,
                    error: &error,
                });
                return Err(error);
            }
        };
        let checked = check_operator(&access);
        self.audit.record(AuditEvent {
            access: &access,
            kind: AuditKind::Read,
            operation: METRICS,
            table: None,
            request_id,
            result: checked.as_ref().copied(),
        });
        checked
    }

    /// Who calls. `claimed`: becomes the user that the caller claims to be.
    async fn identify(
        &self,
        request: &Parts,
        address: Option<SocketAddr>,
        claimed: &mut Option<String>,
    ) -> Result<Access> {
        let caller = Caller::of(&request.extensions);
        match self.authenticator.identify(&request.headers, caller, address, request.uri.path())? {
            Identified::Access(access) => Ok(access),
            Identified::Login { user, password } => {
                *claimed = Some(user.clone());
                self.login.login(&user, &password, address).await
            }
        }
    }
}

fn check_operator(access: &Access) -> Result<()> {
    if access.is_open() {
        return Ok(());
    }
    access.require_identity()?;
    access.require_cluster(Role::Operator)
}

/// The status of a response for an error: the only mapping from gRPC's codes.
pub fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::DataLoss | Code::Internal | Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The reply to a call that is refused.
pub(super) fn refusal(error: &Error) -> Response {
    let status = http_status(error.code);
    let mut response = (status, format!("{error}\n")).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    response
}
