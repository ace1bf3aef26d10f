//! The flags and variables by which all commands log in at the cluster.

use std::convert::Infallible;
use std::path::PathBuf;

use volley_client::ClientLogin;
use volley_common::identity::Secret;
use volley_common::tls::ClientTls;
use volley_common::{Error, Result};

use crate::prompt;
use crate::secret_arguments::{REFUSED_PASSWORD, RefusedPasswordParser, check_token_path, check_user_name};

const USER_VAR: &str = "VOLLEY_USER";
/// The environment variable with the password of the login.
pub const PASSWORD_VAR: &str = "VOLLEY_PASSWORD";
const TOKEN_VAR: &str = "VOLLEY_TOKEN";
const TOKEN_FILE_VAR: &str = "VOLLEY_TOKEN_FILE";
const PLAINTEXT_VAR: &str = "VOLLEY_PLAINTEXT_LOGIN";

/// How commands log in. Flags override variables, and variables the context; a cluster without users needs neither.
#[derive(Debug, Default, clap::Args)]
pub struct ClientLoginArgs {
    /// Log in as this user, with the password in VOLLEY_PASSWORD or typed at a prompt [env: VOLLEY_USER].
    #[arg(long = "user", global = true, value_name = "NAME", help_heading = "Login")]
    pub login_user: Option<String>,
    /// Log in with the token in this file [env: VOLLEY_TOKEN_FILE; VOLLEY_TOKEN has a token itself].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Login")]
    pub token_file: Option<PathBuf>,
    /// Send passwords and tokens to other machines without TLS too. Only for trusted networks [env: VOLLEY_PLAINTEXT_LOGIN].
    #[arg(long, global = true, help_heading = "Login")]
    pub plaintext_login: bool,
    /// Refused, with the reason, whether or not a value follows.
    #[arg(long, global = true, hide = true, allow_hyphen_values = true, value_parser = RefusedPasswordParser)]
    pub password: Option<Option<Infallible>>,
    /// The login of the context that the command uses.
    #[arg(skip)]
    pub context: Option<ContextLogin>,
}

/// The login that a context has.
#[derive(Clone, Debug)]
pub struct ContextLogin {
    /// The addresses of the context: its login is for no other ones.
    pub cluster: String,
    /// The context's token.
    pub token: Option<Secret>,
    /// The context's file with a token.
    pub token_file: Option<PathBuf>,
    /// Whether it goes to other machines without TLS, too.
    pub allows_plaintext: bool,
    /// Whether it overrides variables, because a flag named the context.
    pub is_first: bool,
}

/// What flags, variables and the context say.
#[derive(Debug, PartialEq, Eq)]
pub enum LoginChoice {
    /// Nothing.
    None,
    /// A user with its password; it is prompted for if there is none.
    User(String, Option<Secret>),
    /// A token.
    Token(Secret),
    /// A file with a token.
    TokenFile(PathBuf),
}

