//! Credentials: nobody gets in without a secret, an altered token is refused, and no secret is shown.
//!
//! The first byte chooses what the others are: headers of a call; a valid token and a change of it; the header and the payload
//! of a token that the cluster or its issuer signs; the payload of a Handshake; the hash of a password; or failed logins.

use std::sync::{Arc, OnceLock};

use argon2::password_hash::PasswordHash;
use arrow_flight::BasicAuth;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use prost::Message;
use volley_common::identity::{
    Authenticator, Credentials, Directory, DirectoryHandle, Identified, IdentityRules, LoginThrottle, OidcSettings,
    OidcVerifier, Secret, SessionTokenIssuer, check_principal_name, is_session_token, new_service_token,
    split_service_token, verify_password,
};
use volley_common::ticket::TicketKey;
use volley_common::tls::Caller;
use volley_common::wire::catalog::{SigningKey, User};
use volley_common::wire::cluster::IdentitySnapshot;
use volley_common::{Code, clock};

use crate::input::{FuzzInput, check_error, chunk, header_map};
use crate::process::{ScratchDir, runtime};

/// The first test vector of RFC 8032 in PKCS #8, and its public key.
const PRIVATE_KEY: &str =
    "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const KEY_ID: &str = "k1";
const OIDC_ISSUER: &str = "https://id.example";
/// The generation of the user's password.
const GENERATION: u64 = 7;
/// The largest parameters of argon2 that are computed: KiB, passes, lanes.
const MAX_COST: [(&str, u32); 3] = [("m", 1024), ("t", 4), ("p", 4)];

/// A cluster with one user, who has a service token, and an OIDC issuer. The input knows none of its secrets.
struct TokenFixture {
    authenticator: Authenticator,
    sessions: SessionTokenIssuer,
    user: User,
    pair: Ed25519KeyPair,
    service_token: Secret,
}

fn from_hex(text: &str) -> Bytes {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn fixture() -> &'static TokenFixture {
    static FIXTURE: OnceLock<TokenFixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let (private_key, public_key) = (from_hex(PRIVATE_KEY), from_hex(PUBLIC_KEY));
        let key = SigningKey { id: KEY_ID.into(), private_key, public_key: public_key.clone(), created_ms: 1 };
        let user = User { name: "ann".into(), generation: GENERATION, ..User::default() };
        let (row, service_token) = new_service_token("ann", "job", 0, u64::MAX);
        let snapshot = IdentitySnapshot {
            epoch: 3,
            users: vec![user.clone()],
            tokens: vec![row],
            keys: vec![SigningKey { private_key: Bytes::new(), ..key.clone() }],
            ..IdentitySnapshot::default()
        };
        let directory = DirectoryHandle::new();
        directory.store(Directory::new(&snapshot));
        let scratch = ScratchDir::new();
        let jwks = serde_json::json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(&public_key),
        }]});
        let jwks = scratch.write("jwks.json", jwks.to_string().as_bytes());
        let settings = OidcSettings {
            issuer: OIDC_ISSUER.into(),
            audience: "volley".into(),
            jwks: jwks.display().to_string(),
            principal_claim: "sub".into(),
            groups_claim: Some("groups".into()),
        };
        let oidc = OidcVerifier::new(settings).expect("the settings of the issuer");
        let rules = IdentityRules { oidc: Some(Arc::new(oidc)), ..IdentityRules::default() };
        let ticket_key = Arc::new(TicketKey::new(b"the fuzzer does not know this one"));
        TokenFixture {
            authenticator: Authenticator::new(directory, rules, Arc::new(move || Some(ticket_key.clone()))),
            sessions: SessionTokenIssuer::new(&key).expect("the signing key"),
            user,
            pair: Ed25519KeyPair::from_pkcs8(&key.private_key).expect("the signing key"),
            service_token,
        }
    })
}

impl TokenFixture {
    /// A token with a valid signature.
    fn signed(&self, header: &[u8], payload: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn oidc_token(&self, now_ms: u64) -> String {
        let header = serde_json::json!({ "alg": "EdDSA", "kid": KEY_ID, "typ": "JWT" });
        let payload = serde_json::json!({
            "iss": OIDC_ISSUER, "aud": "volley", "sub": "eve", "groups": ["a"], "exp": now_ms / 1000 + 3600,
        });
        self.signed(header.to_string().as_bytes(), payload.to_string().as_bytes())
    }
}

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    match input.byte() % 6 {
        0 => received_headers(input),
        1 => altered_token(input),
        2 => signed_token(input),
        3 => handshake_payload(input.rest()),
        4 => password_hash(input),
        _ => failed_logins(input),
    }
}

fn received_headers(mut input: FuzzInput<'_>) {
    let path = String::from_utf8_lossy(input.chunk()).into_owned();
    let lines = input.rest();
    let headers = header_map(lines);
    match Credentials::of_headers(&headers) {
        Ok(credentials) => check_hidden(&credentials),
        Err(error) => assert_eq!(error.code, Code::Unauthenticated, "{error}"),
    }
    match fixture().authenticator.identify(&headers, &Caller::Anonymous, None, &path) {
        Ok(Identified::Access(access)) => {
            assert!(access.require_identity().is_err(), "somebody got in without a secret");
        }
        // The password is verified elsewhere.
        Ok(Identified::Login { user, .. }) => assert!(!user.is_empty()),
        Err(error) => check_error(&error, lines.len() + path.len()),
    }
}

/// `Debug` shows the same whatever the secret is.
fn check_hidden(credentials: &Credentials) {
    let hidden = || Secret::new("another");
    let other = match credentials {
        Credentials::None => Credentials::None,
        Credentials::Basic { user, .. } => {
            assert!(!user.is_empty());
            Credentials::Basic { user: user.clone(), password: hidden() }
        }
        Credentials::Bearer(_) => Credentials::Bearer(hidden()),
    };
    assert_eq!(format!("{credentials:?}"), format!("{other:?}"));
}

