//! Who a client's user is, how it proves that, and over which connections.

use std::path::PathBuf;

use http::HeaderValue;
use volley_common::identity::{Secret, check_principal_name};
use volley_common::tls::ClientTls;
use volley_common::{Error, Result};

use super::address::{dial_target, is_loopback, split_addresses};

/// How a client logs in. The default does not, which an open cluster allows.
#[derive(Clone, Debug, Default)]
pub struct ClientLogin {
    credentials: LoginCredentials,
    allow_plaintext: bool,
}

/// What a client proves its user by.
#[derive(Clone, Debug, Default)]
pub(super) enum LoginCredentials {
    /// Nothing.
    #[default]
    None,
    /// The password of a user, which is exchanged for session tokens.
    Password { user: String, password: Secret },
    /// A token that every call carries.
    Token(Secret),
    /// The same, in a file that may be replaced.
    TokenFile(PathBuf),
}

impl ClientLogin {
    /// No login.
    pub fn none() -> Self {
        ClientLogin::default()
    }

    /// A user of the catalog with a password: the client logs in at its first call, and again before its session ends.
    pub fn password(user: impl Into<String>, password: Secret) -> Self {
        ClientLogin::of(LoginCredentials::Password { user: user.into(), password })
    }

    /// A token that every call carries: a service token, a session token, or one of an OIDC issuer.
    pub fn token(token: Secret) -> Self {
        ClientLogin::of(LoginCredentials::Token(token))
    }

    /// The same, in a file, which is read again when it has changed.
    pub fn token_file(path: impl Into<PathBuf>) -> Self {
        ClientLogin::of(LoginCredentials::TokenFile(path.into()))
    }

    fn of(credentials: LoginCredentials) -> Self {
        ClientLogin { credentials, allow_plaintext: false }
    }

    /// Whether passwords and tokens may also go to other machines without TLS. Only for trusted networks.
    #[must_use]
    pub fn allow_plaintext(self, allow_plaintext: bool) -> Self {
        ClientLogin { allow_plaintext, ..self }
    }

    /// Whether there is no login.
    pub fn is_none(&self) -> bool {
        matches!(self.credentials, LoginCredentials::None)
    }

    /// See [`ClientLogin::allow_plaintext`].
    pub(super) fn allows_plaintext(&self) -> bool {
        self.allow_plaintext
    }

    pub(super) fn credentials(&self) -> &LoginCredentials {
        &self.credentials
    }

    /// Checks that a client with these settings may log in at an address, or at each of several separated by commas, without
    /// connecting to it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not an address; a user's name that none can have, or a token that is none; the login would go to another
    /// machine without TLS.
    pub fn check_address(&self, address: &str, tls: &ClientTls) -> Result<()> {
        split_addresses(address).try_for_each(|address| {
            let (addr, is_tls) = dial_target(address, tls.is_set())?;
            self.check_target(&addr, is_tls)
        })
    }

    /// The same for `HOST:PORT`.
    pub(super) fn check_target(&self, addr: &str, is_tls: bool) -> Result<()> {
        match &self.credentials {
            LoginCredentials::None => return Ok(()),
            LoginCredentials::Password { user, .. } => check_principal_name(user)?,
            LoginCredentials::Token(token) => drop(bearer(token).map_err(|e| e.at("the token"))?),
            LoginCredentials::TokenFile(_) => {}
        }
        check_confidential(addr, is_tls, self.allow_plaintext)
    }
}

/// The header `authorization` of a token.
///
/// # Errors
/// INVALID_ARGUMENT, without the token: it is not one.
pub(super) fn bearer(token: &Secret) -> Result<HeaderValue> {
    let token = token.expose().trim();
    let header = match token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.is_empty() {
        true => HeaderValue::try_from(format!("Bearer {token}")).ok(),
        false => None,
    };
    let mut header = header.ok_or_else(|| {
        Error::invalid("it is empty, or has blanks or characters that no token has: give the token alone")
    })?;
    // Not in logs, and not in the compression state of HTTP/2.
    header.set_sensitive(true);
    Ok(header)
}

/// Checks that a password or token may be sent to the server at `HOST:PORT`.
///
/// # Errors
/// INVALID_ARGUMENT: it is another machine, and without TLS whoever is on the way could read it.
pub(super) fn check_confidential(addr: &str, is_tls: bool, allow_plaintext: bool) -> Result<()> {
    if is_tls || allow_plaintext || is_loopback(addr) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "passwords and tokens are not sent to {addr} without TLS, because others on the network could read them: connect by grpc+tls://{addr}, or add --plaintext-login (VOLLEY_PLAINTEXT_LOGIN=true) if the network is trusted"
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    fn password() -> ClientLogin {
        ClientLogin::password("ana", Secret::new("correct horse"))
    }

    #[test]
    fn login_without_tls_is_for_this_machine_only() {
        let ca = ClientTls { ca: Some("ca.crt".into()), ..ClientTls::default() };
        let plain = ClientTls::default();
        for login in [password(), ClientLogin::token(Secret::new("t")), ClientLogin::token_file("f")] {
            let error = login.check_address("grpc://node-1.example:8815", &plain).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            for word in ["grpc+tls://node-1.example:8815", "--plaintext-login", "VOLLEY_PLAINTEXT_LOGIN"] {
                assert!(error.message.contains(word), "{error}");
            }
            login.check_address("grpc://127.0.0.1:8815", &plain).unwrap();
            login.check_address("grpc+tls://node-1.example:8815", &plain).unwrap();
            login.check_address("grpc://node-1.example:8815", &ca).unwrap();
            login.allow_plaintext(true).check_address("grpc://node-1.example:8815", &plain).unwrap();
        }
        ClientLogin::none().check_address("grpc://node-1.example:8815", &plain).unwrap();
    }

    #[test]
    fn user_with_a_colon_is_refused() {
        let login = ClientLogin::password("ana:x", Secret::new("correct horse"));
        assert!(login.check_address("127.0.0.1:1", &ClientTls::default()).is_err(), "Basic ends the name at a colon");
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let logins = [password(), ClientLogin::token(Secret::new("correct horse"))];
        assert!(logins.iter().all(|login| !format!("{login:?}").contains("correct")), "{logins:?}");
    }
}
