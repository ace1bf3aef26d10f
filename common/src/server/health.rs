//! gRPC health (`grpc.health.v1`) of the process and of its Flight service.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

/// The services that have a status: the process as a whole, and Flight.
const SERVICES: [&str; 2] = ["", "arrow.flight.protocol.FlightService"];

/// Sets the status of all services together.
#[derive(Debug)]
pub struct ServingReporter(HealthReporter);

/// Makes the health service; its status is NOT_SERVING until the reporter changes it.
pub async fn service() -> (ServingReporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let reporter = ServingReporter(reporter);
    reporter.set(false).await;
    (reporter, service)
}

impl ServingReporter {
    /// Reports SERVING while `is_serving` holds for the watched value, and NOT_SERVING permanently after `stop`.
    pub async fn follow<T>(
        self,
        mut watched: watch::Receiver<T>,
        is_serving: impl Fn(&T) -> bool,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let serving = is_serving(&watched.borrow_and_update());
            self.set(serving).await;
            tokio::select! {
                () = stop.cancelled() => {}
                // Without a sender the value stays, until the server stops.
                changed = watched.changed() => if changed.is_err() { stop.cancelled().await },
            }
        }
        self.end().await;
    }

    async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    /// Reports NOT_SERVING and ends all watches, which would delay the stop.
    async fn end(mut self) {
        self.set(false).await;
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
        // `Check` of a cleared service is NOT_FOUND: set it once more.
        self.set(false).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Reported;
    use tonic_health::server::HealthService;

    use super::*;

    #[tokio::test]
    async fn watch_at_stop_reports_not_serving_and_ends() {
        let reporter = ServingReporter(HealthReporter::new());
        reporter.set(true).await;
        let health = HealthService::from_health_reporter(reporter.0.clone());
        let watch = health.watch(Request::new(HealthCheckRequest::default())).await.unwrap().into_inner();
        let mut watch = watch.map(|status| status.unwrap().status());
        assert_eq!(watch.next().await, Some(Reported::Serving));
        reporter.end().await;
        assert_eq!(watch.next().await, Some(Reported::NotServing));
        assert_eq!(watch.next().await, None);
        let checked = health.check(Request::new(HealthCheckRequest::default())).await.unwrap().into_inner();
        assert_eq!(checked.status(), Reported::NotServing);
    }

    #[tokio::test]
    async fn status_follows_the_watched_value_until_stop() {
        let reporter = ServingReporter(HealthReporter::new());
        reporter.set(false).await;
        let health = HealthService::from_health_reporter(reporter.0.clone());
        let watch = health.watch(Request::new(HealthCheckRequest::default())).await.unwrap().into_inner();
        let mut reported = watch.map(|status| status.unwrap().status());
        let (leader, watched) = watch::channel(Some(1));
        let stop = CancellationToken::new();
        let following = tokio::spawn(reporter.follow(watched, Option::is_some, stop.clone()));
        while reported.next().await != Some(Reported::Serving) {}
        leader.send_replace(None);
        assert_eq!(reported.next().await, Some(Reported::NotServing));
        stop.cancel();
        following.await.unwrap();
    }
}
