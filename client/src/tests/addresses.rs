//! Clients with several addresses.

use std::time::Duration;

use super::*;

/// A member that plans a table of one endpoint without rows.
async fn start_planner() -> RunningFake {
    start_fake(|fake| fake.plan = Some(info(&[(0, 0)], &[], true))).await
}

#[tokio::test]
async fn first_address_that_accepts_is_used() {
    let member = start_fake(|_| {}).await;
    let addresses = format!("{},{}", dead_address().await, member.address);
    let client = Client::connect(&addresses).await.unwrap();
    assert_eq!(client.address(), member.address);
    assert_eq!(client.action("echo", &json!({ "a": 1 })).await.unwrap(), json!({ "a": 1 }));
    assert_eq!(member.bodies("echo"), [json!({ "a": 1 })]);
}

#[tokio::test]
async fn error_of_several_dead_addresses_names_all() {
    let (one, other) = (dead_address().await, dead_address().await);
    let error = Client::builder().address(&one).address(&other).connect().await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    for address in [one, other] {
        assert!(error.message.contains(address.trim_start_matches("grpc+tcp://")), "{error}");
    }
}

#[tokio::test]
async fn hung_member_is_overtaken_by_the_next_address() {
    let (hung, member) = (start_stranger(b"").await, start_planner().await);
    let client = Client::builder().addresses([&hung, &member.address]).connect().await.unwrap();
    assert_eq!(client.address(), hung, "it accepts connections");
    let (name, options, body) = (table(), Options::default(), json!(1));
    // The plan is hedged; calls with effects go to a member that answers a probe.
    let calls = async { tokio::join!(client.info(&name, &options), client.action("echo", &body), put(&client)) };
    let (plan, echo, rows) = tokio::time::timeout(Duration::from_secs(9), calls).await.unwrap();
    assert_eq!(plan.unwrap().endpoint.len(), 1);
    assert_eq!((echo.unwrap(), rows.unwrap()), (body, 10));
    assert_eq!(member.bodies("echo").len(), 1, "an action is sent once");
}

async fn put(client: &Client) -> Result<u64> {
    let batches = stream::iter([Ok(numbers(0..10))]);
    Ok(client.put(&table(), &Options::default(), schema(), batches).await?.rows)
}

#[tokio::test]
async fn ticket_is_redeemed_at_another_address() {
    let (broken, member) = (start_fake(|fake| fake.fail_after = Some(0)).await, start_fake(|_| {}).await);
    let client = Client::builder().addresses([&broken.address, &member.address]).connect().await.unwrap();
    assert_eq!(client.address(), broken.address);
    assert_eq!(values(&client, info(&[(0, 30)], &[], true), 1).await.unwrap(), (0..30).collect::<Vec<_>>());
    assert_eq!(broken.gets.load(Ordering::SeqCst), 1);
}
