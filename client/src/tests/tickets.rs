//! Tickets that expire before their endpoints are read.

use arrow_flight::{FlightDescriptor, Ticket};
use prost_types::Timestamp;
use volley_common::clock;

use super::*;

const RANGES: [(i64, i64); 2] = [(0, 30), (30, 60)];

/// The FlightInfo of version 3 of a table. Its tickets end with `mark`, and expire in so many seconds.
fn versioned(mark: &str, locations: &[String], expires_in_s: i64) -> FlightInfo {
    let mut info = info(&RANGES, locations, true);
    info.app_metadata = r#"{"table":"t","version":3}"#.into();
    info.flight_descriptor = Some(FlightDescriptor::new_path(vec!["t".into()]));
    let seconds = (clock::now_ms() / 1000) as i64 + expires_in_s;
    for (endpoint, (from, to)) in info.endpoint.iter_mut().zip(RANGES) {
        endpoint.ticket = Some(Ticket::new(format!("{from} {to}{mark}")));
        endpoint.app_metadata = format!("{{\"rows\":{}}}", to - from).into();
        endpoint.expiration_time = Some(Timestamp { seconds, nanos: 0 });
    }
    info
}

/// A member with which the first tickets have expired, and that plans `plan` now.
async fn start(plan: FlightInfo) -> (RunningFake, Client) {
    let expired = RANGES.map(|(from, to)| format!("{from} {to}")).to_vec();
    let member = start_fake(|fake| (fake.expired, fake.plan) = (expired, Some(plan))).await;
    let client = Client::connect(&member.address).await.unwrap();
    (member, client)
}

#[tokio::test]
async fn expired_tickets_are_replaced_by_one_plan_of_their_version() {
    let (member, client) = start(versioned(" 2", &[], 600)).await;
    let first = versioned("", &[member.uri()], 0);
    assert_eq!(values(&client, first, 2).await.unwrap(), (0..60).collect::<Vec<_>>());
    assert_eq!(member.bodies("GetFlightInfo"), [json!({ "table": "t", "version": 3 })]);
}

#[tokio::test]
async fn rows_that_are_taken_as_they_arrive_are_read_by_new_tickets_too() {
    let (member, client) = start(versioned(" 2", &[], 600)).await;
    let first = FlightInfo { ordered: false, ..versioned("", &[member.uri()], 0) };
    let mut found = values(&client, first, 2).await.unwrap();
    found.sort_unstable();
    assert_eq!(found, (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn plan_that_is_cut_differently_does_not_continue() {
    let mut other = versioned(" 2", &[], 600);
    other.endpoint[0].app_metadata = r#"{"rows":29}"#.into();
    let (member, client) = start(other).await;
    let error = values(&client, versioned("", &[member.uri()], 0), 1).await.unwrap_err();
    assert!(error.code == Code::Aborted && error.message.contains("fetch the table again"), "{error}");
}

#[tokio::test]
async fn new_ticket_that_has_expired_too_is_an_error() {
    let (member, client) = start(versioned("", &[], 0)).await;
    let error = values(&client, versioned("", &[member.uri()], 0), 1).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert_eq!(member.bodies("GetFlightInfo").len(), 1, "it is not planned again and again");
}

#[tokio::test]
async fn other_refusals_are_final() {
    let (member, client) = start(versioned(" 2", &[], 600)).await;
    // It cannot have expired yet: the table may have been dropped.
    let error = values(&client, versioned("", &[member.uri()], 600), 1).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    // The rows of a read with a filter are not known.
    let filtered = FlightInfo { total_records: -1, ..versioned("", &[member.uri()], 0) };
    assert_eq!(values(&client, filtered, 1).await.unwrap_err().code, Code::NotFound);
    assert!(member.bodies("GetFlightInfo").is_empty());
}
