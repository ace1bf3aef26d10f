//! Writes whose ids were used before.
#![allow(clippy::unwrap_used)]

use volley_common::ipc::schema::schema_message;
use volley_common::wire::catalog::{RegisterNode, Replaced, Row, Write, row};
use volley_common::{Code, PartId};

use super::*;
use crate::service::testing::ServicesFixture;

fn schema(columns: &[&str]) -> Bytes {
    use arrow::datatypes::{DataType, Field, Schema};
    let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    schema_message(&Schema::new(fields)).unwrap()
}

/// Version 1 created the table, version 2 appended to it, version 3 replaced its rows.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let replaced = vec![Replaced { version: 3, until_ms: u64::MAX, ..Replaced::default() }];
    let (name, schema) = (vec!["t".into()], schema(&["a"]));
    let table = Table { id: 1, name, schema, version: 3, oldest: 1, created_ms: 50, replaced, ..Table::default() };
    catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    catalog
}

fn check(version: u64, mode: WriteMode, columns: &[&str], ended_ms: u64) -> Result<()> {
    let outcome = Some(WriteOutcome { version, ..WriteOutcome::default() });
    let known = Write { id: "w".into(), outcome, ended_ms, ..Write::default() };
    let request = BeginWriteRequest { mode: mode.into(), schema: schema(columns), ..BeginWriteRequest::default() };
    check_repeated(&catalog(), &"t".parse().unwrap(), &known, &request)
}

#[test]
fn other_write_with_a_committed_id_is_refused() {
    check(1, WriteMode::Create, &["a"], 99).unwrap();
    check(1, WriteMode::Replace, &["a"], 99).unwrap();
    check(2, WriteMode::Append, &["a"], 99).unwrap();
    check(3, WriteMode::Replace, &["a"], 99).unwrap();
    for (version, mode, columns, word) in [
        (1, WriteMode::Append, &["a"][..], "no append"),
        (3, WriteMode::Append, &["a"], "no append"),
        (2, WriteMode::Create, &["a"], "created no table"),
        (3, WriteMode::Replace, &["a", "b", "c"], "another schema"),
    ] {
        let error = check(version, mode, columns, 99).unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains(word) && error.message.contains("\"w\""), "{error}");
    }
    check(3, WriteMode::Append, &["b"], 9).expect("of a table that was dropped before this one was created");
}

#[test]
fn write_that_creates_or_appends_may_be_either() {
    let request = BeginWriteRequest {
        mode: WriteMode::Create.into(),
        create_append: true,
        schema: schema(&["a"]),
        ..BeginWriteRequest::default()
    };
    for version in [1, 2] {
        let outcome = Some(WriteOutcome { version, ..WriteOutcome::default() });
        let known = Write { id: "w".into(), outcome, ended_ms: 99, ..Write::default() };
        check_repeated(&catalog(), &"t".parse().unwrap(), &known, &request).unwrap();
    }
    let catalog = catalog();
    let table = catalog.table_named(&"t".parse().unwrap());
    assert_eq!((mode_of(&request, table), mode_of(&request, None)), (WriteMode::Append, WriteMode::Create));
}

/// With two nodes, and the users `ann`, who may write below `sales`, and `eve`, who may below `other`.
async fn services() -> ServicesFixture {
    let fixture = ServicesFixture::closed().await;
    for id in [1, 2] {
        let (flight_uri, peer_addr) = (format!("grpc+tcp://n{id}:1"), format!("n{id}:2"));
        let node = Node { id, boot: 10 + id, flight_uri, peer_addr, ..Node::default() };
        fixture.apply(Op::RegisterNode(RegisterNode { node: Some(node) })).await;
    }
    fixture.grant("user:ann", Role::Writer, "sales", &[]).await;
    fixture.grant("user:eve", Role::Writer, "other", &[]).await;
    fixture
}

/// A request for the write `w`.
fn request(table: &str, attempt: u64) -> BeginWriteRequest {
    let table = table.split('/').map(String::from).collect();
    BeginWriteRequest { table, write_id: "w".into(), attempt, ..BeginWriteRequest::default() }
}

/// What the action `begin_write` requests.
fn of_action(attempt: u64) -> BeginWriteRequest {
    BeginWriteRequest { staged: true, ..request("sales/t", attempt) }
}

