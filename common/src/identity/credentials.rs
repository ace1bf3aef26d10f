//! What a client presents with a call: headers, or the payload of a Handshake.
//!
//! Flight clients have two ways to authenticate. Newer ones send `authorization`, as HTTP clients do. Older ones send user
//! and password in the payload of a Handshake, and what they receive in `auth-token-bin` with every call.

use arrow_flight::BasicAuth;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use prost::Message;

use super::secret::Secret;
use crate::{Error, Result};

/// The header of Flight's older authentication: the token as binary metadata.
pub const AUTH_TOKEN_HEADER: &str = "auth-token-bin";

/// Base64 with padding or without: ADBC and gRPC leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The error for a client that logs in with its certificate alone.
pub fn certificate_needs_no_token(name: &str) -> Error {
    Error::precondition(format!(
        "the client certificate of {name:?} identifies every call, so that it needs no Handshake and no token: leave the login out"
    ))
}

/// What a client presented with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A user and its password.
    Basic {
        /// The user's name; not empty.
        user: String,
        /// The password; may be empty.
        password: Secret,
    },
    /// A session token, a service token, or the token of an OIDC issuer.
    Bearer(Secret),
}

impl Credentials {
    /// Those of `authorization: Basic ...` or `authorization: Bearer ...`, or of `auth-token-bin`.
    ///
    /// # Errors
    /// UNAUTHENTICATED: a header with something else, twice, or malformed; two headers that differ. The text shows nothing of
    /// the header.
    pub fn of_headers(headers: &HeaderMap) -> Result<Self> {
        let authorization = single(headers, AUTHORIZATION.as_str())?.map(of_authorization).transpose()?;
        let token = match single(headers, AUTH_TOKEN_HEADER)? {
            Some(value) => of_auth_token(value)?,
            None => Credentials::None,
        };
        match (authorization, token) {
            (None, token) => Ok(token),
            (Some(given), Credentials::None) => Ok(given),
            (Some(given), token) if given == token => Ok(given),
            (Some(_), _) => Err(Error::unauthenticated(format!(
                "the headers authorization and {AUTH_TOKEN_HEADER} have different credentials: send one of them"
            ))),
        }
    }

    /// Those of the payload of a Handshake: protobuf `BasicAuth {2: username, 3: password}`. [`Credentials::None`] if it is
    /// empty, as it is from clients that send headers.
    ///
    /// # Errors
    /// UNAUTHENTICATED: another message, or no user name.
    pub fn of_handshake_payload(payload: &[u8]) -> Result<Self> {
        if payload.is_empty() {
            return Ok(Credentials::None);
        }
        // The error of prost is left out: it could show a part of the password.
        let auth = BasicAuth::decode(payload).ok().filter(|auth| !auth.username.is_empty());
        let auth = auth.ok_or_else(|| {
            Error::unauthenticated(
                "the payload of the Handshake is no BasicAuth with a user name: send user and password in it, or an empty one and the header authorization",
            )
        })?;
        Ok(Credentials::Basic { user: auth.username, password: Secret::new(auth.password) })
    }
}

/// The value of a header that may be given once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Error::unauthenticated(format!("the header {name} is given twice: send it once"))),
        (value, None) => Ok(value),
    }
}

