//! The parts of a JSON Web Token (RFC 7519) in its compact form: header, payload and signature, each in base64url.
//!
//! Nothing here verifies a signature: the parts tell which key and which rules a token must pass.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Longer texts are no tokens: half of what the headers of a call may have.
const MAX_TOKEN_BYTES: usize = 32 << 10;

/// A token whose signature is not verified.
pub(super) struct Jwt<'a> {
    /// What its signer says of the signature.
    pub header: JwtHeader,
    /// What is signed.
    pub message: &'a str,
    /// JSON.
    pub payload: Vec<u8>,
    /// The bytes of the signature.
    pub signature: Vec<u8>,
}

/// The fields of the header that matter here. Keys in the header, which anyone can write, are never used.
#[derive(Deserialize)]
pub(super) struct JwtHeader {
    /// The algorithm of the signature.
    pub alg: String,
    /// The id of the key.
    #[serde(default)]
    pub kid: Option<String>,
    /// The type of the token.
    #[serde(default)]
    pub typ: Option<String>,
    /// Extensions that a verifier must know.
    #[serde(default)]
    pub crit: Option<serde_json::Value>,
}

impl<'a> Jwt<'a> {
    /// The parts of a token; `None` if it is not written as one.
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (header, payload, signature) = split(token)?;
        let message = &token[..header.len() + 1 + payload.len()];
        Some(Jwt {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            message,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }
}

/// The claim `iss` of a token; `None` if the text is no token, or has no issuer.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    let (_, payload, _) = split(token)?;
    serde_json::from_slice::<Issued>(&decode(payload)?).ok().map(|issued| issued.iss)
}

fn split(token: &str) -> Option<(&str, &str, &str)> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let mut parts = token.split('.');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn encode(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn parts_of_a_token_are_found() {
        let (header, payload) = (encode(r#"{"alg":"EdDSA","kid":"k","x":[1]}"#), encode(r#"{"iss":"me","a":1}"#));
        let token = format!("{header}.{payload}.{}", encode("signed"));
        let jwt = Jwt::parse(&token).unwrap();
        assert_eq!((jwt.header.alg.as_str(), jwt.header.kid.as_deref(), jwt.header.typ), ("EdDSA", Some("k"), None));
        assert_eq!(jwt.message, format!("{header}.{payload}"));
        assert_eq!((jwt.payload, jwt.signature), (br#"{"iss":"me","a":1}"#.to_vec(), b"signed".to_vec()));
        assert_eq!(issuer_of(&token), Some("me".into()));
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let part = encode(r#"{"alg":"EdDSA","iss":"me"}"#);
        let without_algorithm = encode(r#"{"kid":"k"}"#);
        for text in [
            String::new(),
            "..".into(),
            format!("{part}.{part}"),
            format!("{part}.{part}.{part}.{part}"),
            format!("{part}=.{part}.{part}"),
            format!("{part}.{part}.+"),
            format!("{without_algorithm}.{part}.{part}"),
            format!("{part}.{part}.{}", "A".repeat(MAX_TOKEN_BYTES)),
        ] {
            assert!(Jwt::parse(&text).is_none(), "{text}");
        }
        for text in
            [String::new(), format!("{part}.{}.", encode(r#"{"iss":["me"]}"#)), format!("{part}.{}.", encode("[]"))]
        {
            assert_eq!(issuer_of(&text), None);
        }
    }
}
