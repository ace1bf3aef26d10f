//! gRPC health (`grpc.health.v1`), of the process and of its Flight service.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

/// What is asked for: the process as a whole, and Flight.
const SERVICES: [&str; 2] = ["", "arrow.flight.protocol.FlightService"];

/// Says whether the server serves.
#[derive(Debug)]
pub struct Reporter(HealthReporter);

/// The service, and what it says: not serving, until told otherwise.
pub async fn service() -> (Reporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let reporter = Reporter(reporter);
    reporter.set(false).await;
    (reporter, service)
}

impl Reporter {
    /// From now on it serves, or does not.
    pub async fn set(&self, serves: bool) {
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    /// It serves no more. Whoever watches is told, and that is the end of it: a watch would hold up the stop. Whoever asks is told
    /// the same.
    pub async fn end(mut self) {
        self.set(false).await;
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
        // What is cleared is not known any more.
        self.set(false).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Told;
    use tonic_health::server::HealthService;

    use super::*;

    #[tokio::test]
    async fn a_watch_hears_of_the_end_and_ends() {
        let reporter = Reporter(HealthReporter::new());
        reporter.set(true).await;
        let health = HealthService::from_health_reporter(reporter.0.clone());
        let watch = health.watch(Request::new(HealthCheckRequest::default())).await.unwrap().into_inner();
        let mut watch = watch.map(|status| status.unwrap().status());
        assert_eq!(watch.next().await, Some(Told::Serving));
        reporter.end().await;
        assert_eq!(watch.next().await, Some(Told::NotServing));
        assert_eq!(watch.next().await, None);
        let asked = health.check(Request::new(HealthCheckRequest::default())).await.unwrap().into_inner();
        assert_eq!(asked.status(), Told::NotServing);
    }
}
