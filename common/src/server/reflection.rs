//! gRPC reflection on the Flight listeners: tools such as grpcurl list the services and messages of a server.
//!
//! It tells nothing about data, but which methods a server has helps an attacker: it needs identity unless the cluster is open or
//! the setting `public_reflection` is given. The router of the listener identifies the caller.

use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tonic_reflection::server::Builder;

use crate::identity::Access;
use crate::{Error, Result};

/// The descriptors of Flight, from `proto/flight.proto`.
const FLIGHT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flight.fds"));

/// Adds the reflection service, in both versions that tools use, with Flight and gRPC health; for identified callers.
///
/// # Errors
/// INTERNAL: the descriptors are broken.
pub fn add_to(routes: Routes) -> Result<Routes> {
    let v1 = InterceptedService::new(builder().build_v1().map_err(broken)?, require_identity);
    let v1alpha = InterceptedService::new(builder().build_v1alpha().map_err(broken)?, require_identity);
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

fn require_identity(request: Request<()>) -> Result<Request<()>, Status> {
    let access = Access::of(request.extensions());
    if !access.is_open() {
        access.require_identity()?;
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn caller_that_nobody_identified_gets_no_reflection() {
        assert_eq!(require_identity(Request::new(())).unwrap_err().code(), Code::Unauthenticated);
        let mut request = Request::new(());
        request.extensions_mut().insert(Access::open());
        require_identity(request).unwrap();
    }

    #[test]
    fn descriptors_are_complete() {
        add_to(Routes::default()).unwrap();
        add_public_to(Routes::default()).unwrap();
    }
}