impl ContextLogin {
    fn choice(&self) -> Option<LoginChoice> {
        let token = self.token.clone().map(LoginChoice::Token);
        token.or_else(|| self.token_file.clone().map(LoginChoice::TokenFile))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl ClientLoginArgs {
    /// The login at `cluster`. Prompts for the password if it is needed, and the login is possible there.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: contradicting flags or variables; no password and no terminal; the login would go to another machine
    /// without TLS. CANCELLED: Ctrl-C at the prompt.
    pub async fn login(&self, cluster: &str, tls: &ClientTls) -> Result<ClientLogin> {
        let allow_plaintext = self.allows_plaintext(cluster, variable)?;
        let login = match self.choice(cluster, variable)? {
            LoginChoice::None => ClientLogin::none(),
            LoginChoice::Token(token) => ClientLogin::token(token),
            LoginChoice::TokenFile(path) => ClientLogin::token_file(path),
            LoginChoice::User(user, Some(password)) => ClientLogin::password(user, password),
            LoginChoice::User(user, None) => {
                // Before a password is typed that could not be sent.
                let login = |password| ClientLogin::password(user.clone(), password).allow_plaintext(allow_plaintext);
                login(Secret::new("")).check_address(cluster, tls)?;
                login(prompt::password(&format!("Password of {user}: "), PASSWORD_WAYS).await?)
            }
        };
        Ok(login.allow_plaintext(allow_plaintext))
    }

    /// By what these commands log in at `cluster`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: contradicting flags or variables.
    pub fn chosen(&self, cluster: &str) -> Result<LoginChoice> {
        self.choice(cluster, variable)
    }

    /// Whether tokens may go to other machines without TLS.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: VOLLEY_PLAINTEXT_LOGIN is neither true nor false.
    pub fn sends_plaintext(&self, cluster: &str) -> Result<bool> {
        self.allows_plaintext(cluster, variable)
    }

    /// The context, if its login is for this cluster.
    fn context_of(&self, cluster: &str) -> Option<&ContextLogin> {
        self.context.as_ref().filter(|context| context.cluster == cluster)
    }

    fn choice(&self, cluster: &str, variable: impl Fn(&str) -> Option<String>) -> Result<LoginChoice> {
        let context = self.context_of(cluster);
        if self.password.is_some() {
            return Err(Error::invalid(REFUSED_PASSWORD));
        }
        let with_password = |user: &str| -> Result<LoginChoice> {
            check_user_name(user)?;
            Ok(LoginChoice::User(user.into(), variable(PASSWORD_VAR).map(Secret::new)))
        };
        let token_file = |path: PathBuf| -> Result<LoginChoice> {
            check_token_path(&path)?;
            Ok(LoginChoice::TokenFile(path))
        };
        match (&self.login_user, &self.token_file) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("--user and --token-file are two ways to log in: give one of them"));
            }
            (Some(user), None) => return with_password(user),
            (None, Some(path)) => return token_file(path.clone()),
            (None, None) => {}
        }
        if let Some(choice) = context.filter(|context| context.is_first).and_then(ContextLogin::choice) {
            return Ok(choice);
        }
        let ways = [
            variable(USER_VAR).map(|user| (USER_VAR, with_password(&user))),
            variable(TOKEN_VAR).map(|token| (TOKEN_VAR, Ok(LoginChoice::Token(Secret::new(token))))),
            variable(TOKEN_FILE_VAR).map(|path| (TOKEN_FILE_VAR, token_file(path.into()))),
        ];
        let mut ways = ways.into_iter().flatten();
        let has_password = variable(PASSWORD_VAR).is_some();
        let Some((first, choice)) = ways.next() else {
            return match has_password {
                true => Err(Error::invalid(format!(
                    "{PASSWORD_VAR} is set, but no user: add --user NAME, or set {USER_VAR}"
                ))),
                false => Ok(context.and_then(ContextLogin::choice).unwrap_or(LoginChoice::None)),
            };
        };
        // A password is of a user: with a token it has no effect.
        let unused_password = (first != USER_VAR && has_password).then_some(PASSWORD_VAR);
        match ways.next().map(|(second, _)| second).or(unused_password) {
            Some(second) => Err(Error::invalid(format!(
                "{first} and {second} are both set: unset one of them, or override both by --user or --token-file"
            ))),
            None => choice,
        }
    }

    fn allows_plaintext(&self, cluster: &str, variable: impl Fn(&str) -> Option<String>) -> Result<bool> {
        let of_context = self.context_of(cluster).is_some_and(|context| context.allows_plaintext);
        let value = variable(PLAINTEXT_VAR).map(|value| value.to_ascii_lowercase());
        match value.as_deref() {
            _ if self.plaintext_login => Ok(true),
            None => Ok(of_context),
            Some("false" | "no" | "off" | "0") => Ok(false),
            Some("true" | "yes" | "on" | "1") => Ok(true),
            Some(other) => Err(Error::invalid(format!("{PLAINTEXT_VAR} is {other:?}: set it to true or false"))),
        }
    }
}

