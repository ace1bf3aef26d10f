//! `volley login` and `volley logout`: contexts, and the tokens in them.
//!
//! A password is not stored, but exchanged for a service token of its user, which `volley logout` revokes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::identity::Secret;
use volley_common::tls::ClientTls;
use volley_common::{Code, Error, Result};

use super::connect;
use crate::args::contexts::LoginArgs;
use crate::client_login_args::{ClientLoginArgs, ContextLogin, LoginChoice};
use crate::cluster_choice::ClusterChoice;
use crate::contexts::{ClusterContext, ContextStore};
use crate::output::{self, cell};

/// What tokens of logins are for, as `volley token ls` shows it.
const TOKEN_NAME: &str = "volley-login";
const LOGIN_WAYS: &str =
    "log in by --user NAME, --token-file FILE, VOLLEY_TOKEN, or --tls-cert FILE and --tls-key FILE";

/// Checks the login at the cluster, stores both as a context, and makes that the current one. A token that an earlier login put
/// into the context is revoked.
///
/// # Errors
/// Those of the cluster, and of the context file; then the context is as before.
pub async fn run(options: &LoginArgs, choice: &ClusterChoice, login: &ClientLoginArgs, json: bool) -> Result<()> {
    let store = ContextStore::of_user()?;
    store.read()?;
    let name = choice.context.as_deref().ok_or_else(|| Error::internal("a login without a context"))?;
    let way = login.chosen(&choice.cluster)?;
    let client = connect(&choice.cluster, &choice.tls, login).await?;
    let caller = client.action_any("whoami", &json!({})).await.map_err(|error| with_ways(error, &way))?;
    let mut context = base(choice, login.sends_plaintext(&choice.cluster)?)?;
    context.user = caller["principal"].as_str().map(String::from);
    match way {
        LoginChoice::None => {}
        LoginChoice::Token(token) => context.token = Some(Secret::new(token.expose().trim())),
        LoginChoice::TokenFile(path) => context.token_file = Some(absolute(&path)?),
        LoginChoice::User(..) => add_token(&client, &mut context, options.ttl).await?,
    }
    let stored = store.update(|file| {
        file.current = Some(name.to_string());
        Ok(file.contexts.insert(name.to_string(), context.clone()))
    });
    let replaced = match stored {
        Ok(replaced) => replaced,
        Err(error) => {
            // Nobody has the new token.
            if let Err(failed) = revoke(&client, context.token_id.as_deref()).await {
                output::note(format!("the new token stays valid: `volley token ls` shows it ({})", failed.message));
            }
            return Err(error);
        }
    };
    revoke_replaced(&client, replaced, &context).await;
    let answer = json!({
        "context": name, "cluster": context.cluster, "user": context.user, "open": caller["open"],
        "token_id": context.token_id, "token_expires_ms": context.token_expires_ms,
    });
    if json { output::json(&answer) } else { output::line(logged_in(&answer)) }
}

/// The error of a cluster that wants to know its callers.
fn with_ways(mut error: Error, way: &LoginChoice) -> Error {
    if error.code == Code::Unauthenticated && *way == LoginChoice::None {
        error.message = format!("{}; {LOGIN_WAYS}", error.message);
    }
    error
}

/// The context without a login.
fn base(choice: &ClusterChoice, plaintext_login: bool) -> Result<ClusterContext> {
    let ClientTls { ca, cert, key, server_name } = &choice.tls;
    let path = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
    let addresses = choice.cluster.split(',').map(str::trim).filter(|address| !address.is_empty());
    Ok(ClusterContext {
        cluster: addresses.map(String::from).collect(),
        tls_ca: path(ca)?,
        tls_cert: path(cert)?,
        tls_key: path(key)?,
        tls_server_name: server_name.clone(),
        plaintext_login,
        ..ClusterContext::default()
    })
}

/// The path from every working folder.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

/// Creates a token of the caller for the context.
async fn add_token(client: &Client, context: &mut ClusterContext, ttl_s: u64) -> Result<()> {
    // The answer has the token.
    client.check_confidential()?;
    let created = client.action("create_token", &json!({ "ttl_s": ttl_s, "name": TOKEN_NAME })).await?;
    let text = |key: &str| created[key].as_str().filter(|text| !text.is_empty()).map(String::from);
    let token = text("token").ok_or_else(|| Error::internal("the answer to create_token has no token"))?;
    context.token = Some(Secret::new(token));
    (context.token_id, context.token_expires_ms) = (text("id"), created["expires_ms"].as_u64());
    Ok(())
}

