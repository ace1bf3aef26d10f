//! Plans and lists of tables that nodes request for queries.

use volley_common::wire::cluster::TableVersion;

use super::*;

fn tables(names: &[&str]) -> PlanTablesRequest {
    let table =
        |name: &&str| TableVersion { table: name.split('/').map(String::from).collect(), ..TableVersion::default() };
    PlanTablesRequest { tables: names.iter().map(table).collect(), filters: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_planned_for_readers_of_all_of_them() {
    let fixture = fixture_with_users().await;
    fixture.users.create_table("other/b").await;
    let mut client = fixture.client_of(Caller::Plaintext);
    let mut plan = async |name: &str, names: &[&str]| {
        client.plan_tables(asserted(&fixture, name, PLAN_TABLES, tables(names))).await.unwrap_err()
    };
    assert_eq!(plan("reader", &["sales/a"]).await.code(), Code::Unavailable, "no node is alive");
    let hidden = plan("reader", &["sales/a", "other/b"]).await;
    let missing = plan("reader", &["sales/a", "other/c"]).await;
    for (status, table) in [(hidden, "b"), (missing, "c")] {
        let expected = missing_table(&["other".into(), table.into()]).message;
        assert_eq!((status.code(), status.message()), (Code::NotFound, expected.as_str()));
    }
    for (name, expected) in [
        ("reader", r#"there is no table "Sales/A": did you mean "sales/a"?"#),
        ("stranger", r#"there is no table "Sales/A""#),
    ] {
        assert_eq!(plan(name, &["Sales/A"]).await.message(), expected);
    }
    assert_eq!(plan("reader", &["sales/a", ""]).await.code(), Code::InvalidArgument);
    assert_eq!(code(client.plan_tables(tables(&["sales/a"])).await), Code::Unauthenticated);
    let of_another_call = asserted(&fixture, "reader", PLAN_READ, tables(&["sales/a"]));
    assert_eq!(code(client.plan_tables(of_another_call).await), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_listed_for_whom_a_node_asserts() {
    let fixture = fixture_with_users().await;
    fixture.users.create_table("other/b").await;
    let mut client = fixture.client_of(Caller::Plaintext);
    let mut list = async |name: &str| {
        let request = asserted(&fixture, name, LIST_TABLES, ListTablesRequest {});
        let listed = client.list_tables(request).await.unwrap().into_inner().tables;
        listed.into_iter().map(|table| table.table.join("/")).collect::<Vec<_>>()
    };
    assert_eq!(list("root").await, ["other/b", "sales/a"]);
    assert_eq!(list("reader").await, ["sales/a"]);
    assert!(list("stranger").await.is_empty());
    assert_eq!(code(client.list_tables(ListTablesRequest {}).await), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_and_lists_of_tables_are_for_nodes() {
    let fixture = PeerServiceFixture::start().await;
    for caller in [coordinator("1"), client(), Caller::Anonymous] {
        let mut client = fixture.client_of(caller.clone());
        let codes =
            [code(client.plan_tables(tables(&["t"])).await), code(client.list_tables(ListTablesRequest {}).await)];
        assert_eq!(codes, [Code::PermissionDenied; 2], "{caller:?}");
    }
    let mut client = fixture.client_of(node("n1"));
    assert!(client.list_tables(ListTablesRequest {}).await.unwrap().into_inner().tables.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_of_a_planned_read_is_bounded() {
    let fixture = fixture_with_users().await;
    let mut client = fixture.client_of(Caller::Plaintext);
    let mut plan = async |filter: String| {
        let message = PlanReadRequest { table: vec!["sales".into(), "a".into()], filter, ..PlanReadRequest::default() };
        code(client.plan_read(asserted(&fixture, "reader", PLAN_READ, message)).await)
    };
    assert_eq!(plan("a > 1".into()).await, Code::Unavailable, "no node is alive");
    assert_eq!(plan("x".repeat(1 << 20)).await, Code::InvalidArgument);
}
