//! Who a client has proved to be, and the rules for names.

use crate::{Error, Result};

/// The longest name of a user, a group or a token, bytes.
const MAX_NAME: usize = 128;
/// The longest name that a grant can be to, bytes: certificates and OIDC issuers have longer names than the catalog.
pub const MAX_RECEIVER_NAME: usize = 256;

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
    /// What it proved its name by: the id of the service token, or of the key that signed the session token of a password; the
    /// fingerprint of the certificate; the issuer of the OIDC token. Never secret; may be empty.
    pub credential: String,
}

impl Principal {
    /// How it came in, for audit logs and replies: `password`, `token:ID`, `certificate:FINGERPRINT`, `oidc:ISSUER`. A session
    /// that a token was exchanged for is that token's.
    pub fn proof(&self) -> String {
        let kind = match self.method {
            // Which key signed the session says nothing about the caller.
            LoginMethod::Password => return "password".into(),
            LoginMethod::ServiceToken => "token",
            LoginMethod::Certificate => "certificate",
            LoginMethod::Oidc => "oidc",
        };
        match self.credential.as_str() {
            // A member of an earlier version does not say it.
            "" => kind.into(),
            credential => format!("{kind}:{credential}"),
        }
    }
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

/// Whether a grant can be to a principal or group of this name: 1 to 256 bytes, without control characters, and without blanks
/// at the ends. Unlike a user's name it may have colons, which URIs in certificates and Kubernetes' service accounts have
/// (`spiffe://example.org/etl`, `system:serviceaccount:jobs:etl`).
pub fn is_receiver_name(name: &str) -> bool {
    let is_long = name.len() > MAX_RECEIVER_NAME;
    !name.is_empty() && !is_long && name.trim() == name && !name.chars().any(char::is_control)
}

/// Checks to whom a grant is: `user:NAME` or `group:NAME`, with a name that [`is_receiver_name`] accepts. The catalog, the
/// command line and the claims of OIDC tokens have the same rule, so that everybody who is identified can get grants.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn check_receiver(to: &str) -> Result<()> {
    let name = to.strip_prefix("user:").or_else(|| to.strip_prefix("group:"));
    match name.filter(|name| is_receiver_name(name)) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!(
            "a grant is to user:NAME or group:NAME, with a name of at most {MAX_RECEIVER_NAME} bytes without control characters and blanks around it, not to {:?}",
            to.chars().take(MAX_RECEIVER_NAME).collect::<String>()
        ))),
    }
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
    fn proof_says_how_the_principal_came_in() {
        let proof = |method, credential: &str| {
            let credential = credential.to_string();
            Principal { name: "ann".into(), groups: Vec::new(), method, credential }.proof()
        };
        assert_eq!(proof(LoginMethod::Password, "id of the signing key"), "password");
        assert_eq!(proof(LoginMethod::ServiceToken, "0123456789abcdef"), "token:0123456789abcdef");
        assert_eq!(proof(LoginMethod::Certificate, "ab12"), "certificate:ab12");
        assert_eq!(proof(LoginMethod::Certificate, ""), "certificate");
        assert_eq!(proof(LoginMethod::Oidc, "https://id.example"), "oidc:https://id.example");
    }

    #[test]
    fn ordinary_names_are_accepted() {
        for name in ["ann", "ann@example.com", "data team", "Zoë", "a/b", &"x".repeat(MAX_NAME)] {
            check_principal_name(name).unwrap();
        }
    }

    #[test]
    fn grant_is_to_every_name_that_a_proof_can_give() {
        let longest = "x".repeat(MAX_RECEIVER_NAME);
        for name in ["ann", "data team", "spiffe://example.org/etl", "system:serviceaccount:jobs:etl", &longest] {
            for kind in ["user", "group"] {
                check_receiver(&format!("{kind}:{name}")).unwrap();
            }
        }
        let too_long = format!("user:{longest}x");
        for to in ["", "ann", "user:", "User:ann", "role:ann", "user: ann", "group:a\nb", "user:a\0", &too_long] {
            let error = check_receiver(to).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{to:?}");
            assert!(error.message.contains("group:NAME") && error.message.len() < 600, "{to:?}: {error}");
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
