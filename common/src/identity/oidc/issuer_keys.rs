//! The public keys of an issuer, from a JWK set (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse, RSAKeyParameters,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result};

/// RSA keys below 2,048 bits are not used.
const MIN_RSA_BYTES: usize = 256;
const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// The keys of a JWK set that can verify signatures; at least one.
pub(super) struct IssuerKeys(Vec<IssuerKey>);

/// A public key.
pub(super) struct IssuerKey {
    id: Option<String>,
    /// Those that the key's kind, curve and declared algorithm permit.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The key of a token.
pub(super) enum KeyLookup<'a> {
    /// This one.
    Found(&'a IssuerKey),
    /// No key has the id.
    UnknownId,
    /// No key, or not the one with the id, is for the algorithm.
    Unsuitable,
    /// The token names no key, and several are for the algorithm.
    Ambiguous,
}

impl IssuerKeys {
    /// The keys of a document. Those that cannot be used are left out: symmetric ones, those for encryption, of unknown kinds or
    /// too short.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is no JWK set, or has no key that can be used.
    pub(super) fn parse(document: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct JwkDocument {
            keys: Vec<Value>,
        }
        let document: JwkDocument = serde_json::from_slice(document)
            .map_err(|e| Error::invalid(format!("it is not a JWK set, a JSON object with the list `keys` ({e})")))?;
        let jwks = document.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<IssuerKey> = jwks.filter_map(IssuerKey::of).collect();
        if keys.is_empty() {
            return Err(Error::invalid(
                "it has no public key that can verify signatures: RSA of 2,048 bits or more, P-256, P-384 or Ed25519",
            ));
        }
        Ok(IssuerKeys(keys))
    }

    /// The key of a token with this key id and algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> KeyLookup<'_> {
        let is_named = |key: &&IssuerKey| id.is_none() || key.id.as_deref() == id;
        if !self.0.iter().any(|key| is_named(&key)) {
            return KeyLookup::UnknownId;
        }
        let mut suitable = self.0.iter().filter(is_named).filter(|key| key.algorithms.contains(&algorithm));
        match (suitable.next(), suitable.next()) {
            (None, _) => KeyLookup::Unsuitable,
            (Some(_), Some(_)) => KeyLookup::Ambiguous,
            (Some(key), None) => KeyLookup::Found(key),
        }
    }
}

impl IssuerKey {
    fn of(jwk: Jwk) -> Option<Self> {
        let common = &jwk.common;
        let is_for_signatures = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
        if !is_for_signatures || !common.key_operations.as_ref().is_none_or(verifies) {
            return None;
        }
        let (mut algorithms, key) = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => (RSA.to_vec(), rsa_key(rsa)?),
            AlgorithmParameters::EllipticCurve(point) => {
                let (algorithm, length) = match point.curve {
                    EllipticCurve::P256 => (Algorithm::ES256, 32),
                    EllipticCurve::P384 => (Algorithm::ES384, 48),
                    _ => return None,
                };
                let is_complete = has_bytes(&point.x, length) && has_bytes(&point.y, length);
                let key = DecodingKey::from_ec_components(&point.x, &point.y).ok().filter(|_| is_complete)?;
                (vec![algorithm], key)
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                let key = DecodingKey::from_ed_components(&pair.x).ok().filter(|_| has_bytes(&pair.x, 32))?;
                (vec![Algorithm::EdDSA], key)
            }
            _ => return None,
        };
        if let Some(declared) = common.key_algorithm {
            algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == declared);
        }
        (!algorithms.is_empty()).then(|| IssuerKey { id: common.key_id.clone(), algorithms, key })
    }

    /// Its id, if it has one.
    #[cfg(test)]
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The key, as the library takes it.
    pub(super) fn decoding_key(&self) -> &DecodingKey {
        &self.key
    }
}

/// Whether a text is base64url of so many bytes.
fn has_bytes(text: &str, length: usize) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == length)
}