fn altered_token(mut input: FuzzInput<'_>) {
    let (fixture, now_ms) = (fixture(), clock::now_ms());
    let token = match input.byte() % 3 {
        0 => fixture.service_token.clone(),
        1 => fixture.sessions.issue(&fixture.user, "", now_ms).expect("a session token").0,
        _ => Secret::new(fixture.oidc_token(now_ms)),
    };
    let (at, flip) = (usize::from(input.number()), input.byte());
    let mut bytes = token.expose().as_bytes().to_vec();
    let at = at % bytes.len();
    bytes[at] ^= flip;
    let Ok(text) = String::from_utf8(bytes) else { return };
    let access = fixture.authenticator.access_of_token(&Secret::new(text), None);
    assert_eq!(access.is_ok(), flip == 0, "byte {at} of {} was changed by {flip}", token.expose().len());
}

fn signed_token(mut input: FuzzInput<'_>) {
    let (header, payload) = (input.chunk(), input.rest());
    let token = fixture().signed(header, payload);
    let _ = is_session_token(&token);
    match fixture().authenticator.access_of_token(&Secret::new(token.clone()), None) {
        Ok(access) => {
            let name = &access.principal().expect("a token names somebody").name;
            assert!(!name.is_empty());
            // A session of this cluster is the user's; another principal is one of the issuer.
            assert!(!is_session_token(&token) || name == "ann");
        }
        Err(error) => check_error(&error, token.len()),
    }
}

fn handshake_payload(payload: &[u8]) {
    match Credentials::of_handshake_payload(payload) {
        Ok(credentials) => {
            check_hidden(&credentials);
            if let Credentials::Basic { user, password } = &credentials {
                let again = BasicAuth { username: user.clone(), password: password.expose().to_string() };
                let again = Credentials::of_handshake_payload(&again.encode_to_vec());
                assert!(again.as_ref() == Ok(&credentials));
                let _ = check_principal_name(user);
            }
        }
        Err(error) => assert_eq!(error.code, Code::Unauthenticated, "{error}"),
    }
    if let Some((id, secret)) = std::str::from_utf8(payload).ok().and_then(split_service_token) {
        assert_eq!((id.len(), secret.len()), (16, 43));
    }
}

fn password_hash(mut input: FuzzInput<'_>) {
    let password = String::from_utf8_lossy(input.chunk()).into_owned();
    let Ok(hash) = String::from_utf8(input.rest().to_vec()) else { return };
    // A hash in the catalog comes from the cluster itself, which chooses the cost: here it is kept low.
    let Ok(parsed) = PasswordHash::new(&hash) else { return };
    let is_cheap = |(name, most): &(&str, u32)| parsed.params.get_decimal(*name).is_some_and(|value| value <= *most);
    if !MAX_COST.iter().all(is_cheap) {
        return;
    }
    if let Err(error) = runtime().block_on(verify_password(Secret::new(password), hash.clone())) {
        assert!(!error.message.contains(&hash), "an error shows the hash");
    }
}

fn failed_logins(mut input: FuzzInput<'_>) {
    let (throttle, mut now_ms) = (LoginThrottle::new(), 1_000_000);
    while !input.is_empty() {
        let (op, step) = (input.byte(), input.number());
        let (user, address) = (format!("u{}", (op >> 2) & 3), format!("10.0.0.{}", (op >> 4) & 3));
        now_ms += u64::from(step);
        match op & 3 {
            0 => throttle.failed(&user, &address, now_ms),
            1 => throttle.succeeded(&user, &address),
            _ => {
                if let Err(error) = throttle.check(&user, &address, now_ms) {
                    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
                }
            }
        }
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let path = chunk(b"/arrow.flight.protocol.FlightService/DoGet");
    let headers = |lines: &str| [vec![0], path.clone(), lines.as_bytes().to_vec()].concat();
    let session = r#"{"iss":"volley","sub":"ann","iat":1,"exp":99999999999,"generation":"0000000000000007"}"#;
    let oidc = r#"{"iss":"https://id.example","aud":["volley"],"sub":"eve","groups":["a","b"],"exp":99999999999}"#;
    let signed = |payload: &str| {
        [vec![2], chunk(br#"{"alg":"EdDSA","kid":"k1","typ":"JWT"}"#), payload.as_bytes().to_vec()].concat()
    };
    let service_token = format!("volley_{}_{}", "0123456789abcdef", "a".repeat(43));
    let hash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
    vec![
        headers("authorization: Basic YW5uOnBhc3N3b3Jk"),
        headers("authorization: bearer abc\nauth-token-bin: YWJj"),
        headers(&format!("authorization: Bearer {service_token}")),
        headers("x-volley-assertion-bin: AVZPTExFWUE"),
        headers("authorization: Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJ2b2xsZXkiLCJzdWIiOiJhbm4ifQ."),
        vec![1, 0, 0, 0, 0],
        vec![1, 0, 9, 0, 1],
        vec![1, 1, 9, 0, 1],
        vec![1, 1, 9, 0, 0],
        vec![1, 2, 0, 0, 0],
        vec![1, 2, 200, 0, 1],
        signed(session),
        signed(oidc),
        [vec![3], BasicAuth { username: "ann".into(), password: "password".into() }.encode_to_vec()].concat(),
        [vec![3], service_token.into_bytes()].concat(),
        [vec![4], chunk(b"password"), hash.as_bytes().to_vec()].concat(),
        vec![5, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 2, 1, 0, 3, 255, 255],
    ]
}