fn of_authorization(value: &HeaderValue) -> Result<Credentials> {
    let malformed = |why: &str| Error::unauthenticated(format!("the header authorization is malformed: {why}"));
    // A header without a scheme may be a token: no text shows what is in its place.
    let (scheme, rest) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or_else(|| {
        malformed("send `Basic` and base64 of USER:PASSWORD, or `Bearer` and a token, with a blank between")
    })?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        if rest.is_empty() || rest.contains(' ') {
            return Err(malformed("`Bearer` is followed by one token"));
        }
        return Ok(Credentials::Bearer(Secret::new(rest)));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed("its scheme is neither Basic nor Bearer"));
    }
    let bytes = BASE64.decode(rest).map_err(|_| malformed("`Basic` is not followed by base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| malformed("user and password are not UTF-8"))?;
    match text.split_once(':') {
        None => Err(malformed("there is no colon between user and password")),
        Some(("", _)) => Err(malformed("there is no user name")),
        Some((user, password)) => Ok(Credentials::Basic { user: user.to_string(), password: Secret::new(password) }),
    }
}

/// The token of `auth-token-bin`. Clients of the older authentication send it empty until they have one.
fn of_auth_token(value: &HeaderValue) -> Result<Credentials> {
    let bytes = BASE64.decode(value.as_bytes()).ok();
    let token = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
        Error::unauthenticated(format!("the header {AUTH_TOKEN_HEADER} is malformed: send the token of the Handshake"))
    })?;
    Ok(if token.is_empty() { Credentials::None } else { Credentials::Bearer(Secret::new(token)) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    fn of(headers: &[(&'static str, &str)]) -> Result<Credentials> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Credentials::of_headers(&map)
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.into(), password: Secret::new(password) }
    }

    fn bearer(token: &str) -> Credentials {
        Credentials::Bearer(Secret::new(token))
    }

    fn refusal(headers: &[(&'static str, &str)]) -> String {
        let error = of(headers).unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        error.message
    }

    #[test]
    fn basic_is_read_with_and_without_padding_in_any_case() {
        // ann:pass
        for value in ["Basic YW5uOnBhc3M=", "basic YW5uOnBhc3M", "BASIC   YW5uOnBhc3M= "] {
            assert_eq!(of(&[("authorization", value)]).unwrap(), basic("ann", "pass"), "{value}");
        }
        let colons = format!("Basic {}", BASE64.encode("ann:p:w:"));
        assert_eq!(of(&[("authorization", &colons)]).unwrap(), basic("ann", "p:w:"));
        let empty = format!("Basic {}", BASE64.encode("ann:"));
        assert_eq!(of(&[("authorization", &empty)]).unwrap(), basic("ann", ""));
    }

    #[test]
    fn bearer_is_read_from_both_headers() {
        assert_eq!(of(&[]).unwrap(), Credentials::None);
        assert_eq!(of(&[("authorization", "Bearer abc")]).unwrap(), bearer("abc"));
        assert_eq!(of(&[("authorization", "bearer  abc")]).unwrap(), bearer("abc"));
        // abc is YWJj, abcd is YWJjZA==.
        assert_eq!(of(&[("auth-token-bin", "YWJj")]).unwrap(), bearer("abc"));
        assert_eq!(of(&[("auth-token-bin", "YWJjZA")]).unwrap(), bearer("abcd"));
        assert_eq!(of(&[("auth-token-bin", "YWJjZA==")]).unwrap(), bearer("abcd"));
        assert_eq!(of(&[("auth-token-bin", "")]).unwrap(), Credentials::None);
    }

    #[test]
    fn two_headers_must_agree() {
        assert_eq!(of(&[("authorization", "Bearer abc"), ("auth-token-bin", "YWJj")]).unwrap(), bearer("abc"));
        assert_eq!(of(&[("authorization", "Bearer abc"), ("auth-token-bin", "")]).unwrap(), bearer("abc"));
        assert!(refusal(&[("authorization", "Bearer abc"), ("auth-token-bin", "YWJjZA")]).contains("different"));
        assert!(refusal(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]).contains("twice"));
        assert!(refusal(&[("auth-token-bin", "YWJj"), ("auth-token-bin", "YWJj")]).contains("twice"));
    }

    #[test]
    fn malformed_header_is_refused_and_not_shown() {
        let no_colon = format!("Basic {}", BASE64.encode("hunter2"));
        let no_user = format!("Basic {}", BASE64.encode(":hunter2"));
        let not_utf8 = format!("Basic {}", BASE64.encode(b"ann:hunter2\xff"));
        let two_values = format!("Basic {}, Bearer hunter2", BASE64.encode("ann:pass"));
        let values = ["hunter2", "Bearer", "Bearer ", "Bearer hunter2 b", "hunter2 abc", "Basic hunter2!", "", " "];
        for value in values.into_iter().chain([&*no_colon, &*no_user, &*not_utf8, &*two_values]) {
            let text = refusal(&[("authorization", value)]);
            assert!(text.contains("authorization") && !text.contains("hunter"), "{value}: {text}");
        }
        for value in ["hunter2!", "aHVudGVyMg==,aHVudGVyMg==", "/////w=="] {
            let text = refusal(&[("auth-token-bin", value)]);
            assert!(text.contains("auth-token-bin") && !text.contains("hunter"), "{value}: {text}");
        }
    }

    #[test]
    fn handshake_payload_has_user_and_password() {
        let auth = BasicAuth { username: "ann".into(), password: "hunter2!".into() };
        assert_eq!(Credentials::of_handshake_payload(&auth.encode_to_vec()).unwrap(), basic("ann", "hunter2!"));
        assert_eq!(Credentials::of_handshake_payload(b"").unwrap(), Credentials::None);
        let nobody = BasicAuth { username: String::new(), password: "hunter2!".into() }.encode_to_vec();
        for payload in [&b"hunter2!"[..], nobody.as_slice(), b"\x12\x05an", b"\x12\x02\xff\xff"] {
            let error = Credentials::of_handshake_payload(payload).unwrap_err();
            assert_eq!((error.code, error.message.contains("hunter")), (Code::Unauthenticated, false));
        }
    }

    #[test]
    fn debug_of_credentials_shows_no_secret() {
        let text = format!("{:?} {:?}", basic("ann", "hunter2!"), bearer("hunter2!"));
        assert!(text.contains("ann") && !text.contains("hunter"), "{text}");
    }
}
