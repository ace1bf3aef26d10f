//! Members that refuse calls for the moment.

use super::*;

/// A member that refuses so many calls at first, and a client of it.
async fn start(refused: usize) -> (RunningFake, Client) {
    let plan = info(&[(0, 30)], &[], true);
    let member = start_fake(|fake| {
        fake.busy.store(refused, Ordering::SeqCst);
        fake.plan = Some(plan);
    })
    .await;
    let client = Client::connect(&member.address).await.unwrap();
    (member, client)
}

#[tokio::test]
async fn refused_calls_are_repeated_when_they_may_be() {
    let (member, client) = start(3).await;
    assert_eq!(client.action("echo", &json!({ "a": 1 })).await.unwrap(), json!({ "a": 1 }));
    assert_eq!(member.bodies("echo").len(), 1);

    let (_member, client) = start(2).await;
    assert_eq!(client.info(&table(), &Options::default()).await.unwrap().endpoint.len(), 1);

    let (mut member, client) = start(2).await;
    let batches = stream::iter([Ok(numbers(0..10))]);
    assert_eq!(client.put(&table(), &Options::default(), schema(), batches).await.unwrap().rows, 10);
    let Some(ReceivedPut::Complete(_, batches)) = member.puts.recv().await else { panic!("the put broke") };
    assert_eq!(batches, [numbers(0..10)]);
}

#[tokio::test]
async fn refused_gets_are_repeated_also_of_queries() {
    for location in [None, Some(REUSE.to_string())] {
        let (member, client) = start(3).await;
        let plan = info(&[(0, 30)], location.as_slice(), true);
        assert_eq!(values(&client, plan, 1).await.unwrap(), (0..30).collect::<Vec<_>>());
        assert_eq!(member.gets.load(Ordering::SeqCst), 4);
    }
}

#[tokio::test]
async fn refusals_end_in_the_error_of_the_member() {
    let (member, client) = start(usize::MAX).await;
    let error = client.action("echo", &Value::Null).await.unwrap_err();
    assert_eq!((error.code, error.retry_after_ms), (Code::ResourceExhausted, Some(1)), "{error}");
    let error = values(&client, info(&[(0, 30)], &[], true), 1).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert_eq!(member.gets.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn login_waits_for_a_busy_member_once() {
    let login = || ClientLogin::password("ana", Secret::new("correct horse"));
    let connect =
        async |member: &RunningFake| Client::builder().address(&member.address).login(login()).connect().await;
    let (member, _) = start(3).await;
    member.logins.demand("ana:correct horse", 3600);
    let client = connect(&member).await.unwrap();
    assert_eq!(client.action("echo", &json!({ "a": 1 })).await.unwrap(), json!({ "a": 1 }));
    assert_eq!(member.logins.handshakes(), 1);

    let (member, _) = start(usize::MAX).await;
    member.logins.demand("ana:correct horse", 3600);
    let client = connect(&member).await.unwrap();
    let error = client.action("echo", &Value::Null).await.unwrap_err();
    assert_eq!((error.code, error.retry_after_ms), (Code::ResourceExhausted, None), "{error}");
}
