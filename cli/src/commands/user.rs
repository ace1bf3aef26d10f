//! `volley user`: the users of the cluster.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::escape::escape_invisible;
use volley_common::identity::Secret;
use volley_common::{Error, Result};

use crate::args::identity::{UserAddArgs, UserCommand};
use crate::client_login_args::PASSWORD_VAR;
use crate::output::{self, cell};
use crate::prompt;

/// Runs the command.
pub async fn run(client: &Client, command: &UserCommand, json: bool) -> Result<()> {
    let (answer, text) = match command {
        UserCommand::Add(add) => self::add(client, add).await?,
        UserCommand::Passwd { name, password_stdin, revoke_tokens } => {
            passwd(client, name.as_deref(), *password_stdin, *revoke_tokens).await?
        }
        UserCommand::Groups { name, groups } => {
            let answer = client.action("set_groups", &json!({ "user": name, "groups": groups })).await?;
            (answer, groups_text(name, groups))
        }
        UserCommand::Rm { name, yes } => {
            confirm(name, *yes).await?;
            (client.action("remove_user", &json!({ "user": name })).await?, format!("removed user {name}"))
        }
        UserCommand::Ls => {
            let users = client.action("list_users", &json!({})).await?;
            let text = table(&users);
            (users, text)
        }
    };
    if json { output::json(&answer) } else { output::line(text) }
}

async fn add(client: &Client, add: &UserAddArgs) -> Result<(Value, String)> {
    let UserAddArgs { name, groups, no_password, password_stdin } = add;
    let mut body = json!({ "user": name, "groups": groups });
    if !no_password {
        client.check_confidential()?;
        let ways = "add --password-stdin, or --no-password for a user that logs in with tokens";
        body["password"] = prompt::new_password(name, *password_stdin, ways).await?.expose().into();
    }
    let answer = client.action("create_user", &body).await?;
    let text = format!("added user {name}; `volley grant ROLE PREFIX --to user:{name}` gives it rights");
    Ok((answer, text))
}

async fn passwd(client: &Client, name: Option<&str>, from_stdin: bool, revoke_tokens: bool) -> Result<(Value, String)> {
    client.check_confidential()?;
    let caller = client.action("whoami", &json!({})).await?;
    let name = match name {
        Some(name) => name.to_string(),
        None => own_name(&caller)?,
    };
    let old = match needs_old_password(&caller, &name) {
        true => Some(old_password(&name).await?),
        false => None,
    };
    let password = prompt::new_password(&name, from_stdin, "add --password-stdin").await?;
    let mut body = json!({ "user": name, "password": password.expose() });
    if let Some(old) = &old {
        body["old_password"] = old.expose().into();
    }
    if revoke_tokens {
        body["revoke_tokens"] = true.into();
    }
    let answer = client.action("set_password", &body).await?;
    if !revoke_tokens && let Some(note) = kept_tokens_text(&caller, &name, &answer) {
        eprintln!("{}", escape_invisible(&note));
    }
    let text = passwd_text(&name, &answer);
    Ok((answer, text))
}

/// What is left of the access of another user, whose tokens a new password does not revoke. How many there are is not known.
fn kept_tokens_text(whoami: &Value, name: &str, answer: &Value) -> Option<String> {
    let none_revoked = answer["revoked_tokens"].as_u64().unwrap_or(0) == 0;
    (none_revoked && whoami["principal"] != name)
        .then(|| format!("the service tokens of {name} stay valid: volley token ls --user {name}"))
}

fn passwd_text(name: &str, answer: &Value) -> String {
    match answer["revoked_tokens"].as_u64().unwrap_or(0) {
        0 => format!("changed the password of {name}"),
        1 => format!("changed the password of {name}, and revoked its service token"),
        tokens => format!("changed the password of {name}, and revoked its {tokens} service tokens"),
    }
}

/// The present password: that of the login, if it is in the environment, or typed.
async fn old_password(name: &str) -> Result<Secret> {
    match std::env::var(PASSWORD_VAR) {
        Ok(password) if !password.is_empty() => Ok(Secret::new(password)),
        _ => prompt::password(&format!("Present password of {name}: "), "set VOLLEY_PASSWORD").await,
    }
}

