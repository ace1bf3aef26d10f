//! Who calls, and what the caller may do.
//!
//! | module | what it holds |
//! |---|---|
//! | `principal` | whom a client proved to be |
//! | `secret` | strings that are never shown |
//! | `credentials` | what a client presents with a call |
//! | `password` | hashes of passwords |
//! | `service_token` | tokens of services |
//! | `signing_key`, `session_token` | signed tokens of a session, and the keys that sign them |
//! | `jwt` | the parts of a JSON Web Token |
//! | `oidc` | tokens of an OpenID Connect issuer |
//! | `login_throttle` | slows down the guessing of passwords |
//! | `recent_logins` | logins that need not be verified again |
//! | `directory` | the users, tokens, grants and keys that a member knows |
//! | `authenticator` | identifies the caller of a call |
//! | `access` | a principal with its rights |
//! | `assertion` | for whom a member calls another one |
//!
//! Everything here decides from plain data: the time is an argument, and only `oidc` does I/O, to get the keys of its issuer.

mod access;
mod assertion;
mod authenticator;
mod credentials;
mod directory;
mod jwt;
mod login_throttle;
mod oidc;
mod password;
mod principal;
mod recent_logins;
mod secret;
mod service_token;
mod session_token;
mod signing_key;

pub use access::{Access, missing_table};
pub use assertion::{ASSERTION_HEADER, assert_principal, sign_header, signed_bytes};
pub use authenticator::{Authenticator, Identified, IdentityRules, is_public};
pub use credentials::{AUTH_TOKEN_HEADER, Credentials, certificate_needs_no_token};
pub use directory::{Directory, DirectoryHandle};
pub use login_throttle::LoginThrottle;
pub use oidc::{OidcSettings, OidcVerifier};
pub use password::{check_password, hash_password, verify_password};
pub use principal::{
    LoginMethod, MAX_RECEIVER_NAME, Principal, check_principal_name, check_receiver, is_receiver_name,
};
pub use recent_logins::{LoginDigest, RecentLogins};
pub use secret::Secret;
pub use service_token::{matches_service_token, new_service_token, split_service_token};
pub use session_token::{
    MAX_SESSION_MS, RETIRED_KEY_MS, SESSION_TOKEN_MS, SessionClaims, SessionTokenIssuer, is_session_token,
    session_began_ms, verify_session_token,
};
pub use signing_key::{SIGNING_KEY_MS, VerifyingKey, new_signing_key};
