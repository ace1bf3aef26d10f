//! `volley token`: service tokens.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::{Error, Result, clock};

use crate::args::identity::TokenCommand;
use crate::output::{self, cell};

/// Runs the command.
pub async fn run(client: &Client, command: &TokenCommand, json: bool) -> Result<()> {
    match command {
        TokenCommand::Create { owner, ttl, name } => {
            // The answer has the token.
            client.check_confidential()?;
            let body = create_body(owner.user.as_deref(), *ttl, name.as_deref());
            created(&client.action("create_token", &body).await?, json)
        }
        TokenCommand::Ls { owner } => {
            let body = owner.user.as_ref().map_or_else(|| json!({}), |user| json!({ "user": user }));
            let tokens = client.action("list_tokens", &body).await?;
            if json { output::json(&tokens) } else { output::line(table(&tokens, clock::now_ms())) }
        }
        TokenCommand::Revoke { id } => {
            check_token_id(id)?;
            let answer = client.action("revoke_token", &json!({ "id": id })).await?;
            if json { output::json(&answer) } else { output::line(revoked_text(&answer)) }
        }
    }
}

/// Checks that an argument is a token's id. Anything else may be a secret, a token or a part of one: it is neither sent nor
/// repeated.
///
/// # Errors
/// INVALID_ARGUMENT.
fn check_token_id(id: &str) -> Result<()> {
    if id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let what = if id.starts_with("volley_") { "that is a whole token" } else { "that is no id of a token" };
    Err(Error::invalid(format!("{what}: give the id, 16 hexadecimal digits, as `volley token ls` shows it")))
}

fn revoked_text(answer: &Value) -> String {
    format!("revoked token {}: every member refuses it within a minute", cell("id", &answer["id"]))
}

fn create_body(user: Option<&str>, ttl_s: u64, name: Option<&str>) -> Value {
    let mut body = json!({ "ttl_s": ttl_s });
    for (key, value) in [("user", user), ("name", name)] {
        if let Some(value) = value {
            body[key] = value.into();
        }
    }
    body
}

/// Prints the token alone on the standard output, so that a script can take it from there.
fn created(answer: &Value, json: bool) -> Result<()> {
    let token = answer["token"].as_str().filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Error::internal("the answer to create_token has no token"))?;
    if json {
        return output::json(answer);
    }
    eprintln!("{}", created_text(answer));
    output::line(token)
}

fn created_text(answer: &Value) -> String {
    format!(
        "created token {}, valid until {} UTC; it is shown only now",
        cell("id", &answer["id"]),
        output::time(&answer["expires_ms"])
    )
}

/// A table of tokens.
fn table(tokens: &Value, now_ms: u64) -> String {
    let tokens: Vec<&Value> = tokens.as_array().into_iter().flatten().collect();
    if tokens.is_empty() {
        return "no tokens".into();
    }
    let mut table = output::table(&["id", "user", "name", "created (UTC)", "valid until (UTC)"]);
    for token in tokens {
        let of = |key: &str| cell(key, &token[key]);
        let mut until = output::time(&token["expires_ms"]);
        if token["expires_ms"].as_u64().is_some_and(|ms| ms > 0 && ms <= now_ms) {
            until += " (expired)";
        }
        table.add_row([of("id"), of("user"), of("name"), output::time(&token["created_ms"]), until]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_sent() {
        assert_eq!(create_body(None, 60, None), json!({ "ttl_s": 60 }));
        let all = json!({ "ttl_s": 60, "user": "etl", "name": "nightly" });
        assert_eq!(create_body(Some("etl"), 60, Some("nightly")), all);
    }

    #[test]
    fn text_beside_the_token_does_not_contain_it() {
        let answer = json!({ "id": "00ab", "token": "volley_00ab_secret", "expires_ms": 1_700_000_000_123_u64 });
        let text = created_text(&answer);
        assert!(text.contains("00ab") && text.contains("2023-11-14 22:13:20"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(created(&json!({ "id": "00ab" }), false).is_err());
    }

    #[test]
    fn revoked_token_is_named_by_its_id_and_never_repeated() {
        assert!(check_token_id("00ab00ab00ab00ab").is_ok());
        for (argument, text) in [("volley_00ab00ab00ab00ab_secret", "whole token"), ("secret", "no id"), ("", "no id")]
        {
            let error = check_token_id(argument).map_err(|e| e.message);
            assert!(
                error.is_err_and(|e| e.contains(text) && e.contains("give the id") && !e.contains("secret")),
                "{argument:?}"
            );
        }
        assert!(
            revoked_text(&json!({ "id": "00ab00ab00ab00ab", "revoked": true })).contains("token 00ab00ab00ab00ab:")
        );
    }

    #[test]
    fn expired_tokens_are_marked() {
        let token = |id: &str, until: u64| json!({ "id": id, "user": "etl", "name": "n", "created_ms": 1000, "expires_ms": until });
        let text = table(&json!([token("0a", 5_000), token("0b", 5_001)]), 5_000);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("0a") && lines[2].contains("(expired)"), "{text}");
        assert!(lines[3].contains("0b") && !lines[3].contains("(expired)"), "{text}");
        assert_eq!(table(&json!([]), 0), "no tokens");
    }
}
