//! gRPC reflection on the Flight listeners: tools such as grpcurl list the services and messages of a server.

use tonic::service::Routes;
use tonic_reflection::server::Builder;

use crate::{Error, Result};

/// The descriptors of Flight, from `proto/flight.proto`.
const FLIGHT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flight.fds"));

/// Adds the reflection service, in both versions that tools use, with Flight and gRPC health.
///
/// # Errors
/// INTERNAL: the descriptors are broken.
pub fn add_to(routes: Routes) -> Result<Routes> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(FLIGHT_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |e| Error::internal(format!("gRPC reflection: {e}"));
    let v1 = builder().build_v1().map_err(broken)?;
    let v1alpha = builder().build_v1alpha().map_err(broken)?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}
