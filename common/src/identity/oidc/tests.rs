//! Tests of tokens that an issuer of the test signs, with keys in a file.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Code;
use crate::identity::principal::LoginMethod;

const ISSUER: &str = "https://id.example";
const NOW: u64 = 1_700_000_000_000;
/// NOW in seconds.
const AT: u64 = NOW / 1000;

enum TestKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl TestKey {
    fn ed25519() -> Self {
        TestKey::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    fn p256() -> Self {
        TestKey::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn rsa() -> Self {
        TestKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            TestKey::Ed25519(pair) => {
                json!({ "kid": id, "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })
            }
            TestKey::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kid": id, "kty": "EC", "crv": "P-256", "use": "sig", "x": encode(x), "y": encode(y) })
            }
            TestKey::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kid": id, "kty": "RSA", "n": encode(&public.n), "e": encode(&public.e) })
            }
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match self {
            TestKey::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            TestKey::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            TestKey::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn token(&self, header: Value, claims: Value) -> String {
        let algorithm = header["alg"].as_str().unwrap().to_string();
        signed(&header, &claims, |message| self.sign(&algorithm, message))
    }
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = format!("{header}.{claims}");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(sign(message.as_bytes())))
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "volley", "sub": "ann", "exp": AT + 300, "groups": ["ops"] })
}

/// The claims with one replaced, or removed if `value` is null.
fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn settings(jwks: String) -> OidcSettings {
    OidcSettings {
        issuer: ISSUER.into(),
        audience: "volley".into(),
        jwks,
        principal_claim: "sub".into(),
        groups_claim: Some("groups".into()),
    }
}

fn document(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// An issuer whose keys are in a file, and a verifier of its tokens.
struct FileIssuer {
    verifier: OidcVerifier,
    path: PathBuf,
    _dir: TempDir,
}

impl FileIssuer {
    fn new(keys: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        std::fs::write(&path, document(keys)).unwrap();
        let verifier = OidcVerifier::new(settings(path.display().to_string())).unwrap();
        FileIssuer { verifier, path, _dir: dir }
    }

    fn name(&self, token: &str) -> Result<String> {
        self.verifier.verify(token, NOW).map(|(principal, _)| principal.name)
    }

    fn refusal(&self, token: &str) -> String {
        let error = self.verifier.verify(token, NOW).unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated, "{error}");
        assert!(error.message.ends_with("log in again at https://id.example"), "{error}");
        error.message
    }
}

#[test]
fn token_of_every_kind_of_key_is_accepted() {
    let (ed25519, p256, rsa) = (TestKey::ed25519(), TestKey::p256(), TestKey::rsa());
    let issuer = FileIssuer::new(&[ed25519.jwk("e"), p256.jwk("p"), rsa.jwk("r")]);
    for (key, id, algorithm) in
        [(&ed25519, "e", "EdDSA"), (&p256, "p", "ES256"), (&rsa, "r", "RS256"), (&rsa, "r", "PS256")]
    {
        let token = key.token(json!({ "alg": algorithm, "kid": id, "typ": "JWT" }), claims());
        let expected = Principal {
            name: "ann".into(),
            groups: vec!["ops".into()],
            method: LoginMethod::Oidc,
            credential: ISSUER.into(),
        };
        assert_eq!(issuer.verifier.verify(&token, NOW), Ok((expected, NOW + 300_000)), "{algorithm}");
        assert!(issuer.verifier.is_issuer_of(&token));
        // No other key verifies it.
        for other in ["e", "p", "r"].into_iter().filter(|other| *other != id) {
            issuer.refusal(&key.token(json!({ "alg": algorithm, "kid": other }), claims()));
        }
    }
}

#[test]
fn unsigned_token_is_refused() {
    let key = TestKey::ed25519();
    let issuer = FileIssuer::new(&[key.jwk("e")]);
    for algorithm in ["none", "None", "NONE", ""] {
        let token = signed(&json!({ "alg": algorithm, "kid": "e" }), &claims(), |_| Vec::new());
        assert!(issuer.refusal(&token).contains("algorithm"), "{algorithm}");
        let token = key.token(json!({ "alg": algorithm, "kid": "e" }), claims());
        assert!(issuer.refusal(&token).contains("algorithm"), "{algorithm}");
    }
    let token = signed(&json!({ "alg": "EdDSA", "kid": "e" }), &claims(), |_| Vec::new());
    assert!(issuer.refusal(&token).contains("signature"));
    for text in ["", "a.b.c", "volley_0123456789abcdef_x"] {
        assert!(issuer.refusal(text).contains("malformed"));
        assert!(!issuer.verifier.is_issuer_of(text));
    }
}

#[test]
fn hmac_with_the_public_key_as_secret_is_refused() {
    let (ed25519, rsa) = (TestKey::ed25519(), TestKey::rsa());
    let issuer = FileIssuer::new(&[ed25519.jwk("e"), rsa.jwk("r")]);
    let TestKey::Ed25519(pair) = &ed25519 else { unreachable!() };
    let TestKey::Rsa(rsa_pair) = &rsa else { unreachable!() };
    let modulus = RsaPublicKeyComponents::<Vec<u8>>::from(rsa_pair.public_key()).n;
    let secrets = [
        ("e", pair.public_key().as_ref().to_vec()),
        ("e", ed25519.jwk("e").to_string().into_bytes()),
        ("r", rsa_pair.public_key().as_ref().to_vec()),
        ("r", modulus),
    ];
    for (id, secret) in &secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let sign = |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
        assert!(issuer.refusal(&signed(&json!({ "alg": "HS256", "kid": id }), &claims(), sign)).contains("algorithm"));
        assert!(issuer.refusal(&signed(&json!({ "alg": "HS256" }), &claims(), sign)).contains("algorithm"));
    }
}

