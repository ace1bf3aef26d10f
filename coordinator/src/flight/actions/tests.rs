//! Actions as callers with different rights run them.
#![allow(clippy::unwrap_used)]

use http::{Extensions, HeaderMap};
use volley_common::Code;
use volley_common::identity::{Access, missing_table};
use volley_common::server::audit::AuditLog;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, Role};
use volley_common::wire::cluster;

use super::*;
use crate::service::testing::ServicesFixture;
use crate::service::tickets::ticket_key;

struct ActionsFixture {
    users: ServicesFixture,
    runner: ActionRunner,
}

impl ActionsFixture {
    fn of(users: ServicesFixture) -> Self {
        let runner = ActionRunner::new(users.services.clone());
        ActionsFixture { users, runner }
    }

    /// With the tables `sales/a` and `other/b`. `reader` may read of `sales` only the column `a`, `writer` may write there.
    async fn closed() -> Self {
        let users = ServicesFixture::closed().await;
        users.grant("user:reader", Role::Reader, "sales", &["a"]).await;
        users.grant("user:writer", Role::Writer, "sales", &[]).await;
        users.create_table("sales/a").await;
        users.create_table("other/b").await;
        Self::of(users)
    }

    async fn run(&self, access: Access, name: &str, body: impl Into<Vec<u8>>) -> Result<Vec<u8>> {
        let action = Action { r#type: name.into(), body: body.into().into() };
        let call = CallContext::new(access, AuditLog::off(), &HeaderMap::new());
        let listener = Err(Error::internal("there is no listener in this test"));
        let reply = self.runner.run(&action, &MetadataMap::new(), listener, &call).await?;
        Ok(reply.results.iter().flat_map(|result| result.body.to_vec()).collect())
    }

    async fn run_as(&self, user: &str, name: &str, body: &str) -> Result<Value> {
        let reply = self.run(self.users.access(user), name, body).await?;
        Ok(serde_json::from_slice(&reply).unwrap())
    }

    async fn refusal(&self, user: &str, name: &str, body: &str) -> Error {
        self.run_as(user, name, body).await.expect_err(name)
    }
}

#[test]
fn actions_have_unique_names_and_descriptions() {
    let mut names: Vec<String> = action_types().into_iter().map(|action| action.r#type).collect();
    let listed = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), listed);
    assert!(action_types().iter().all(|action| !action.description.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_runs_only_the_health_check() {
    let fixture = ActionsFixture::closed().await;
    for action in action_types() {
        let nobody = Access::of(&Extensions::new());
        let result = fixture.run(nobody, &action.r#type, "{}").await;
        match action.r#type.as_str() {
            "healthcheck" => drop(result.unwrap()),
            name => assert_eq!(result.unwrap_err().code, Code::Unauthenticated, "{name}"),
        }
    }
    let unknown = fixture.run(Access::of(&Extensions::new()), "DropEverything", "").await;
    assert_eq!(unknown.unwrap_err().code, Code::Unauthenticated);
    assert_eq!(fixture.refusal("root", "DropEverything", "").await.code, Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_only_what_the_caller_may_read() {
    let fixture = ActionsFixture::closed().await;
    let tables = async |user: &str| {
        let listed = fixture.run_as(user, "list_tables", "").await.unwrap();
        let text = |table: &Value| format!("{} {}", table["table"], table["shard_by"]);
        listed["tables"].as_array().unwrap().iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(tables("root").await, [r#""other/b" ["a","b"]"#, r#""sales/a" ["a","b"]"#]);
    assert_eq!(tables("writer").await, [r#""sales/a" ["a","b"]"#]);
    assert_eq!(tables("reader").await, [r#""sales/a" ["a"]"#], "a hidden column is no key either");
    assert!(tables("eve").await.is_empty());
    let stats = fixture.run_as("reader", "get_stats", r#"{"table": "sales/a"}"#).await.unwrap();
    assert_eq!(stats["shard_by"], json!(["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_table_looks_like_a_missing_one() {
    let fixture = ActionsFixture::closed().await;
    let missing = |name: &str| missing_table(name.parse::<volley_common::TableName>().unwrap().components());
    for (action, key) in [
        ("get_stats", "table"),
        ("explain", "table"),
        ("list_versions", "table"),
        ("drop_table", "table"),
        ("restore_version", "table"),
    ] {
        for table in ["other/b", "other/none"] {
            let error = fixture.refusal("reader", action, &format!(r#"{{"{key}": "{table}"}}"#)).await;
            assert_eq!(error, missing(table), "{action}");
        }
    }
    assert_eq!(fixture.refusal("reader", "drop_table", "sales/a").await.code, Code::PermissionDenied);
    assert_eq!(fixture.refusal("reader", "get_stats", "").await.code, Code::PermissionDenied, "of the cluster");
    fixture.run_as("root", "drop_table", "other/b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_of_a_table_in_another_case_names_the_table() {
    let fixture = ActionsFixture::closed().await;
    let error = fixture.refusal("root", "drop_table", r#"{"table": "Other/B"}"#).await;
    assert!(error.code == Code::NotFound && error.message.ends_with(r#": did you mean "other/b"?"#), "{error}");
    let error = fixture.refusal("reader", "drop_table", r#"{"table": "Sales/A"}"#).await;
    assert!(error.message.ends_with(r#": did you mean "sales/a"?"#), "{error}");
    let kept = fixture.run_as("root", "drop_table", r#"{"table": "Other/B", "if_exists": true}"#).await.unwrap();
    assert_eq!(kept["dropped"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_ended_by_writers_of_its_table_only() {
    let fixture = ActionsFixture::closed().await;
    let begin = BeginWrite {
        id: "w".into(),
        table: vec!["sales".into(), "a".into()],
        staged: true,
        lease_ms: 600_000,
        ..BeginWrite::default()
    };
    fixture.users.apply(Op::BeginWrite(begin)).await;
    let unknown = fixture.refusal("eve", "abort_write", r#"{"write_id": "x"}"#).await;
    for action in ["commit_write", "abort_write"] {
        let hidden = fixture.refusal("eve", action, r#"{"write_id": "w"}"#).await;
        assert_eq!(hidden.message, unknown.message.replace("\"x\"", "\"w\""), "a hidden write does not exist");
        let read_only = fixture.refusal("reader", action, r#"{"write_id": "w"}"#).await;
        assert_eq!(read_only.code, Code::PermissionDenied, "{read_only}");
    }
    fixture.run_as("writer", "abort_write", r#"{"write_id": "w"}"#).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_is_renewed_and_cancelled_by_its_principal() {
    let fixture = ActionsFixture::closed().await;
    let ticket = |user: &str, is_shareable| {
        let (flight, expires_ms, version) = (rand::random(), clock::now_ms() + 60_000, 1);
        let table = vec!["sales".into(), "a".into()];
        let mut ticket = cluster::Ticket { flight, expires_ms, table, table_id: 1, version, ..Default::default() };
        fixture.users.access(user).bind_ticket(&mut ticket, is_shareable);
        let key = ticket_key(&fixture.users.services.raft.view()).unwrap();
        FlightEndpoint { ticket: Some(Ticket { ticket: key.sign(&ticket).into() }), ..Default::default() }
    };
    let run = async |user: &str, endpoint: &FlightEndpoint| {
        let renew = RenewFlightEndpointRequest { endpoint: Some(endpoint.clone()) }.encode_to_vec();
        let info = arrow_flight::FlightInfo { endpoint: vec![endpoint.clone()], ..Default::default() };
        let cancel = CancelFlightInfoRequest { info: Some(info) }.encode_to_vec();
        let access = || fixture.users.access(user);
        [
            fixture.run(access(), "RenewFlightEndpoint", renew).await,
            fixture.run(access(), "CancelFlightInfo", cancel).await,
        ]
        .map(|result| result.map_or_else(|error| error.code, |_| Code::Ok))
    };
    for is_shareable in [false, true] {
        let of_writer = ticket("writer", is_shareable);
        assert_eq!(run("reader", &of_writer).await, [Code::PermissionDenied; 2], "{is_shareable}");
        assert_eq!(run("writer", &of_writer).await, [Code::Ok; 2]);
        let cancelled_by_admin = run("root", &ticket("writer", is_shareable)).await;
        assert_eq!(cancelled_by_admin, [Code::PermissionDenied, Code::Ok], "{is_shareable}");
    }
}