/// Some issuers write zeros before the numbers, which the library rejects.
fn rsa_key(parameters: &RSAKeyParameters) -> Option<DecodingKey> {
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    let (n, e) = (number(&parameters.n)?, number(&parameters.e)?);
    (n.len() >= MIN_RSA_BYTES && !e.is_empty()).then(|| DecodingKey::from_rsa_raw_components(&n, &e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jsonwebtoken::DecodingKeyKind;
    use serde_json::json;

    use super::*;

    fn bytes(count: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![7_u8; count])
    }

    fn ed25519(extra: Value) -> Value {
        let mut key = json!({ "kty": "OKP", "crv": "Ed25519", "x": bytes(32) });
        key.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        key
    }

    fn parse(keys: &[Value]) -> Result<IssuerKeys> {
        IssuerKeys::parse(json!({ "keys": keys, "other": 1 }).to_string().as_bytes())
    }

    fn algorithms(key: Value) -> Vec<Algorithm> {
        parse(&[key]).map(|keys| keys.0[0].algorithms.clone()).unwrap_or_default()
    }

    #[test]
    fn kind_curve_and_declaration_permit_algorithms() {
        let rsa = |alg: Value| json!({ "kty": "RSA", "n": bytes(256), "e": "AQAB", "alg": alg });
        assert_eq!(algorithms(rsa(Value::Null)), RSA);
        assert_eq!(algorithms(rsa(json!("PS384"))), [Algorithm::PS384]);
        let point = |curve: &str, size| json!({ "kty": "EC", "crv": curve, "x": bytes(size), "y": bytes(size) });
        assert_eq!(algorithms(point("P-256", 32)), [Algorithm::ES256]);
        assert_eq!(algorithms(point("P-384", 48)), [Algorithm::ES384]);
        assert_eq!(algorithms(ed25519(json!({ "use": "sig", "key_ops": ["verify"] }))), [Algorithm::EdDSA]);
    }

    #[test]
    fn keys_that_cannot_verify_are_left_out() {
        for unusable in [
            json!({ "kty": "oct", "k": bytes(32), "alg": "HS256" }),
            json!({ "kty": "RSA", "n": bytes(255), "e": "AQAB" }),
            json!({ "kty": "RSA", "n": bytes(256), "e": "AQAB", "alg": "RSA-OAEP" }),
            json!({ "kty": "RSA", "n": bytes(256), "e": "AQAB", "alg": "HS256" }),
            json!({ "kty": "RSA", "n": "?", "e": "AQAB" }),
            json!({ "kty": "EC", "crv": "P-521", "x": bytes(66), "y": bytes(66) }),
            json!({ "kty": "EC", "crv": "P-256", "x": bytes(32), "y": bytes(31) }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": bytes(31) }),
            json!({ "kty": "OKP", "crv": "X25519", "x": bytes(32) }),
            json!({ "kty": "OKP", "crv": "P-256", "x": bytes(32) }),
            ed25519(json!({ "use": "enc" })),
            ed25519(json!({ "key_ops": ["sign"] })),
            ed25519(json!({ "alg": "ES256" })),
            json!({ "kty": "new" }),
            json!({}),
            json!("key"),
        ] {
            assert!(parse(std::slice::from_ref(&unusable)).is_err(), "{unusable}");
            // It does not stand in the way of a good one.
            assert_eq!(parse(&[unusable.clone(), ed25519(json!({}))]).unwrap().0.len(), 1, "{unusable}");
        }
    }

    #[test]
    fn zeros_before_the_numbers_of_an_rsa_key_are_removed() {
        let rsa = |n: Vec<u8>| json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": "AAEAAQ" });
        let keys = parse(&[rsa([vec![0; 2], vec![7; 256]].concat())]).unwrap();
        let DecodingKeyKind::RsaModulusExponent { n, e } = keys.0[0].key.kind() else { panic!("no RSA key") };
        assert_eq!((n, e), (&vec![7; 256], &vec![1, 0, 1]));
        assert!(parse(&[rsa([vec![0; 100], vec![7; 255]].concat())]).is_err());
    }

    #[test]
    fn key_is_found_by_id_and_algorithm() {
        let keys = parse(&[ed25519(json!({ "kid": "a" })), ed25519(json!({ "kid": "b" }))]).unwrap();
        let find = |id, algorithm| match keys.find(id, algorithm) {
            KeyLookup::Found(key) => key.id().unwrap().to_string(),
            KeyLookup::UnknownId => "unknown".into(),
            KeyLookup::Unsuitable => "unsuitable".into(),
            KeyLookup::Ambiguous => "ambiguous".into(),
        };
        assert_eq!(find(Some("b"), Algorithm::EdDSA), "b");
        assert_eq!(find(Some("c"), Algorithm::EdDSA), "unknown");
        assert_eq!(find(Some("b"), Algorithm::ES256), "unsuitable");
        assert_eq!(find(None, Algorithm::EdDSA), "ambiguous");
        assert_eq!(find(None, Algorithm::ES256), "unsuitable");
        let single = parse(&[ed25519(json!({ "kid": "a" }))]).unwrap();
        assert!(matches!(single.find(None, Algorithm::EdDSA), KeyLookup::Found(_)));
    }

    #[test]
    fn other_documents_are_errors() {
        for document in ["", "[]", "{}", r#"{"keys":1}"#, r#"{"keys":[]}"#, "<html>", "\u{0}"] {
            assert_eq!(IssuerKeys::parse(document.as_bytes()).err().unwrap().code, crate::Code::InvalidArgument);
        }
    }
}
