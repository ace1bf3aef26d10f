//! Ids of calls: one for a call, its repetitions and its streams, and named by its error.

use super::*;

#[tokio::test]
async fn repetitions_of_a_call_have_its_id_and_its_error_names_it() {
    let member = start_fake(|fake| fake.busy.store(2, Ordering::SeqCst)).await;
    let client = Client::connect(&member.address).await.unwrap();
    client.action("echo", &Value::Null).await.unwrap();
    let error = client.action("other", &Value::Null).await.unwrap_err();
    let ids = member.logins.request_ids();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert!(ids[0].len() == 16 && ids[..3].iter().all(|id| *id == ids[0]) && ids[3] != ids[0], "{ids:?}");
    assert_eq!(error.request_id.as_deref(), Some(ids[3].as_str()));
    assert!(error.to_string().ends_with(&format!(" (request {})", ids[3])), "{error}");
}

#[tokio::test]
async fn streams_of_a_fetch_share_an_id() {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    values(&client, info(&[(0, 30), (30, 60)], &[], false), 2).await.unwrap();
    let ids = member.logins.request_ids();
    assert!(ids.len() == 2 && ids[0] == ids[1] && ids[0].len() == 16, "{ids:?}");
}

#[tokio::test]
async fn failed_stream_names_its_fetch() {
    let failing = start_fake(|fake| fake.fail_after = Some(0)).await;
    let client = Client::connect(&failing.address).await.unwrap();
    let error = values(&client, info(&[(0, 30)], &[], true), 1).await.unwrap_err();
    let ids = failing.logins.request_ids();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(error.request_id.as_deref(), Some(ids[0].as_str()), "{error}");
}

#[tokio::test]
async fn refused_login_has_its_own_id() {
    let member = start_fake(|_| {}).await;
    member.logins.demand("ana:correct horse", 3600);
    let login = ClientLogin::password("ana", Secret::new("wrong"));
    let client = Client::builder().address(&member.address).login(login).connect().await.unwrap();
    let error = client.action("echo", &Value::Null).await.unwrap_err();
    let ids = member.logins.request_ids();
    assert_eq!(error.request_id.as_deref(), ids.first().map(String::as_str), "{error}");
}