#[test]
fn issuer_and_audience_must_be_the_configured_ones() {
    let key = TestKey::ed25519();
    let issuer = FileIssuer::new(&[key.jwk("e")]);
    let token = |name: &str, value: Value| key.token(json!({ "alg": "EdDSA", "kid": "e" }), claims_with(name, value));
    assert_eq!(issuer.name(&token("aud", json!(["other", "volley"]))), Ok("ann".into()));
    for (name, value) in [
        ("iss", json!("https://id.example/")),
        ("iss", json!("https://evil.example")),
        ("iss", json!(["https://evil.example"])),
        ("iss", json!([ISSUER, "https://evil.example"])),
        ("iss", json!(7)),
        ("iss", Value::Null),
        ("aud", json!("volley2")),
        ("aud", json!(["other"])),
        ("aud", json!([])),
        ("aud", json!(7)),
        ("aud", Value::Null),
        ("exp", Value::Null),
        ("sub", Value::Null),
    ] {
        issuer.refusal(&token(name, value));
    }
    assert!(
        issuer.refusal(&token("iss", json!("https://evil.example"))).contains("its issuer is not https://id.example")
    );
    assert!(issuer.refusal(&token("aud", json!("other"))).contains("its audience is not volley"));
    assert!(!issuer.verifier.is_issuer_of(&token("iss", json!("https://evil.example"))));
}

#[test]
fn token_is_valid_in_its_time_with_a_minute_of_leeway() {
    let key = TestKey::ed25519();
    let issuer = FileIssuer::new(&[key.jwk("e")]);
    let token = |name: &str, value: Value| key.token(json!({ "alg": "EdDSA", "kid": "e" }), claims_with(name, value));
    assert_eq!(issuer.name(&token("exp", json!(AT - 59))), Ok("ann".into()));
    assert!(issuer.refusal(&token("exp", json!(AT - 61))).contains("expired"));
    assert_eq!(issuer.name(&token("nbf", json!(AT + 59))), Ok("ann".into()));
    assert!(issuer.refusal(&token("nbf", json!(AT + 61))).contains("not valid yet"));
}

#[test]
fn altered_token_is_refused() {
    let key = TestKey::ed25519();
    let issuer = FileIssuer::new(&[key.jwk("e")]);
    let token = key.token(json!({ "alg": "EdDSA", "kid": "e" }), claims());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        issuer.refusal(std::str::from_utf8(&changed).unwrap());
    }
    let foreign = TestKey::ed25519().token(json!({ "alg": "EdDSA", "kid": "e" }), claims());
    assert!(issuer.refusal(&foreign).contains("signature"));
}

