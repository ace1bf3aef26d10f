//! Transactions of principals with different rights, at a coordinator alone.
#![allow(clippy::unwrap_used)]

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use volley_common::ipc::schema::schema_message;
use volley_common::wire::catalog::{Part, RemoveGrant};
use volley_common::wire::cluster::StagePartsRequest;
use volley_common::{PartId, clock};

use super::*;
use crate::service::testing::ServicesFixture;

use WriteMode::{Append, Create, Replace};

/// With two nodes, and the users `ann` and `eve`, who may write below `sales`.
async fn fixture() -> ServicesFixture {
    let fixture = ServicesFixture::closed().await;
    fixture.register_nodes(2).await;
    for user in ["ann", "eve"] {
        fixture.grant(&format!("user:{user}"), Role::Writer, "sales", &[]).await;
    }
    fixture
}

fn new_id() -> String {
    TransactionId::new(clock::now_ms()).to_string()
}

fn schema(column: &str) -> Bytes {
    schema_message(&Schema::new(vec![Field::new(column, DataType::Int64, true)])).unwrap()
}

fn request(transaction: &str, table: &str, mode: WriteMode) -> BeginWriteRequest {
    BeginWriteRequest {
        table: vec!["sales".into(), table.into()],
        mode: mode as i32,
        schema: schema("a"),
        writer: 1,
        writer_boot: 11,
        attempt: rand::random(),
        transaction: transaction.into(),
        ..BeginWriteRequest::default()
    }
}

/// A put of 10 rows by `ann`.
async fn put(fixture: &ServicesFixture, request: BeginWriteRequest) -> Result<()> {
    let service = &fixture.services.write;
    let only_first = !request.create_append && request.mode != Append as i32;
    let plan = service.begin_in_transaction(&fixture.access("ann"), request).await?;
    let write = plan.write.unwrap();
    let part = Part { id: Some(PartId::random().into()), rows: 10, bytes: 100, holders: vec![1, 2], ..Part::default() };
    let (parts, schema, attempt) = (vec![part], write.schema, write.attempt);
    let stream = rand::random();
    let request = StagePartsRequest { write: write.id, stream, parts, schema, attempt, only_first, begun: attempt };
    service.stage_parts(request).await
}

async fn end(fixture: &ServicesFixture, user: &str, id: &str, commit: bool) -> Result<()> {
    fixture.services.write.end_transaction(&fixture.access(user), id, commit).await.1
}