/// Revokes a token; one that does not exist any more is no error.
async fn revoke(client: &Client, id: Option<&str>) -> Result<()> {
    let Some(id) = id else { return Ok(()) };
    match client.action("revoke_token", &json!({ "id": id })).await {
        Err(error) if error.code != Code::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Revokes the token that the context had before, if it is of the same user and cluster. A failure is reported, and does not
/// fail the login.
async fn revoke_replaced(client: &Client, replaced: Option<ClusterContext>, context: &ClusterContext) {
    let Some(replaced) = replaced.filter(|replaced| replaced.token != context.token) else { return };
    let Some(id) = &replaced.token_id else { return };
    let is_own = replaced.user == context.user && replaced.cluster == context.cluster;
    let revoked = match is_own {
        true => revoke(client, Some(id.as_str())).await.map_err(|error| format!(" ({})", error.message)),
        false => Err(" of another user or cluster".into()),
    };
    if let Err(why) = revoked {
        output::note(format!(
            "the token {id} of the former login{why} stays valid: `volley token revoke {id}` ends it"
        ));
    }
}

fn logged_in(answer: &Value) -> String {
    let of = |key: &str| cell(key, &answer[key]);
    let user = match of("user") {
        user if user.is_empty() => "as nobody".into(),
        user => format!("as {user}"),
    };
    let open = if answer["open"] == true { ", which has no users" } else { "" };
    let token = match of("token_id") {
        id if id.is_empty() => String::new(),
        id => format!(" with the token {id}, valid until {} UTC", output::time(&answer["token_expires_ms"])),
    };
    format!("{} is the current context: {}{open}, {user}{token}", of("context"), of("cluster"))
}

/// Revokes the token that `volley login` created, and removes every login from the context. Its addresses stay.
///
/// # Errors
/// INVALID_ARGUMENT: no context is used. The cluster's, if the token could not be revoked; it is removed nevertheless.
pub async fn logout(choice: &ClusterChoice, json: bool) -> Result<()> {
    let name = choice.context.as_deref().ok_or_else(|| {
        Error::invalid(
            "no context is used that could be logged out of: name one by --context NAME, see `volley context ls`",
        )
    })?;
    let before = ContextStore::of_user()?.update(|file| {
        file.context(name)?;
        let context = file.contexts.get_mut(name);
        let context = context.ok_or_else(|| Error::internal("a context is missing"))?;
        let before = context.clone();
        context.forget_login();
        Ok(before)
    })?;
    if let Some(id) = &before.token_id {
        // As its own user: another one's token does not exist for a user.
        let context = choice.login.clone().map(|login| ContextLogin { is_first: true, ..login });
        let login = ClientLoginArgs { context, ..ClientLoginArgs::default() };
        let revoked = async { revoke(&connect(&choice.cluster, &choice.tls, &login).await?, Some(id.as_str())).await };
        match revoked.await {
            // It had been revoked, or had expired.
            Err(error) if error.code == Code::Unauthenticated => {}
            Err(error) => {
                return Err(error.at(format!(
                    "the token is removed from the context {name}, but still valid (`volley token revoke {id}` ends it)"
                )));
            }
            Ok(()) => {}
        }
    }
    let answer = json!({ "context": name, "user": before.user, "revoked": before.token_id });
    if json { output::json(&answer) } else { output::line(logged_out(&answer, before.token.is_some())) }
}

fn logged_out(answer: &Value, had_token: bool) -> String {
    let of = |key: &str| cell(key, &answer[key]);
    let token = match of("revoked") {
        id if !id.is_empty() => format!("; its token {id} is revoked"),
        _ if had_token => "; its token, which `volley login` did not create, stays valid".into(),
        _ => String::new(),
    };
    format!("logged out of {}{token}", of("context"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_says_who_where_and_how_long() {
        let mut answer = json!({
            "context": "prod", "cluster": ["grpc+tls://a:1", "grpc+tls://b:1"], "user": "ana", "open": false,
            "token_id": "00ab00ab00ab00ab", "token_expires_ms": 1_700_000_000_123_u64,
        });
        let text = "prod is the current context: grpc+tls://a:1, grpc+tls://b:1, as ana with the token 00ab00ab00ab00ab, valid until 2023-11-14 22:13:20 UTC";
        assert_eq!(logged_in(&answer), text);
        answer = json!({ "context": "dev", "cluster": ["grpc://a:1"], "user": null, "open": true });
        assert_eq!(logged_in(&answer), "dev is the current context: grpc://a:1, which has no users, as nobody");
    }

    #[test]
    fn logout_says_what_stays_valid() {
        let answer = |id: Value| json!({ "context": "prod", "user": "ana", "revoked": id });
        assert_eq!(logged_out(&answer(json!("00ab")), true), "logged out of prod; its token 00ab is revoked");
        assert!(logged_out(&answer(Value::Null), true).ends_with("stays valid"));
        assert_eq!(logged_out(&answer(Value::Null), false), "logged out of prod");
    }

    #[test]
    fn refused_caller_without_a_login_is_told_the_ways() {
        let refused = || Error::unauthenticated("who are you?");
        assert!(with_ways(refused(), &LoginChoice::None).message.contains("--user NAME"));
        assert_eq!(with_ways(refused(), &LoginChoice::Token(Secret::new("t"))), refused());
    }
}