/// What a node requests for a put.
fn of_put(table: &str) -> BeginWriteRequest {
    BeginWriteRequest { schema: schema(&["a"]), writer: 1, writer_boot: 11, ..request(table, 99) }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_with_the_id_of_an_aborted_staged_write_is_refused() {
    let fixture = services().await;
    let (ann, eve, service) = (fixture.access("ann"), fixture.access("eve"), &fixture.services.write);
    let begin = async |access: &Access, request: BeginWriteRequest| {
        service.begin_write(access, request).await.map(|plan| plan.write.unwrap())
    };
    assert!(begin(&ann, of_action(7)).await.unwrap().fenced, "the only coordinator knows what it says");
    let joined = begin(&ann, of_put("sales/t")).await.unwrap();
    assert_eq!((joined.staged, joined.attempt), (true, 7));
    service.abort_write("w".into(), "a test".into(), 0).await.unwrap();
    for _ in 0..2 {
        let error = begin(&ann, of_put("sales/t")).await.unwrap_err();
        assert!(error.code == Code::Aborted && error.message.contains("a test"), "{error}");
    }
    let error = begin(&eve, of_put("other/t")).await.unwrap_err();
    let tells = error.message.contains("sales") || error.message.contains("a test");
    assert!(error.code == Code::InvalidArgument && !tells, "{error}");
    let again = begin(&ann, of_action(8)).await.unwrap();
    assert_eq!((again.state(), again.attempt), (WriteState::Open, 8));
    assert_eq!(begin(&ann, of_put("sales/t")).await.unwrap().attempt, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_rows_go_only_into_a_table_that_expires() {
    let fixture = services().await;
    fixture.create_table("sales/lasting").await;
    let begin = async |table: &str, mode: WriteMode, id: &str| {
        let (mode, write_id) = (mode.into(), id.into());
        let request = BeginWriteRequest { mode, write_id, temporary_ttl_ms: 5_000, ..of_put(table) };
        fixture.services.write.begin_write(&fixture.access("ann"), request).await
    };
    let plan = begin("sales/t", WriteMode::Create, "w1").await.unwrap();
    assert_eq!(plan.write.unwrap().spec.unwrap().ttl_ms, 5_000);
    for (mode, code) in [
        (WriteMode::Create, Code::AlreadyExists),
        (WriteMode::Append, Code::FailedPrecondition),
        (WriteMode::Replace, Code::FailedPrecondition),
    ] {
        let error = begin("sales/lasting", mode, "w2").await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_whose_table_was_created_meanwhile_is_begun_again() {
    let fixture = services().await;
    let (ann, service) = (fixture.access("ann"), &fixture.services.write);
    let begin = async |id: &str, attempt: u64| {
        let (write_id, mode) = (id.into(), WriteMode::Create.into());
        let request = BeginWriteRequest { write_id, attempt, mode, create_append: true, ..of_put("sales/t") };
        service.begin_write(&ann, request).await.unwrap().write.unwrap()
    };
    let part =
        |id: u128| Part { id: Some(PartId(id).into()), rows: 10, bytes: 100, holders: vec![1, 2], ..Part::default() };
    let commit = async |id: &str, attempt: u64, part: Part| {
        let request = CommitWriteRequest { write: id.into(), parts: vec![part], attempt };
        service.commit_write(request).await
    };
    let (one, two) = (begin("one", 5).await, begin("two", 6).await);
    assert_eq!([one.mode(), two.mode()], [WriteMode::Create; 2]);
    commit("one", 5, part(1)).await.unwrap();
    assert_eq!(commit("two", 6, part(2)).await.unwrap_err().code, Code::AlreadyExists);
    let again = begin("two", 7).await;
    assert_eq!((again.mode(), &again.spec, &again.schema), (WriteMode::Append, &two.spec, &two.schema));
    assert_eq!(commit("two", 6, part(2)).await.unwrap_err().code, Code::Aborted, "by its first plan");
    let outcome = commit("two", 7, part(2)).await.unwrap();
    assert_eq!((outcome.version, outcome.rows), (2, 10));
    assert_eq!(commit("two", 7, part(2)).await.unwrap(), outcome);
}

/// Some tables appear between the plan of a write and its begin.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_create_or_append_all_begin() {
    let fixture = services().await;
    let (ann, service) = (fixture.access("ann"), &fixture.services.write);
    let begin = async |table: &str, write_id: &str, attempt: u64| {
        let (write_id, mode) = (write_id.into(), WriteMode::Create.into());
        let request = BeginWriteRequest { write_id, attempt, mode, create_append: true, ..of_put(table) };
        service.begin_write(&ann, request).await.unwrap();
    };
    let commit = async |write: &str, attempt: u64| {
        service.commit_write(CommitWriteRequest { write: write.into(), parts: Vec::new(), attempt }).await
    };
    for round in 0..20 {
        let table = &format!("sales/t{round}");
        let puts = (0..8).map(async |put| {
            let write = format!("w{round}-{put}");
            begin(table, &write, 1).await;
            match commit(&write, 1).await {
                Err(error) if error.code == Code::AlreadyExists => {
                    begin(table, &write, 2).await;
                    commit(&write, 2).await.unwrap()
                }
                committed => committed.unwrap(),
            }
        });
        let mut versions: Vec<u64> = futures::future::join_all(puts).await.iter().map(|put| put.version).collect();
        versions.sort_unstable();
        assert_eq!(versions, (1..=8).collect::<Vec<_>>(), "{table}");
    }
}

#[test]
fn parts_of_a_stream_have_the_order_in_which_they_were_written() {
    let mut parts = [2, 0, 1].map(|seq| Part { seq, ..Part::default() });
    in_order(&mut parts);
    assert_eq!(parts.map(|part| part.seq), [0, 1, 2]);
}