/// How a password is given without a terminal.
const PASSWORD_WAYS: &str = "set VOLLEY_PASSWORD, or log in with a token, by --token-file FILE or VOLLEY_TOKEN";

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "grpc://127.0.0.1:1";

    fn choice(user: Option<&str>, file: Option<&str>, variables: &[(&str, &str)]) -> Result<LoginChoice, String> {
        let args = ClientLoginArgs {
            login_user: user.map(String::from),
            token_file: file.map(PathBuf::from),
            ..ClientLoginArgs::default()
        };
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        args.choice(CLUSTER, variable).map_err(|e| e.message)
    }

    fn user(name: &str, password: Option<&str>) -> Result<LoginChoice, String> {
        Ok(LoginChoice::User(name.into(), password.map(Secret::new)))
    }

    #[test]
    fn flags_override_variables() {
        let variables = [(USER_VAR, "env"), (PASSWORD_VAR, "pw"), (TOKEN_VAR, "t"), (TOKEN_FILE_VAR, "f")];
        assert_eq!(choice(Some("ana"), None, &variables), user("ana", Some("pw")));
        assert_eq!(choice(None, Some("file"), &variables), Ok(LoginChoice::TokenFile("file".into())));
        assert_eq!(choice(None, None, &variables[..2]), user("env", Some("pw")));
        assert_eq!(choice(None, None, &variables[..1]), user("env", None));
        assert_eq!(choice(None, None, &variables[2..3]), Ok(LoginChoice::Token(Secret::new("t"))));
        assert_eq!(choice(None, None, &variables[3..]), Ok(LoginChoice::TokenFile("f".into())));
        assert_eq!(choice(None, None, &[]), Ok(LoginChoice::None));
    }

    #[test]
    fn two_ways_to_log_in_are_named() {
        assert!(choice(Some("ana"), Some("file"), &[]).is_err_and(|e| e.contains("--user and --token-file")));
        let both = choice(None, None, &[(USER_VAR, "ana"), (TOKEN_VAR, "secret")]);
        assert!(both.is_err_and(|e| e.contains("VOLLEY_USER and VOLLEY_TOKEN") && !e.contains("secret")));
        assert!(choice(None, None, &[(PASSWORD_VAR, "secret")]).is_err_and(|e| e.contains("--user NAME")));
        for token in [TOKEN_VAR, TOKEN_FILE_VAR] {
            let both = choice(None, None, &[(token, "t"), (PASSWORD_VAR, "secret")]);
            let text = format!("{token} and VOLLEY_PASSWORD are both set");
            assert!(both.is_err_and(|e| e.contains(&text) && !e.contains("secret")), "{token}");
        }
    }

    #[test]
    fn secrets_in_place_of_names_and_files_are_not_repeated() {
        let token = "volley_00ab00ab00ab00ab_secret-secret-secret";
        for refused in [
            choice(Some("ana:secret"), None, &[]),
            choice(None, None, &[(USER_VAR, "ana:secret")]),
            choice(None, Some(token), &[]),
            choice(None, None, &[(TOKEN_FILE_VAR, token)]),
        ] {
            assert!(refused.is_err_and(|e| e.contains("VOLLEY_") && !e.contains("secret")));
        }
    }

    #[test]
    fn plaintext_is_allowed_by_flag_or_variable() {
        let allows = |flag: bool, value: Option<&str>| {
            let args = ClientLoginArgs { plaintext_login: flag, ..ClientLoginArgs::default() };
            args.allows_plaintext(CLUSTER, |name| value.filter(|_| name == PLAINTEXT_VAR).map(String::from))
        };
        assert_eq!(allows(false, None), Ok(false));
        assert_eq!(allows(true, Some("false")), Ok(true));
        assert_eq!(allows(false, Some("TRUE")), Ok(true));
        assert!(allows(false, Some("maybe")).is_err_and(|e| e.message.contains("true or false")));
    }

    #[test]
    fn login_of_a_context_is_for_its_addresses_only() {
        let context = |is_first: bool| ContextLogin {
            cluster: CLUSTER.into(),
            token: Some(Secret::new("of the context")),
            token_file: None,
            allows_plaintext: true,
            is_first,
        };
        let of = |is_first: bool, cluster: &str, variables: &[(&str, &str)]| {
            let args = ClientLoginArgs { context: Some(context(is_first)), ..ClientLoginArgs::default() };
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
            (args.choice(cluster, variable).unwrap(), args.allows_plaintext(cluster, variable).unwrap())
        };
        let token = |text: &str| LoginChoice::Token(Secret::new(text));
        assert_eq!(of(false, CLUSTER, &[]), (token("of the context"), true));
        assert_eq!(of(false, "grpc://127.0.0.1:2", &[]), (LoginChoice::None, false));
        let variables = [(TOKEN_VAR, "of the variable")];
        assert_eq!(of(false, CLUSTER, &variables), (token("of the variable"), true));
        assert_eq!(of(true, CLUSTER, &variables), (token("of the context"), true));
        assert_eq!(of(true, CLUSTER, &[(PLAINTEXT_VAR, "no")]), (token("of the context"), false));
    }
}
