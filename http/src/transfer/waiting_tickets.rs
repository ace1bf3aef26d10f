//! Tickets that wait until those before them are read, which takes as long as the client reads slowly.
//!
//! They expire. So a task renews them half-way, and with them the time for which the version stays readable, until the response has
//! ended. The last ticket is renewed after it was redeemed, too: its parts are read until the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightEndpoint;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;
use volley_common::grpc::endpoint_expiry_ms;
use volley_common::{Code, clock};

use crate::flight_calls::FlightCalls;

/// Tickets are not renewed more often than this: half of the shortest lifetime.
const MIN_PAUSE: Duration = Duration::from_secs(5);

/// The tickets of a read that are not redeemed yet.
pub(crate) struct WaitingTickets {
    endpoints: Arc<Mutex<VecDeque<FlightEndpoint>>>,
    _keeper: Option<AbortOnDropHandle<()>>,
}

impl WaitingTickets {
    /// The tickets of these endpoints, which are renewed from now on.
    pub fn new(calls: &FlightCalls, endpoints: Vec<FlightEndpoint>) -> Self {
        let last = endpoints.last().filter(|last| endpoint_expiry_ms(last).is_some()).map(without_locations);
        let endpoints: VecDeque<_> = endpoints.iter().map(without_locations).collect();
        let endpoints = Arc::new(Mutex::new(endpoints));
        let keeper = last.map(|last| tokio::spawn(keep(calls.clone(), Arc::clone(&endpoints), last)));
        WaitingTickets { endpoints, _keeper: keeper.map(AbortOnDropHandle::new) }
    }

    /// A ticket that is redeemed at once.
    pub fn only(ticket: Bytes) -> Self {
        let ticket = Some(arrow_flight::Ticket { ticket });
        let endpoints = Arc::new(Mutex::new(VecDeque::from([FlightEndpoint { ticket, ..FlightEndpoint::default() }])));
        WaitingTickets { endpoints, _keeper: None }
    }

    /// The next ticket; none after the last.
    pub fn next(&self) -> Option<Bytes> {
        let endpoint = self.endpoints.lock().pop_front()?;
        Some(endpoint.ticket.unwrap_or_default().ticket)
    }
}

/// The locations are not needed, and there may be many.
fn without_locations(endpoint: &FlightEndpoint) -> FlightEndpoint {
    FlightEndpoint { location: Vec::new(), ..endpoint.clone() }
}

/// Renews all tickets half-way to the expiry of the last one, until that is refused.
async fn keep(calls: FlightCalls, waiting: Arc<Mutex<VecDeque<FlightEndpoint>>>, mut last: FlightEndpoint) {
    while let Some(expires) = endpoint_expiry_ms(&last) {
        let left = Duration::from_millis(expires.saturating_sub(clock::now_ms()));
        tokio::time::sleep((left / 2).max(MIN_PAUSE)).await;
        match calls.renew(&last).await {
            Ok(renewed) => last = renewed,
            Err(error) if error.code == Code::Unavailable => continue,
            Err(error) => {
                tracing::debug!(%error, "a ticket is not renewed; the version stays readable until it expires");
                return;
            }
        }
        let present: Vec<FlightEndpoint> = waiting.lock().iter().cloned().collect();
        for endpoint in present {
            let Ok(renewed) = calls.renew(&endpoint).await else { continue };
            // Unless it was redeemed meanwhile.
            if let Some(place) = waiting.lock().iter_mut().find(|waiting| waiting.ticket == endpoint.ticket) {
                *place = renewed;
            }
        }
    }
}