/// Version and rows of a table below `sales`; `None`: there is none.
fn table(fixture: &ServicesFixture, name: &str) -> Option<(u64, u64)> {
    let name = format!("sales/{name}").parse().unwrap();
    fixture.services.raft.view().table_named(&name).map(|table| (table.version, table.rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_into_several_tables_become_visible_with_the_commit() {
    let fixture = fixture().await;
    let id = new_id();
    put(&fixture, request(&id, "a", Create)).await.unwrap();
    put(&fixture, request(&id, "b", Replace)).await.unwrap();
    put(&fixture, request(&id, "a", Append)).await.unwrap();
    assert_eq!((table(&fixture, "a"), table(&fixture, "b")), (None, None));
    let (tables, ended) = fixture.services.write.end_transaction(&fixture.access("ann"), &id, true).await;
    ended.unwrap();
    assert_eq!(tables, [["sales", "a"], ["sales", "b"]]);
    assert_eq!((table(&fixture, "a"), table(&fixture, "b")), (Some((1, 20)), Some((1, 10))));
    end(&fixture, "ann", &id, true).await.expect("the reply may have been lost");
    assert_eq!(end(&fixture, "ann", &id, false).await.unwrap_err().code, Code::FailedPrecondition);
    assert_eq!(put(&fixture, request(&id, "a", Append)).await.unwrap_err().code, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_puts_append_or_are_refused() {
    let fixture = fixture().await;
    let create_append = |id: &str, table: &str| BeginWriteRequest { create_append: true, ..request(id, table, Create) };
    let id = new_id();
    assert_eq!(put(&fixture, request(&id, "t", Append)).await.unwrap_err().code, Code::NotFound);
    put(&fixture, create_append(&id, "t")).await.unwrap();
    put(&fixture, create_append(&id, "t")).await.unwrap();
    put(&fixture, request(&id, "t", Append)).await.unwrap();
    assert_eq!(put(&fixture, request(&id, "t", Create)).await.unwrap_err().code, Code::AlreadyExists);
    assert_eq!(put(&fixture, request(&id, "t", Replace)).await.unwrap_err().code, Code::AlreadyExists);
    let other = BeginWriteRequest { schema: schema("b"), ..request(&id, "t", Append) };
    assert_eq!(put(&fixture, other).await.unwrap_err().code, Code::InvalidArgument);
    let sharded = BeginWriteRequest { shards: Some(7), ..request(&id, "t", Append) };
    assert!(put(&fixture, sharded).await.unwrap_err().message.contains("shards"));
    end(&fixture, "ann", &id, true).await.unwrap();
    assert_eq!(table(&fixture, "t"), Some((1, 30)));

    let id = new_id();
    put(&fixture, request(&id, "t", Replace)).await.unwrap();
    put(&fixture, request(&id, "t", Append)).await.unwrap();
    let error = put(&fixture, request(&id, "t", Replace)).await.unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("would lose"), "{error}");
    end(&fixture, "ann", &id, true).await.unwrap();
    assert_eq!(table(&fixture, "t"), Some((2, 20)));

    let id = new_id();
    put(&fixture, create_append(&id, "t")).await.unwrap();
    end(&fixture, "ann", &id, true).await.unwrap();
    assert_eq!(table(&fixture, "t"), Some((3, 30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_begin_at_once_join_one_write() {
    let fixture = fixture().await;
    let id = new_id();
    let puts = (0..8).map(|_| put(&fixture, BeginWriteRequest { create_append: true, ..request(&id, "t", Create) }));
    for result in futures::future::join_all(puts).await {
        result.unwrap();
    }
    end(&fixture, "ann", &id, true).await.unwrap();
    assert_eq!(table(&fixture, "t"), Some((1, 80)));
}

#[tokio::test(flavor = "multi_thread")]
async fn put_that_failed_decides_nothing() {
    let fixture = fixture().await;
    let id = new_id();
    let begin = async |request: BeginWriteRequest| {
        fixture.services.write.begin_in_transaction(&fixture.access("ann"), request).await.unwrap().write.unwrap()
    };
    put(&fixture, request(&id, "other", Create)).await.unwrap();
    let failed = begin(request(&id, "t", Create)).await;
    let same = begin(request(&id, "t", Create)).await;
    assert_eq!(same.attempt, failed.attempt, "two puts that do the same may run at once");
    let wider = begin(BeginWriteRequest { schema: schema("b"), ..request(&id, "t", Create) }).await;
    assert!(wider.attempt != failed.attempt && wider.schema == schema("b"));
    put(&fixture, BeginWriteRequest { schema: schema("c"), ..request(&id, "t", Create) }).await.unwrap();
    end(&fixture, "ann", &id, true).await.unwrap();
    let view = fixture.services.raft.view();
    assert_eq!(view.table_named(&"sales/t".parse().unwrap()).unwrap().schema, schema("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_is_for_its_principal_only() {
    let fixture = fixture().await;
    let id = new_id();
    put(&fixture, request(&id, "a", Create)).await.unwrap();
    let eve = fixture.access("eve");
    let joined = fixture.services.write.begin_in_transaction(&eve, request(&id, "b", Create)).await;
    assert_eq!(joined.unwrap_err().code, Code::NotFound);
    for commit in [true, false] {
        let (tables, ended) = fixture.services.write.end_transaction(&eve, &id, commit).await;
        assert_eq!((tables, ended.unwrap_err().code), (vec![], Code::NotFound));
    }
    end(&fixture, "ann", &id, true).await.unwrap();
    assert_eq!(table(&fixture, "a"), Some((1, 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_needs_the_rights_of_its_moment() {
    let fixture = fixture().await;
    let id = new_id();
    put(&fixture, request(&id, "a", Create)).await.unwrap();
    let (to, role, prefix) = ("user:ann".into(), Role::Writer as i32, vec!["sales".into()]);
    fixture.apply(Op::RemoveGrant(RemoveGrant { to, role, prefix })).await;
    assert_eq!(end(&fixture, "ann", &id, true).await.unwrap_err().code, Code::PermissionDenied);
    fixture.grant("user:ann", Role::Writer, "sales", &[]).await;
    let error = end(&fixture, "ann", &id, true).await.unwrap_err();
    assert!(error.code == Code::Aborted && error.message.contains("was rolled back"), "{error}");
    end(&fixture, "ann", &id, false).await.unwrap();
    assert_eq!(table(&fixture, "a"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflict_is_the_error_of_every_commit() {
    let fixture = fixture().await;
    let (first, second) = (new_id(), new_id());
    for id in [&first, &second] {
        put(&fixture, request(id, "taken", Create)).await.unwrap();
        put(&fixture, request(id, "other", Replace)).await.unwrap();
    }
    end(&fixture, "ann", &first, true).await.unwrap();
    for _ in 0..2 {
        let error = end(&fixture, "ann", &second, true).await.unwrap_err();
        assert!(error.code == Code::AlreadyExists && error.message.contains("was rolled back"), "{error}");
    }
    assert_eq!(table(&fixture, "other"), Some((1, 10)), "only the first one's");
    let error = put(&fixture, request(&second, "other", Append)).await.unwrap_err();
    assert!(error.code == Code::Aborted && error.message.contains("roll back"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_wrote_nothing_ends_without_a_trace() {
    let fixture = fixture().await;
    for commit in [true, false] {
        end(&fixture, "ann", &new_id(), commit).await.unwrap();
        assert_eq!(end(&fixture, "ann", "w", commit).await.unwrap_err().code, Code::InvalidArgument);
    }
    assert!(!fixture.services.raft.view().has_had_transactions());
}
