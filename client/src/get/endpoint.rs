//! An endpoint that can be read: its ticket and its locations.

use std::collections::HashMap;

use arrow_flight::FlightEndpoint;
use volley_common::{Error, Result};

use super::tickets::ExpiringTicket;
use crate::Client;
use crate::address::{EndpointLocation, parse_location};
use crate::local_reads::OfferedSocket;
use crate::nearness::NearRank;

/// An endpoint that can be read.
pub(super) struct FetchEndpoint {
    /// Its index in the FlightInfo.
    pub index: usize,
    /// What is redeemed.
    pub ticket: ExpiringTicket,
    /// Where, the best one first.
    pub locations: Vec<EndpointLocation>,
    /// Where the files of its parts are offered on this machine: tried before all locations.
    pub local: Vec<OfferedSocket>,
    /// Whether a stream that broke after some rows is continued. That of a query, which has no location, is not: a query that
    /// runs again may give its rows in another order.
    pub resumes: bool,
}

impl FetchEndpoint {
    /// Adds to `skipped` the locations that are left out, as [`locations`]. `offered`: the sockets of nodes on this machine.
    pub(super) fn new(
        index: usize,
        endpoint: &FlightEndpoint,
        client: &Client,
        offered: &HashMap<String, OfferedSocket>,
        skipped: &mut usize,
    ) -> Result<Self> {
        let ticket = ExpiringTicket::of(endpoint, index, 0)?;
        let (permits, rank) = (
            |location: &EndpointLocation| client.permits(location),
            |location: &EndpointLocation| client.nearness.rank(location),
        );
        let mut locations = locations(endpoint, index, permits, rank, skipped)?;
        locations.extend(client.other_locations());
        let local = endpoint.location.iter().filter_map(|location| offered.get(&location.uri)).cloned().collect();
        Ok(FetchEndpoint { index, ticket, locations, local, resumes: !endpoint.location.is_empty() })
    }
}

/// The locations of an endpoint that this client supports, the nearest first, and the original connection as the last one: every
/// member redeems every ticket, and a client that cannot dial the nodes still reaches the member that it called. Locations that the
/// client does not permit are left out, and added to `skipped`.
///
/// # Errors
/// UNAVAILABLE: there are locations, but none has a scheme that this client supports.
fn locations(
    endpoint: &FlightEndpoint,
    index: usize,
    permits: impl Fn(&EndpointLocation) -> bool,
    rank: impl Fn(&EndpointLocation) -> NearRank,
    skipped: &mut usize,
) -> Result<Vec<EndpointLocation>> {
    if endpoint.location.is_empty() {
        return Ok(vec![EndpointLocation::ReuseConnection]);
    }
    let mut locations: Vec<_> = endpoint.location.iter().filter_map(|l| parse_location(&l.uri)).collect();
    if locations.is_empty() {
        let uris: Vec<&str> = endpoint.location.iter().map(|l| l.uri.as_str()).collect();
        return Err(Error::unavailable(format!(
            "endpoint {index} has no location that this client supports (only grpc+tcp and grpc+tls), of {}",
            uris.join(", ")
        )));
    }
    let known = locations.len();
    locations.retain(permits);
    *skipped += known - locations.len();
    // The member rotates them, so that clients spread over the holders: that order is kept otherwise.
    locations.sort_by_cached_key(rank);
    if !locations.contains(&EndpointLocation::ReuseConnection) {
        locations.push(EndpointLocation::ReuseConnection);
    }
    Ok(locations)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::Location;
    use volley_common::Code;

    use super::*;
    use crate::nearness::Nearness;

    fn endpoint(uris: &[&str]) -> FlightEndpoint {
        let location = uris.iter().map(|uri| Location { uri: uri.to_string() }).collect();
        FlightEndpoint { location, ..FlightEndpoint::default() }
    }

    #[test]
    fn client_with_tls_keeps_its_connection_for_plaintext_locations() {
        use EndpointLocation::{Member, ReuseConnection, TlsMember};
        let (plain, tls) = ("grpc+tcp://n:1", "grpc+tls://n:2");
        for (uris, is_tls, expected, expected_skipped) in [
            (&[plain][..], true, vec![ReuseConnection], 1),
            (&[plain, tls][..], true, vec![TlsMember("n:2".into()), ReuseConnection], 1),
            (&[plain, tls][..], false, vec![Member("n:1".into()), TlsMember("n:2".into()), ReuseConnection], 0),
            (&[][..], true, vec![ReuseConnection], 0),
        ] {
            let mut skipped = 0;
            let permits = |location: &EndpointLocation| !is_tls || !matches!(location, Member(_));
            let found = locations(&endpoint(uris), 0, permits, |_| NearRank::Elsewhere, &mut skipped).unwrap();
            assert_eq!((found, skipped), (expected, expected_skipped), "{uris:?} {is_tls}");
        }
        let (uri, elsewhere) = (endpoint(&["grpc+unix:///tmp/s"]), |_: &EndpointLocation| NearRank::Elsewhere);
        let error = locations(&uri, 3, |_| true, elsewhere, &mut 0).unwrap_err();
        assert!(error.code == Code::Unavailable && error.message.contains("endpoint 3"), "{error}");
    }

    #[test]
    fn nearest_holders_come_first() {
        use EndpointLocation::{Member, ReuseConnection};
        let uris = ["grpc+tcp://b:1", "grpc+tcp://n.zone:1", "grpc+tcp://127.0.0.1:2", "grpc+tcp://a:1"];
        let nearness = Nearness::new(&[".zone".to_string()]).unwrap();
        let found = locations(&endpoint(&uris), 0, |_| true, |location| nearness.rank(location), &mut 0).unwrap();
        let expected = ["127.0.0.1:2", "n.zone:1", "b:1", "a:1"].map(|addr| Member(addr.into()));
        assert_eq!(found, expected.into_iter().chain([ReuseConnection]).collect::<Vec<_>>());
    }
}