/// Whether only who knows the password of the user may change it: it is the caller's own, and the caller no administrator.
fn needs_old_password(whoami: &Value, name: &str) -> bool {
    let mut grants = whoami["grants"].as_array().into_iter().flatten();
    whoami["principal"] == name && !grants.any(|grant| grant["role"] == "admin")
}

/// Whose password is changed if no name is given.
fn own_name(whoami: &Value) -> Result<String> {
    match whoami["principal"].as_str().filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.into()),
        None => Err(Error::invalid(
            "nobody is logged in, so there is no own password: log in by --user NAME, or name the user, `volley user passwd NAME`",
        )),
    }
}

async fn confirm(name: &str, yes: bool) -> Result<()> {
    if yes || !prompt::is_interactive() {
        return Ok(());
    }
    match prompt::confirmed(&format!("Remove user {name}? Its sessions and tokens end.")).await? {
        true => Ok(()),
        false => Err(Error::aborted(format!("user {name} is not removed"))),
    }
}

fn groups_text(name: &str, groups: &[String]) -> String {
    match groups {
        [] => format!("user {name} is in no group"),
        [one] => format!("user {name} is in the group {one}"),
        several => format!("user {name} is in the groups {}", several.join(", ")),
    }
}

/// A table of users.
fn table(users: &Value) -> String {
    let users: Vec<&Value> = users.as_array().into_iter().flatten().collect();
    if users.is_empty() {
        return "no users: --bootstrap-admin-file of the coordinators creates the first".into();
    }
    let mut table = output::table(&["user", "groups", "password", "tokens", "created (UTC)"]);
    for user in users {
        let of = |key: &str| cell(key, &user[key]);
        let password = if user["has_password"] == true { "yes" } else { "no" };
        table.add_row([of("user"), of("groups"), password.into(), of("tokens"), output::time(&user["created_ms"])]);
    }
    output::align_right(&mut table, &[3]);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_groups_and_who_has_a_password() {
        let users = json!([
            { "user": "ana", "groups": ["a", "b"], "has_password": true, "tokens": 2, "created_ms": 1_700_000_000_123_u64 },
            { "user": "etl", "groups": [], "has_password": false, "tokens": 0, "created_ms": 0 },
        ]);
        let text = table(&users);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("a, b") && lines[2].contains("yes"), "{text}");
        assert!(lines[2].contains("2023-11-14 22:13:20"), "{text}");
        assert!(lines[3].contains("etl") && lines[3].contains("no"), "{text}");
        assert!(table(&json!([])).contains("no users"));
    }

    #[test]
    fn own_password_needs_a_login() {
        assert_eq!(own_name(&json!({ "principal": "ana" })), Ok("ana".into()));
        for nobody in [json!({ "principal": null, "open": true }), json!({ "principal": "" }), json!(null)] {
            assert!(own_name(&nobody).is_err_and(|e| e.message.contains("--user NAME")));
        }
    }

    #[test]
    fn own_password_needs_the_old_one_unless_of_an_administrator() {
        let reader = json!({ "principal": "ana", "grants": [{ "role": "reader", "prefix": "/" }] });
        assert!(needs_old_password(&reader, "ana") && !needs_old_password(&reader, "bob"));
        let admin = json!({ "principal": "ana", "grants": [{ "role": "admin", "prefix": "/" }] });
        assert!(!needs_old_password(&admin, "ana"));
        assert!(!needs_old_password(&json!({ "principal": null, "open": true }), "ana"));
    }

    #[test]
    fn tokens_of_another_user_that_stay_valid_are_mentioned() {
        let (root, none) = (json!({ "principal": "root" }), json!({ "revoked_tokens": 0 }));
        let note = kept_tokens_text(&root, "ana", &none);
        assert!(note.is_some_and(|text| text.contains("stay valid: volley token ls --user ana")));
        assert_eq!(kept_tokens_text(&root, "root", &none), None);
        assert_eq!(kept_tokens_text(&root, "ana", &json!({ "revoked_tokens": 2 })), None);
    }

    #[test]
    fn groups_are_named() {
        assert_eq!(groups_text("ana", &[]), "user ana is in no group");
        assert_eq!(groups_text("ana", &["x".into(), "y".into()]), "user ana is in the groups x, y");
    }
}