#[test]
fn keys_in_the_header_of_a_token_are_not_used() {
    let (key, own) = (TestKey::ed25519(), TestKey::ed25519());
    let issuer = FileIssuer::new(&[key.jwk("e")]);
    let header = json!({ "alg": "EdDSA", "kid": "e", "jwk": own.jwk("e"), "jku": "https://evil.example/keys" });
    assert!(issuer.refusal(&own.token(header, claims())).contains("signature"));
    for header in [
        json!({ "alg": "EdDSA", "kid": "e", "crit": ["exp"] }),
        json!({ "alg": "EdDSA", "kid": "e", "crit": ["b64"], "b64": false }),
        json!({ "alg": "EdDSA", "kid": "e", "b64": false }),
        json!({ "alg": "EdDSA", "kid": "e", "typ": "logout+jwt" }),
    ] {
        issuer.refusal(&key.token(header, claims()));
    }
    for typ in ["at+jwt", "application/at+jwt", "jwt"] {
        assert_eq!(
            issuer.name(&key.token(json!({ "alg": "EdDSA", "kid": "e", "typ": typ }), claims())),
            Ok("ann".into())
        );
    }
}

#[tokio::test]
async fn unknown_key_asks_for_a_refresh_that_finds_it() {
    let (old, new) = (TestKey::ed25519(), TestKey::p256());
    let issuer = FileIssuer::new(&[old.jwk("old")]);
    let old_token = old.token(json!({ "alg": "EdDSA", "kid": "old" }), claims());
    let new_token = new.token(json!({ "alg": "ES256", "kid": "new" }), claims());
    assert_eq!(issuer.name(&old_token), Ok("ann".into()));
    assert!(issuer.verifier.refresh_requested.notified().now_or_never().is_none());

    std::fs::write(&issuer.path, document(&[new.jwk("new")])).unwrap();
    assert!(issuer.refusal(&new_token).contains("does not publish the key"), "a call reads no file");
    assert!(issuer.verifier.refresh_requested.notified().now_or_never().is_some());
    assert!(issuer.verifier.refresh().await);
    assert_eq!(issuer.name(&new_token), Ok("ann".into()));
    assert!(issuer.refusal(&old_token).contains("does not publish the key"));
}

#[tokio::test]
async fn bad_document_keeps_the_old_keys() {
    let key = TestKey::ed25519();
    let issuer = FileIssuer::new(&[key.jwk("e")]);
    let token = key.token(json!({ "alg": "EdDSA" }), claims());
    for bad in ["", "{", r#"{"keys":[]}"#] {
        std::fs::write(&issuer.path, bad).unwrap();
        assert!(!issuer.verifier.refresh().await);
        assert_eq!(issuer.name(&token), Ok("ann".into()));
    }
    std::fs::remove_file(&issuer.path).unwrap();
    assert!(!issuer.verifier.refresh().await);
    assert_eq!(issuer.name(&token), Ok("ann".into()));
}

#[tokio::test]
async fn loop_fetches_the_keys_of_a_url_until_it_is_stopped() {
    let key = TestKey::ed25519();
    let keys = document(&[key.jwk("e")]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let app = Router::new().route("/keys", get(move || async move { keys }));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let verifier = Arc::new(OidcVerifier::new(settings(url)).unwrap());
    let token = key.token(json!({ "alg": "EdDSA", "kid": "e" }), claims());
    assert_eq!(verifier.verify(&token, NOW).unwrap_err().code, Code::Unavailable);
    let stop = CancellationToken::new();
    let running = tokio::spawn(verifier.clone().refresh_loop(stop.clone()));
    let accepted = async {
        while verifier.verify(&token, NOW).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), accepted).await.unwrap();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

#[test]
fn unusable_setting_is_an_error_that_names_it() {
    let refused = |settings: OidcSettings| {
        let error = OidcVerifier::new(settings).err().unwrap();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message
    };
    let good = settings("/nowhere/keys.json".into());
    assert!(refused(good.clone()).contains("oidc_jwks /nowhere/keys.json: it cannot be read"));
    assert!(refused(OidcSettings { issuer: " ".into(), ..good.clone() }).contains("oidc_issuer"));
    assert!(refused(OidcSettings { issuer: "volley".into(), ..good.clone() }).contains("oidc_issuer"));
    assert!(refused(OidcSettings { audience: String::new(), ..good.clone() }).contains("oidc_audience"));
    assert!(refused(OidcSettings { jwks: String::new(), ..good.clone() }).contains("oidc_jwks"));
    assert!(refused(OidcSettings { principal_claim: String::new(), ..good.clone() }).contains("oidc_principal_claim"));
    assert!(refused(OidcSettings { jwks: "http://id.example/keys".into(), ..good }).contains("https"));
}
