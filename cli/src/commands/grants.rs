//! `volley grant`, `revoke` and `grants`: roles on prefixes of table names.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::escape::escape_invisible;
use volley_common::{Error, Result};

use crate::args::identity::{GrantArgs, RevokeArgs};
use crate::column_list::column_names;
use crate::output::{self, cell};

/// Grants a role.
///
/// # Errors
/// INVALID_ARGUMENT, before it connects: the prefix ends with a wildcard.
pub async fn grant(args: &GrantArgs, connect: impl AsyncFnOnce() -> Result<Client>, json: bool) -> Result<()> {
    check_no_wildcard(&args.grant.prefix)?;
    let columns = column_names(&args.columns);
    let mut body = body(&args.grant);
    if let Some(columns) = &columns {
        body["columns"] = json!(columns);
    }
    let answer = connect().await?.action("grant", &body).await?;
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{}", escape_invisible(&format!("volley: warning: {warning}")));
    }
    if json { output::json(&answer) } else { output::line(granted_text(&args.grant, columns.as_deref())) }
}

/// Refuses `sales/*`, which would be a grant on tables below a component `*`: none of those that were meant.
fn check_no_wildcard(prefix: &str) -> Result<()> {
    match prefix.rsplit('/').next() {
        Some("*") => {
            Err(Error::invalid("a prefix covers all tables below it: sales, not sales/*; / is the whole cluster"))
        }
        _ => Ok(()),
    }
}

/// Revokes a role.
///
/// # Errors
/// NOT_FOUND: there is no such grant.
pub async fn revoke(client: &Client, args: &RevokeArgs, json: bool) -> Result<()> {
    let answer = client.action("revoke", &body(args)).await?;
    let text = text(args);
    // Of a coordinator of an earlier version; others report the error.
    if answer["revoked"] == false {
        return Err(Error::not_found(format!(
            "there is no grant of {text}: `volley grants` lists them; a role that comes from a wider prefix or a group is revoked there"
        )));
    }
    if json { output::json(&answer) } else { output::line(format!("revoked {text}")) }
}

/// Lists the grants that apply to tables of a prefix; all without one. `of`: only those of this user, with those to its groups, or
/// of this group.
pub async fn list(client: &Client, prefix: Option<&str>, of: Option<&str>, json: bool) -> Result<()> {
    let grants = client.action("list_grants", &list_body(prefix, of)).await?;
    if json { output::json(&grants) } else { output::line(table(&grants)) }
}

/// Coordinators of earlier versions refuse a key that they do not know.
fn list_body(prefix: Option<&str>, of: Option<&str>) -> Value {
    let given = [("prefix", prefix), ("of", of)].into_iter().filter_map(|(key, value)| Some((key, value?)));
    given.map(|(key, value)| (key.to_string(), Value::from(value))).collect()
}

fn body(args: &RevokeArgs) -> Value {
    json!({ "role": args.role.as_str(), "prefix": args.prefix, "to": args.to })
}

/// `reader on sales to user:ana`.
fn text(args: &RevokeArgs) -> String {
    let prefix = if args.prefix == "/" { "the whole cluster" } else { args.prefix.as_str() };
    format!("{} on {prefix} to {}", args.role.as_str(), args.to)
}

fn granted_text(grant: &RevokeArgs, columns: Option<&[String]>) -> String {
    match columns {
        None => format!("granted {}", text(grant)),
        Some(columns) => format!("granted {}, only the columns {}", text(grant), columns.join(", ")),
    }
}

/// A table of grants.
pub fn table(grants: &Value) -> String {
    let grants: Vec<&Value> = grants.as_array().into_iter().flatten().collect();
    if grants.is_empty() {
        return "no grants".into();
    }
    let mut table = output::table(&["prefix", "role", "to", "columns", "granted by", "created (UTC)"]);
    for grant in grants {
        let of = |key: &str| cell(key, &grant[key]);
        let columns = match of("columns") {
            none if none.is_empty() => "all".into(),
            columns => columns,
        };
        let created = output::time(&grant["created_ms"]);
        table.add_row([of("prefix"), of("role"), of("to"), columns, of("granted_by"), created]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::identity::RoleArg;

    fn args(prefix: &str) -> RevokeArgs {
        RevokeArgs { role: RoleArg::Reader, prefix: prefix.into(), to: "user:ana".into() }
    }

    #[test]
    fn grant_is_named_in_full() {
        assert_eq!(body(&args("sales")), json!({ "role": "reader", "prefix": "sales", "to": "user:ana" }));
        assert_eq!(granted_text(&args("/"), None), "granted reader on the whole cluster to user:ana");
        let columns = ["x".to_string(), "y".to_string()];
        let granted = granted_text(&args("a/b"), Some(&columns));
        assert_eq!(granted, "granted reader on a/b to user:ana, only the columns x, y");
    }

    #[test]
    fn only_what_is_given_restricts_the_list() {
        assert_eq!(list_body(None, None), json!({}));
        assert_eq!(list_body(Some("sales"), None), json!({ "prefix": "sales" }));
        assert_eq!(list_body(None, Some("user:ana")), json!({ "of": "user:ana" }));
    }

    #[test]
    fn wildcard_at_the_end_of_a_prefix_is_refused() {
        for prefix in ["*", "sales/*", "sales/eu/*"] {
            assert!(check_no_wildcard(prefix).is_err_and(|e| e.message.contains("sales, not sales/*")), "{prefix}");
        }
        for prefix in ["/", "sales", "sales/a*", "*/sales"] {
            assert!(check_no_wildcard(prefix).is_ok(), "{prefix}");
        }
    }

    #[test]
    fn table_shows_columns_and_who_granted() {
        let text = table(&json!([
            { "to": "user:ana", "role": "reader", "prefix": "sales", "columns": ["x", "y"], "granted_by": "root", "created_ms": 1_700_000_000_123_u64 },
            { "to": "group:g", "role": "admin", "prefix": "/", "columns": [], "granted_by": "", "created_ms": null },
        ]));
        let lines: Vec<&str> = text.lines().collect();
        for word in ["sales", "reader", "user:ana", "x, y", "root", "2023-11-14"] {
            assert!(lines[2].contains(word), "{word} is not in\n{text}");
        }
        assert!(lines[3].contains("group:g") && lines[3].contains("all"), "{text}");
        assert_eq!(table(&json!([])), "no grants");
    }
}
