//! Who a client has proved to be, and the rules for names.

use crate::{Error, Result};

/// The longest name of a user, a group or a token, bytes.
const MAX_NAME: usize = 128;

/// How a principal proved who it is. The numbers are those of assertions between members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginMethod {
    /// A user's password, which it exchanged for a session token.
    Password = 1,
    /// A service token, or a session token that it was exchanged for.
    ServiceToken = 2,
    /// The certificate of a TLS client.
    Certificate = 3,
    /// A token of an OIDC issuer.
    Oidc = 4,
}

impl LoginMethod {
    /// The name in audit logs and replies: `password`, `service_token`, `certificate`, `oidc`.
    pub fn as_str(self) -> &'static str {
        match self {
            LoginMethod::Password => "password",
            LoginMethod::ServiceToken => "service_token",
            LoginMethod::Certificate => "certificate",
            LoginMethod::Oidc => "oidc",
        }
    }

    /// The method with this number; `None` if it has none, as that of a later version.
    pub fn from_number(number: u32) -> Option<Self> {
        use LoginMethod::{Certificate, Oidc, Password, ServiceToken};
        [Password, ServiceToken, Certificate, Oidc].into_iter().find(|method| *method as u32 == number)
    }
}

/// Who a client has proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user's name, the name in the certificate, or the claim of the OIDC token. Grants to `user:NAME` are its rights,
    /// however it proved its name.
    pub name: String,
    /// The groups of its user in the catalog, or those that its OIDC token claims.
    pub groups: Vec<String>,
    /// How it proved its name.
    pub method: LoginMethod,
    /// What it proved its name by: the id of the service token, or of the key that signed its session token. Never secret; may
    /// be empty.
    pub credential: String,
}

/// Checks the name of a user, a group or a token: 1 to 128 bytes, without control characters, without `:`, which separates a
/// user from its password, and without blanks at the ends.
///
/// # Errors
/// INVALID_ARGUMENT, with what is wrong.
pub fn check_principal_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(format!("the name is empty: give 1 to {MAX_NAME} bytes")));
    }
    if name.len() > MAX_NAME {
        return Err(Error::invalid(format!("the name has {} bytes, more than {MAX_NAME}", name.len())));
    }
    let bad = |why: &str| Err(Error::invalid(format!("the name {name:?} {why}")));
    if name.chars().any(char::is_control) {
        return bad("contains a control character");
    }
    if name.contains(':') {
        return bad("contains a colon, which separates a user from its password");
    }
    if name.trim().len() != name.len() {
        return bad("begins or ends with a blank");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn method_round_trips_through_its_number() {
        for (number, name) in [(1, "password"), (2, "service_token"), (3, "certificate"), (4, "oidc")] {
            let method = LoginMethod::from_number(number).unwrap();
            assert_eq!((method as u32, method.as_str()), (number, name));
        }
        assert_eq!((LoginMethod::from_number(0), LoginMethod::from_number(5)), (None, None));
    }

    #[test]
    fn ordinary_names_are_accepted() {
        for name in ["ann", "ann@example.com", "data team", "Zoë", "a/b", &"x".repeat(MAX_NAME)] {
            check_principal_name(name).unwrap();
        }
    }

    #[test]
    fn name_that_breaks_a_rule_is_refused_with_the_reason() {
        for (name, why) in [
            ("", "is empty"),
            (&*"x".repeat(MAX_NAME + 1), "129 bytes"),
            ("a:b", "colon"),
            ("a\nb", "control character"),
            ("a\0", "control character"),
            (" a", "blank"),
            ("a ", "blank"),
            ("\u{3000}a", "blank"),
        ] {
            let error = check_principal_name(name).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{name:?}");
            assert!(error.message.contains(why), "{name:?}: {error}");
        }
    }
}
