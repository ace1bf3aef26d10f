//! Secrets where they do not belong in an argument or a variable: they are refused, and never repeated.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::path::Path;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};
use volley_common::identity::check_principal_name;
use volley_common::{Error, Result};

/// Why there is no --password.
pub const REFUSED_PASSWORD: &str = "passwords are not taken from the command line, where others can read them: type it at the prompt, or set VOLLEY_PASSWORD";

const COLON: &str = "a user's name has no colon; the password comes from a prompt or VOLLEY_PASSWORD";

/// Parses the value of --password: refuses it. An error of a function would be shown with the value.
#[derive(Clone, Debug)]
pub struct RefusedPasswordParser;

impl TypedValueParser for RefusedPasswordParser {
    type Value = Infallible;

    fn parse_ref(&self, cmd: &Command, _arg: Option<&Arg>, _value: &OsStr) -> Result<Infallible, clap::Error> {
        Err(unshown(cmd, REFUSED_PASSWORD))
    }
}

/// Parses a user's name. What is none is not shown: it may be `name:password`.
#[derive(Clone, Debug)]
pub struct UserNameParser;

impl TypedValueParser for UserNameParser {
    type Value = String;

    fn parse_ref(&self, cmd: &Command, _arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        let name = value.to_str().ok_or_else(|| unshown(cmd, "a user's name is UTF-8"))?;
        let checked = check_user_name(name).and_then(|()| check_principal_name(name));
        checked.map(|()| name.to_string()).map_err(|e| unshown(cmd, &e.message))
    }
}

/// An error of the command line without the value.
fn unshown(cmd: &Command, why: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::InvalidValue, format!("{why}\n")).with_cmd(cmd)
}

/// Checks that a user's name is not followed by its password.
///
/// # Errors
/// INVALID_ARGUMENT, without the name.
pub fn check_user_name(name: &str) -> Result<()> {
    if name.contains(':') { Err(Error::invalid(COLON)) } else { Ok(()) }
}

/// Checks that an address has no user and password, as in `grpc://user:password@host:8815`.
///
/// # Errors
/// INVALID_ARGUMENT, without the address.
pub fn check_address(address: &str) -> Result<()> {
    match address.contains('@') {
        true => Err(Error::invalid(
            "an address has no user and password: log in by --user NAME, with the password at the prompt or in VOLLEY_PASSWORD, or by --token-file FILE",
        )),
        false => Ok(()),
    }
}

/// Checks that the path of a token's file is not the token.
///
/// # Errors
/// INVALID_ARGUMENT, without the path.
pub fn check_token_path(path: &Path) -> Result<()> {
    match path.to_str().is_some_and(is_token) {
        true => Err(Error::invalid("this is a token, not a file: put it into a file or VOLLEY_TOKEN")),
        false => Ok(()),
    }
}

/// Whether a text looks like a service token, or a JWT, whose header begins with `{"`.
fn is_token(text: &str) -> bool {
    let text = text.trim();
    let is_service_token = text.starts_with("volley_") && text.len() > 30;
    let is_jwt = text.starts_with("eyJ") && text.len() > 30 && text.matches('.').count() == 2;
    (is_service_token || is_jwt) && !text.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_a_password_are_refused_without_it() {
        for address in ["grpc+tls://ana:s3cret@h:8815", "ana:s3cret@h:8815", "grpc://ana:s3/cret@h:1"] {
            let error = check_address(address).map_err(|e| e.message);
            assert!(error.is_err_and(|e| e.contains("no user and password") && !e.contains("s3")), "{address}");
        }
        assert!(check_address("grpc+tls://[::1]:8815").is_ok());
    }

    #[test]
    fn token_instead_of_a_file_is_refused_without_it() {
        let jwt = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbmEifQ.c2VjcmV0";
        for token in ["volley_00ab00ab00ab00ab_secret-secret-secret", jwt] {
            let error = check_token_path(Path::new(token)).map_err(|e| e.message);
            assert!(error.is_err_and(|e| e.contains("not a file") && !e.contains(token)), "{token}");
        }
        let files =
            ["token", "volley_token", "a.b.c", "eyJ.b.c", "/run/secrets/volley_of_the_nightly_job_of_etl/token"];
        for file in files {
            assert!(check_token_path(Path::new(file)).is_ok(), "{file}");
        }
    }
}
