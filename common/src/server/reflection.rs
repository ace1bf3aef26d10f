//! gRPC reflection on the Flight listeners: tools such as grpcurl list the services and messages of a server.
//!
//! It tells nothing about data, but which methods a server has helps an attacker: it needs identity unless the cluster is open or
//! the setting `public_reflection` is given. The router of the listener identifies the caller; whom reflection refuses is
//! recorded in the audit log here.

use tonic::service::Routes;
use tonic::service::interceptor::{InterceptedService, Interceptor};
use tonic::{Request, Status};
use tonic_reflection::server::Builder;

use super::audit::{AuditEvent, AuditKind, AuditLog, request_id};
use crate::identity::Access;
use crate::{Error, Result};

/// The name of a call in the audit log.
const OPERATION: &str = "reflection";
/// The descriptors of Flight, from `proto/flight.proto`.
const FLIGHT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flight.fds"));

/// Adds the reflection service, in both versions that tools use, with Flight and gRPC health; for identified callers.
/// `audit` records those that are refused.
///
/// # Errors
/// INTERNAL: the descriptors are broken.
pub fn add_to(routes: Routes, audit: &AuditLog) -> Result<Routes> {
    let v1 = InterceptedService::new(builder().build_v1().map_err(broken)?, for_principals(audit.clone()));
    let v1alpha = InterceptedService::new(builder().build_v1alpha().map_err(broken)?, for_principals(audit.clone()));
    Ok(routes.add_service(v1).add_service(v1alpha))
}

/// As [`add_to`], for everybody: the setting `public_reflection`.
///
/// # Errors
/// As [`add_to`].
pub fn add_public_to(routes: Routes) -> Result<Routes> {
    let v1 = builder().build_v1().map_err(broken)?;
    let v1alpha = builder().build_v1alpha().map_err(broken)?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(FLIGHT_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn broken(error: tonic_reflection::server::Error) -> Error {
    Error::internal(format!("gRPC reflection: {error}"))
}

fn for_principals(audit: AuditLog) -> impl Interceptor + Clone + Send + Sync + 'static {
    move |request: Request<()>| require_identity(request, &audit)
}

fn require_identity(request: Request<()>, audit: &AuditLog) -> Result<Request<()>, Status> {
    let access = Access::of(request.extensions());
    if access.is_open() {
        return Ok(request);
    }
    if let Err(refusal) = access.require_identity() {
        audit.record(AuditEvent {
            access: &access,
            kind: AuditKind::Read,
            operation: OPERATION,
            table: None,
            request_id: request_id(request.metadata().as_ref()),
            result: Err(&refusal),
        });
        return Err(refusal.into());
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn caller_that_nobody_identified_gets_no_reflection() {
        let audit = AuditLog::off();
        assert_eq!(require_identity(Request::new(()), &audit).unwrap_err().code(), Code::Unauthenticated);
        let mut request = Request::new(());
        request.extensions_mut().insert(Access::open());
        require_identity(request, &audit).unwrap();
    }

    #[test]
    fn descriptors_are_complete() {
        add_to(Routes::default(), &AuditLog::off()).unwrap();
        add_public_to(Routes::default()).unwrap();
    }
}
