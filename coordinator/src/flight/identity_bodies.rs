//! The JSON bodies of the actions on users, tokens, grants and quotas. No error repeats a value of a body that may have a
//! password.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use volley_common::expectation::in_plain_words;
use volley_common::identity::Secret;
use volley_common::options::fields::cut;
use volley_common::wire::catalog::Role;
use volley_common::{Error, Result, TableName};

use crate::service::identity::{GrantRequest, PasswordChange};

/// Parses a body that has a password. A misplaced value may be it, so errors name keys only.
///
/// # Errors
/// INVALID_ARGUMENT, naming the action and the unknown or missing key.
pub fn parse_with_password<T: DeserializeOwned>(action: &str, body: &[u8]) -> Result<T> {
    let refused = |why: String| Error::invalid(format!("the body of {action}: {}", cut(&why)));
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| refused(format!("no valid JSON at line {} column {}", e.line(), e.column())))?;
    if !value.is_object() {
        return Err(refused("it is no JSON object".into()));
    }
    serde_json::from_value(value).map_err(|e| refused(in_plain_words(&e)))
}

/// A password: any text.
struct Password(Secret);

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Password(Secret::new(text))),
            _ => Err(D::Error::custom("the \"password\" is no text")),
        }
    }
}

/// A name or a list of names in a body that has a password: of another type, it is not repeated.
fn plain_text<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        _ => Err(D::Error::custom("the \"user\" is no text")),
    }
}

fn plain_texts<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    let refused = || D::Error::custom("the \"groups\" are no list of texts");
    let Value::Array(values) = Value::deserialize(deserializer)? else { return Err(refused()) };
    let text = |value| if let Value::String(text) = value { Ok(text) } else { Err(refused()) };
    values.into_iter().map(text).collect()
}

fn plain_choice<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<bool>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(choice) => Ok(Some(choice)),
        _ => Err(D::Error::custom("\"revoke_tokens\" is neither true nor false")),
    }
}

/// `create_user`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUserBody {
    /// The user's name.
    #[serde(deserialize_with = "plain_text")]
    pub user: String,
    #[serde(default)]
    password: Option<Password>,
    /// Its groups.
    #[serde(default, deserialize_with = "plain_texts")]
    pub groups: Vec<String>,
}

impl CreateUserBody {
    /// The password, if the user gets one.
    pub fn password(&self) -> Option<Secret> {
        self.password.as_ref().map(|password| password.0.clone())
    }
}

/// `set_password`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPasswordBody {
    /// The user's name.
    #[serde(deserialize_with = "plain_text")]
    pub user: String,
    password: Password,
    #[serde(default)]
    old_password: Option<Password>,
    #[serde(default, deserialize_with = "plain_choice")]
    revoke_tokens: Option<bool>,
}

impl SetPasswordBody {
    /// The change that it asks for.
    pub fn into_change(self) -> PasswordChange {
        let SetPasswordBody { user, password, old_password, revoke_tokens } = self;
        let old_password = old_password.map(|password| password.0);
        PasswordChange { user, password: password.0, old_password, revoke_tokens }
    }
}

/// `set_groups`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetGroupsBody {
    /// The user's name.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
}

/// `remove_user`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveUserBody {
    /// The user's name.
    pub user: String,
}

/// `create_token`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTokenBody {
    /// The user's name; the caller's, if missing.
    #[serde(default)]
    pub user: Option<String>,
    /// How long the token lives, seconds.
    pub ttl_s: u64,
    /// What the token is for.
    #[serde(default)]
    pub name: String,
}

/// `list_tokens`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListTokensBody {
    /// The user's name.
    #[serde(default)]
    pub user: Option<String>,
}

/// `revoke_token`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeTokenBody {
    /// The token's id.
    pub id: String,
}

/// `grant` and `revoke`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantBody {
    role: String,
    prefix: String,
    to: String,
    /// Only of `grant`.
    #[serde(default)]
    columns: Option<Vec<String>>,
}

impl GrantBody {
    /// The request of `grant`. The catalog checks the receiver, and what excludes each other.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown role, or a prefix that is none.
    pub fn to_grant(&self) -> Result<GrantRequest> {
        let columns = self.columns.clone().unwrap_or_default();
        if self.columns.is_some() && columns.is_empty() {
            return Err(Error::invalid(
                "\"columns\" is empty: name the columns to grant, or leave it out to grant all",
            ));
        }
        Ok(GrantRequest {
            role: parse_role(&self.role)?,
            prefix: parse_prefix(&self.prefix)?,
            to: self.to.clone(),
            columns,
        })
    }

    /// The request of `revoke`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown role, a prefix that is none, or columns.
    pub fn to_revoke(&self) -> Result<GrantRequest> {
        if self.columns.is_some() {
            return Err(Error::invalid(
                "revoke takes the whole grant: leave \"columns\" out, and grant again with those that remain",
            ));
        }
        self.to_grant()
    }
}

/// `list_grants`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListGrantsBody {
    #[serde(default)]
    prefix: Option<String>,
    /// `user:NAME` or `group:NAME`: whose grants.
    #[serde(default)]
    pub of: Option<String>,
}

impl ListGrantsBody {
    /// The components of the prefix; none: the whole cluster.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not a prefix.
    pub fn prefix(&self) -> Result<Vec<String>> {
        self.prefix.as_deref().map_or(Ok(Vec::new()), parse_prefix)
    }
}

/// `list_quotas`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixBody {
    #[serde(default)]
    prefix: Option<String>,
}

impl PrefixBody {
    /// The components of the prefix; none: the whole cluster.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not a prefix.
    pub fn prefix(&self) -> Result<Vec<String>> {
        self.prefix.as_deref().map_or(Ok(Vec::new()), parse_prefix)
    }
}

/// `set_quota`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetQuotaBody {
    prefix: String,
    /// The most bytes.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// The most tables.
    #[serde(default)]
    pub tables: Option<u32>,
}

impl SetQuotaBody {
    /// The components of the prefix; none: the whole cluster.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not a prefix.
    pub fn prefix(&self) -> Result<Vec<String>> {
        parse_prefix(&self.prefix)
    }
}

/// The components of `/`, `sales`, `sales/` or `sales/eu`.
///
/// # Errors
/// INVALID_ARGUMENT: not a prefix.
fn parse_prefix(text: &str) -> Result<Vec<String>> {
    if text == "/" {
        return Ok(Vec::new());
    }
    if text.is_empty() {
        return Err(Error::invalid(
            "the \"prefix\" is empty: give / for the whole cluster, or the first components of names",
        ));
    }
    let name: TableName = text.strip_suffix('/').unwrap_or(text).parse().map_err(|e: Error| {
        e.at(format_args!("the prefix {:?}: give / for the whole cluster, or components as in sales/eu", cut(text)))
    })?;
    Ok(name.components().to_vec())
}

fn parse_role(text: &str) -> Result<Role> {
    Ok(match text {
        "reader" => Role::Reader,
        "writer" => Role::Writer,
        "owner" => Role::Owner,
        "operator" => Role::Operator,
        "admin" => Role::Admin,
        _ => {
            return Err(Error::invalid(format!(
                "there is no role {:?}: it is reader, writer, owner, operator or admin",
                cut(text)
            )));
        }
    })
}

#[cfg(test)]
mod tests;
