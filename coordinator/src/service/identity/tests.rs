//! Who may change which users, tokens and grants, and who sees them.
#![allow(clippy::unwrap_used)]

use arrow::datatypes::{DataType, Field, Schema};
use volley_common::Code;
use volley_common::ipc::schema::schema_message;
use volley_common::wire::catalog::{CreateTable, TableSpec};

use super::*;
use crate::service::testing::ServicesFixture;

fn code<T>(result: Result<T>) -> Code {
    result.map_or_else(|error| error.code, |_| Code::Ok)
}

fn request(role: Role, prefix: &[&str], to: &str) -> GrantRequest {
    let prefix = prefix.iter().map(|part| part.to_string()).collect();
    GrantRequest { role, prefix, to: to.into(), columns: Vec::new() }
}

fn change(user: &str, password: &str, old_password: Option<&str>) -> PasswordChange {
    let (password, old_password) = (Secret::new(password), old_password.map(Secret::new));
    PasswordChange { user: user.into(), password, old_password, revoke_tokens: None }
}

/// With the users `ann` and `bob`.
async fn fixture() -> ServicesFixture {
    let fixture = ServicesFixture::closed().await;
    for name in ["ann", "bob"] {
        let password = Some(Secret::new(format!("password of {name}")));
        fixture.services.identity.create_user(name, password, vec!["staff".into()]).await.unwrap();
    }
    fixture.follow_catalog();
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_without_administrator_gets_no_other_user() {
    let fixture = ServicesFixture::open().await;
    let service = &fixture.services.identity;
    assert_eq!(code(service.create_user("ann", None, Vec::new()).await), Code::FailedPrecondition);
    let open = Access::open();
    assert_eq!(code(service.grant(&open, request(Role::Reader, &[], "user:ann")).await), Code::FailedPrecondition);
    assert_eq!(code(service.create_token(&open, None, "", 60).await), Code::InvalidArgument, "nobody's");
    let whoami = service.whoami(&open);
    assert_eq!((&whoami["principal"], &whoami["open"]), (&Value::Null, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_set_by_its_user_or_an_administrator() {
    let fixture = fixture().await;
    let service = &fixture.services.identity;
    let ann = fixture.access("ann");
    let set = |access: Access, user: &'static str, old: Option<&'static str>| async move {
        code(service.set_password(&access, change(user, "long enough", old)).await)
    };
    assert_eq!(
        set(ann.clone(), "ann", None).await,
        Code::InvalidArgument,
        "a stolen session must not become the account"
    );
    assert_eq!(set(ann.clone(), "ann", Some("a guess")).await, Code::PermissionDenied);
    assert_eq!(set(ann.clone(), "ann", Some("password of ann")).await, Code::Ok);
    assert_eq!(set(ann.clone(), "bob", Some("password of bob")).await, Code::PermissionDenied);
    assert_eq!(set(ann.clone(), "nobody", None).await, Code::PermissionDenied, "as if it existed");
    assert_eq!(set(fixture.access("root"), "bob", None).await, Code::Ok);
    assert_eq!(set(fixture.access("root"), "nobody", None).await, Code::NotFound);
    let by_token = fixture.access_by("ann", LoginMethod::ServiceToken, "0123456789abcdef");
    assert_eq!(set(by_token, "ann", Some("long enough")).await, Code::PermissionDenied, "nor must a stolen token");
    let short = service.set_password(&ann, change("ann", "short", Some("long enough"))).await;
    assert_eq!(code(short), Code::InvalidArgument);
    // Guesses of the old password are slowed down.
    for _ in 0..3 {
        assert_eq!(set(ann.clone(), "ann", Some("a guess")).await, Code::PermissionDenied);
    }
    assert_eq!(set(ann, "ann", Some("long enough")).await, Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_revoked_with_ones_own_password() {
    let fixture = fixture().await;
    let (service, root, ann) = (&fixture.services.identity, fixture.access("root"), fixture.access("ann"));
    service.create_token(&ann, None, "", 60).await.unwrap();
    let kept = service.set_password(&root, change("ann", "another password", None)).await.unwrap();
    assert_eq!(kept["revoked_tokens"], 0, "an administrator says so");
    let revoked = service.set_password(&ann, change("ann", "one more password", Some("another password"))).await;
    assert_eq!(revoked.unwrap()["revoked_tokens"], 1);
    assert_eq!(service.list_tokens(&ann, None).await.unwrap(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_those_of_their_user() {
    let fixture = fixture().await;
    let service = &fixture.services.identity;
    let (root, ann, bob) = (fixture.access("root"), fixture.access("ann"), fixture.access("bob"));
    let token = service.create_token(&ann, None, "nightly", 60).await.unwrap();
    assert_eq!(code(service.create_token(&ann, Some("bob"), "", 60).await), Code::PermissionDenied);
    service.create_token(&root, Some("bob"), "", 60).await.unwrap();
    for ttl_s in [0, MAX_TOKEN_S + 1, u64::MAX] {
        assert_eq!(code(service.create_token(&ann, None, "", ttl_s).await), Code::InvalidArgument, "{ttl_s}");
    }
    let users = |listed: Value| {
        listed.as_array().unwrap().iter().map(|token| token["user"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(users(service.list_tokens(&ann, None).await.unwrap()), ["ann"]);
    assert_eq!(users(service.list_tokens(&root, None).await.unwrap()).len(), 2);
    assert_eq!(users(service.list_tokens(&root, Some("bob")).await.unwrap()), ["bob"]);
    assert_eq!(code(service.list_tokens(&ann, Some("bob")).await), Code::PermissionDenied);
    let listed = service.list_tokens(&root, None).await.unwrap().to_string();
    assert!(!listed.contains(token["token"].as_str().unwrap()));
    let id = token["id"].as_str().unwrap();
    assert_eq!(code(service.revoke_token(&bob, id).await), Code::NotFound);
    // The whole token does too, and is not repeated.
    let error = service.revoke_token(&bob, token["token"].as_str().unwrap()).await.unwrap_err();
    assert!(error.code == Code::NotFound && !error.message.contains(token["token"].as_str().unwrap()), "{error}");
    assert_eq!(code(service.revoke_token(&ann, id).await), Code::Ok);
    assert_eq!(code(service.revoke_token(&ann, "none").await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_token_creates_no_others() {
    let fixture = fixture().await;
    let service = &fixture.services.identity;
    let by_token = |user: &str| fixture.access_by(user, LoginMethod::ServiceToken, "0123456789abcdef");
    assert_eq!(code(service.create_token(&by_token("ann"), None, "", 60).await), Code::PermissionDenied);
    assert_eq!(
        code(service.create_token(&by_token("root"), Some("ann"), "", 60).await),
        Code::Ok,
        "an administrator's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_grants_on_its_prefix_only() {
    let fixture = fixture().await;
    fixture.grant("user:ann", Role::Owner, "sales", &[]).await;
    let (service, ann) = (&fixture.services.identity, fixture.access("ann"));
    for (role, prefix, expected) in [
        (Role::Reader, &["sales"][..], Code::Ok),
        (Role::Owner, &["sales", "eu"][..], Code::Ok),
        (Role::Reader, &["sales_old"][..], Code::PermissionDenied),
        (Role::Reader, &[][..], Code::PermissionDenied),
        (Role::Operator, &[][..], Code::PermissionDenied),
        (Role::Admin, &[][..], Code::PermissionDenied),
    ] {
        assert_eq!(code(service.grant(&ann, request(role, prefix, "user:bob")).await), expected, "{role:?} {prefix:?}");
        let revoked = service.revoke(&ann, request(role, prefix, "user:bob")).await;
        assert_eq!(code(revoked), expected, "{role:?} {prefix:?}");
    }
    let none = service.revoke(&ann, request(Role::Reader, &["sales"], "user:bob")).await.unwrap_err();
    assert_eq!(none.code, Code::NotFound);
    assert!(none.message.contains("no grant of reader on sales to user:bob: `volley grants`"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_of_others_are_hidden_except_to_owners() {
    let fixture = fixture().await;
    fixture.grant("user:ann", Role::Owner, "sales", &[]).await;
    fixture.grant("group:staff", Role::Reader, "public", &[]).await;
    fixture.grant("user:bob", Role::Reader, "sales/eu", &["a"]).await;
    fixture.grant("user:bob", Role::Writer, "other", &[]).await;
    let service = &fixture.services.identity;
    let listed = |access: Access, prefix: &'static [&'static str]| async move {
        let prefix: Vec<String> = prefix.iter().map(|part| part.to_string()).collect();
        let listed = service.list_grants(&access, &prefix, None).await.unwrap();
        let text = |grant: &Value| format!("{} {}", grant["role"].as_str().unwrap(), grant["prefix"].as_str().unwrap());
        let mut texts: Vec<String> = listed.as_array().unwrap().iter().map(text).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(listed(fixture.access("root"), &[]).await.len(), 5, "with the administrator's own");
    assert_eq!(listed(fixture.access("ann"), &[]).await, ["owner sales", "reader public", "reader sales/eu"]);
    assert_eq!(listed(fixture.access("bob"), &[]).await, ["reader public", "reader sales/eu", "writer other"]);
    assert_eq!(listed(fixture.access("ann"), &["sales", "eu", "x"]).await, ["owner sales", "reader sales/eu"]);
    let bob = service.whoami(&fixture.access("bob"));
    assert_eq!(
        (&bob["principal"], &bob["method"], &bob["groups"]),
        (&json!("bob"), &json!("password"), &json!(["staff"]))
    );
    assert_eq!(bob["grants"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_is_listed_with_what_is_used_until_it_is_removed() {
    let fixture = fixture().await;
    let service = &fixture.services.identity;
    fixture.create_table("sales/a").await;
    let sales = || vec!["sales".to_string()];
    service.set_quota(sales(), Some(1_000), None).await.unwrap();
    let listed = service.list_quotas(&[]).await.unwrap();
    let expected = json!([{ "prefix": "sales", "bytes": 1_000, "tables": null, "bytes_used": 0, "tables_used": 1 }]);
    assert_eq!(listed, expected);
    assert_eq!(service.list_quotas(&["other".to_string()]).await.unwrap(), json!([]));
    assert_eq!(code(service.set_quota(sales(), Some(0), None).await), Code::InvalidArgument);
    service.set_quota(sales(), None, None).await.unwrap();
    assert_eq!(service.list_quotas(&[]).await.unwrap(), json!([]));
    let none = service.set_quota(sales(), None, None).await.unwrap_err();
    assert!(none.code == Code::NotFound && none.message.contains("no quota of sales: `volley quota ls`"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_of_a_user_are_those_to_its_groups_too() {
    let fixture = fixture().await;
    fixture.grant("user:ann", Role::Owner, "sales", &[]).await;
    fixture.grant("group:staff", Role::Reader, "public", &[]).await;
    fixture.grant("user:bob", Role::Writer, "other", &[]).await;
    let service = &fixture.services.identity;
    let listed = |access: Access, of: &'static str| async move {
        let listed = service.list_grants(&access, &[], Some(of)).await?;
        let to = |grant: &Value| format!("{} {}", grant["to"].as_str().unwrap(), grant["prefix"].as_str().unwrap());
        let mut texts: Vec<String> = listed.as_array().unwrap().iter().map(to).collect();
        texts.sort_unstable();
        Ok::<_, Error>(texts)
    };
    let root = fixture.access("root");
    assert_eq!(listed(root.clone(), "user:bob").await.unwrap(), ["group:staff public", "user:bob other"]);
    assert_eq!(listed(root.clone(), "group:staff").await.unwrap(), ["group:staff public"]);
    assert_eq!(listed(root.clone(), "user:nobody").await.unwrap(), Vec::<String>::new());
    assert_eq!(code(listed(root, "bob").await), Code::InvalidArgument);
    let ann = fixture.access("ann");
    assert_eq!(listed(ann.clone(), "user:ann").await.unwrap(), ["group:staff public", "user:ann sales"]);
    assert_eq!(listed(ann.clone(), "group:staff").await.unwrap(), ["group:staff public"]);
    for other in ["user:bob", "group:others", "user:nobody"] {
        assert_eq!(code(listed(ann.clone(), other).await), Code::PermissionDenied, "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_no_table_has_are_granted_with_a_warning() {
    let fixture = fixture().await;
    let (service, root) = (&fixture.services.identity, fixture.access("root"));
    let grant = |prefix: &'static str, columns: &'static [&'static str]| {
        let columns = columns.iter().map(|column| column.to_string()).collect();
        let request = GrantRequest { columns, ..request(Role::Reader, &[prefix], "user:ann") };
        let root = root.clone();
        async move { service.grant(&root, request).await.unwrap()["warnings"].clone() }
    };
    assert_eq!(grant("sales", &["amuont"]).await, json!([]), "the grant precedes the table");
    for (name, columns) in [("a", ["day", "amount"]), ("b", ["day", "price"])] {
        let fields: Vec<Field> = columns.iter().map(|column| Field::new(*column, DataType::Int64, true)).collect();
        let (table, schema) = (vec!["sales".to_string(), name.into()], schema_message(&Schema::new(fields)).unwrap());
        let spec = Some(TableSpec { shards: 1, replicas: 1, ..TableSpec::default() });
        fixture.apply(Op::CreateTable(CreateTable { table, spec, schema, ..CreateTable::default() })).await;
    }
    assert_eq!(grant("sales", &["day", "amount", "price"]).await, json!([]));
    let warnings = grant("sales", &["amuont", "day", "x"]).await;
    let text = warnings[0].as_str().unwrap();
    assert!(text.starts_with("no table below sales has a column \"amuont\", \"x\":"), "{text}");
    assert_eq!(grant("other", &["amuont"]).await, json!([]), "no table is below it");
    let listed = service.list_grants(&root, &["sales".to_string()], Some("user:ann")).await.unwrap();
    assert_eq!(listed[0]["columns"], json!(["amuont", "day", "x"]), "it is granted all the same");
}
