//! Bodies of the actions on identity: accepted, rejected with the cause, and none that shows a password.
#![allow(clippy::unwrap_used)]

use volley_common::Code;

use super::super::action_bodies::parse;
use super::*;

#[test]
fn user_bodies_have_a_password_and_groups() {
    let body = br#"{"user": "ann", "password": "correct horse", "groups": ["etl"]}"#;
    let create: CreateUserBody = parse_with_password("create_user", body).unwrap();
    assert_eq!((create.user.as_str(), create.groups.as_slice()), ("ann", &["etl".to_string()][..]));
    assert_eq!(create.password().unwrap().expose(), "correct horse");
    let without: CreateUserBody = parse_with_password("create_user", br#"{"user": "etl", "password": null}"#).unwrap();
    assert!(without.password().is_none() && without.groups.is_empty());
    let set: SetPasswordBody = parse_with_password("set_password", br#"{"user": "ann", "password": ""}"#).unwrap();
    let set = set.into_change();
    assert_eq!(
        (set.user.as_str(), set.password.expose(), set.old_password, set.revoke_tokens),
        ("ann", "", None, None)
    );
    let body = br#"{"user": "ann", "password": "a", "old_password": "b", "revoke_tokens": false}"#;
    let set = parse_with_password::<SetPasswordBody>("set_password", body).unwrap().into_change();
    assert_eq!((set.old_password.unwrap().expose(), set.revoke_tokens), ("b", Some(false)));
}

/// Whatever is wrong with a body, and wherever the password was put.
#[test]
fn error_of_a_body_with_a_password_shows_no_value() {
    for body in [
        r#"{"user": "ann", "password": ["31415926"]}"#,
        r#"{"user": "ann", "password": 31415926}"#,
        r#"{"user": 31415926, "password": "x"}"#,
        r#"{"user": {"a": "31415926"}, "password": "x"}"#,
        r#"{"user": "ann", "password": "31415926", "groups": "31415926"}"#,
        r#"{"user": "ann", "password": "31415926", "groups": ["a", 31415926]}"#,
        r#"{"user": "ann", "password": "31415926", "group": []}"#,
        r#"{"user": "ann", "password": "31415926""#,
        r#""ann:31415926""#,
        "31415926",
        "ann:31415926",
        "",
    ] {
        let Err(error) = parse_with_password::<CreateUserBody>("create_user", body.as_bytes()) else {
            panic!("accepted: {body}")
        };
        assert_eq!(error.code, Code::InvalidArgument, "{body}");
        assert!(error.message.contains("create_user") && !error.message.contains("31415926"), "{error}");
    }
}

#[test]
fn unknown_or_missing_key_is_named() {
    let message = |body: &str| parse_with_password::<SetPasswordBody>("set_password", body.as_bytes()).err().unwrap();
    assert!(message(r#"{"user": "ann", "pasword": "x"}"#).message.contains("pasword"));
    assert!(message(r#"{"user": "ann"}"#).message.contains("password"));
    let misplaced = message(r#"{"user": "ann", "password": "x", "revoke_tokens": "31415926"}"#).message;
    assert!(misplaced.contains("revoke_tokens") && !misplaced.contains("31415926"), "{misplaced}");
    let grant = parse::<GrantBody>("grant", br#"{"role": "reader", "prefix": "/", "to": "user:a", "column": []}"#);
    assert!(grant.err().unwrap().message.contains("column"));
}

fn grant(body: &str) -> Result<GrantRequest> {
    parse::<GrantBody>("grant", body.as_bytes())?.to_grant()
}

#[test]
fn prefix_is_a_slash_or_whole_components() {
    for (text, expected) in
        [("/", &[][..]), ("sales", &["sales"]), ("sales/", &["sales"]), ("sales/eu", &["sales", "eu"])]
    {
        let request = grant(&format!(r#"{{"role": "writer", "prefix": "{text}", "to": "user:ann"}}"#)).unwrap();
        assert_eq!(request.role, Role::Writer);
        assert_eq!(request.prefix, expected, "{text}");
    }
    for text in ["", "//", "/sales", "sales//", "sales//eu", "a\\u0000"] {
        let error = grant(&format!(r#"{{"role": "writer", "prefix": "{text}", "to": "user:ann"}}"#)).err().unwrap();
        assert!(error.code == Code::InvalidArgument && error.message.contains("prefix"), "{text:?}: {error}");
    }
    let of: ListGrantsBody = parse("list_grants", br#"{"of": "user:ann", "prefix": "sales"}"#).unwrap();
    assert_eq!((of.of.as_deref(), of.prefix().unwrap()), (Some("user:ann"), vec!["sales".to_string()]));
    let all: ListGrantsBody = parse("list_grants", b"").unwrap();
    assert_eq!(all.prefix().unwrap(), Vec::<String>::new());
}

#[test]
fn unknown_role_and_empty_columns_are_refused() {
    let error = grant(r#"{"role": "Reader", "prefix": "/", "to": "user:ann"}"#).err().unwrap();
    assert!(error.message.contains("\"Reader\"") && error.message.contains("operator"), "{error}");
    let columns = |list: &str| format!(r#"{{"role": "reader", "prefix": "/", "to": "user:ann", "columns": {list}}}"#);
    assert_eq!(grant(&columns(r#"["a"]"#)).unwrap().columns, ["a"]);
    assert!(grant(&columns("null")).unwrap().columns.is_empty());
    // Taken for all, it would reveal every column.
    assert!(grant(&columns("[]")).err().unwrap().message.contains("columns"));
    let revoke = parse::<GrantBody>("revoke", columns(r#"["a"]"#).as_bytes()).unwrap().to_revoke();
    assert!(revoke.err().unwrap().message.contains("revoke"));
}
