//! gRPC reflection on the Flight port: tools such as grpcurl ask a server which calls it has.

use tonic::service::Routes;
use tonic_reflection::server::Builder;

use crate::{Error, Result};

/// The calls and messages of Flight, from `proto/flight.proto`.
const FLIGHT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flight.fds"));

/// Adds the service, in both versions that tools speak, for Flight and gRPC health.
///
/// # Errors
/// INTERNAL: the descriptors are broken.
pub fn add_to(routes: Routes) -> Result<Routes> {
    let described = || {
        let builder = Builder::configure().register_encoded_file_descriptor_set(FLIGHT);
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |e| Error::internal(format!("gRPC reflection: {e}"));
    let newer = described().build_v1().map_err(broken)?;
    Ok(routes.add_service(newer).add_service(described().build_v1alpha().map_err(broken)?))
}
