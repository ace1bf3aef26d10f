//! OpenID Connect: tokens (JWTs) of an issuer outside of the cluster, verified by the keys that it publishes (a JWK set).
//!
//! Calls verify by the keys in memory. One task gets the keys, at a fixed pace: a client that sends tokens with made-up key ids
//! makes it neither faster nor busier.

mod claims;
mod issuer_keys;
mod jwks_source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::issuer_keys::{IssuerKey, IssuerKeys, KeyLookup};
use self::jwks_source::JwksSource;
use super::jwt::{self, Jwt, JwtHeader};
use super::principal::Principal;
use super::session_token;
use crate::{Error, Result};

/// Signatures by public keys only: with an HMAC, the published key would be the secret.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The types of tokens that identify who sends them: ID tokens and access tokens (RFC 9068).
const TYPES: [&str; 3] = ["JWT", "JOSE", "at+jwt"];

/// The least time between two attempts to get the keys.
const MIN_REFRESH: Duration = Duration::from_secs(60);
/// The same while there are no keys at all.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Which tokens are accepted, and whom they name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    /// What the claim `iss` must be.
    pub issuer: String,
    /// What the claim `aud` must be or contain.
    pub audience: String,
    /// The issuer's keys: the path of a file, or an https URL. Plain http is accepted of this machine only.
    pub jwks: String,
    /// The claim that names the principal; `sub` is the one that every token has.
    pub principal_claim: String,
    /// The claim with the principal's groups, a list of names or one name. In a name with dots that is no claim, each dot leads
    /// one object deeper, as in `realm_access.roles`.
    pub groups_claim: Option<String>,
}

impl OidcSettings {
    fn check(&self) -> Result<()> {
        let given = [
            ("oidc_issuer", &self.issuer),
            ("oidc_audience", &self.audience),
            ("oidc_jwks", &self.jwks),
            ("oidc_principal_claim", &self.principal_claim),
        ];
        if let Some((name, _)) = given.iter().find(|(_, value)| value.trim().is_empty()) {
            return Err(Error::invalid(format!(
                "{name} is empty: OIDC needs an issuer, an audience, its keys and a claim"
            )));
        }
        if session_token::is_own_issuer(&self.issuer) {
            return Err(Error::invalid(format!("oidc_issuer cannot be {}: session tokens have it", self.issuer)));
        }
        Ok(())
    }
}

/// Verifies the tokens of one issuer.
pub struct OidcVerifier {
    settings: OidcSettings,
    source: JwksSource,
    /// Those of the last good document; none until there was one.
    keys: ArcSwapOption<IssuerKeys>,
    /// Somebody presented a key id that is not among the keys.
    refresh_requested: Notify,
    /// Why the last attempt to get the keys failed: logged when it changes.
    failure: Mutex<Option<String>>,
}

impl OidcVerifier {
    /// Verifies by these settings. Reads the keys if they are in a file; else [`OidcVerifier::refresh_loop`] fetches them. Blocks.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a setting is missing or cannot be used; the file cannot be read, or has no usable key.
    pub fn new(settings: OidcSettings) -> Result<Self> {
        settings.check()?;
        // Explicit, whatever features another crate enables. An error says that it is installed already.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let source = JwksSource::new(&settings.jwks)?;
        let keys = source.read_file().transpose()?;
        Ok(OidcVerifier {
            settings,
            source,
            keys: ArcSwapOption::from(keys.map(Arc::new)),
            refresh_requested: Notify::new(),
            failure: Mutex::new(None),
        })
    }

    /// Whether a text is a JWT that says it is of this issuer. It is not verified.
    pub fn is_issuer_of(&self, token: &str) -> bool {
        jwt::issuer_of(token).is_some_and(|issuer| issuer == self.settings.issuer)
    }

    /// Verifies a token: its signature by a key of the issuer, issuer, audience and times, with a leeway of 60 s for clocks that
    /// differ. Returns whom it names, with the issuer as the credential, and when it expires (milliseconds since 1970, without the
    /// leeway). A key id that is not known asks [`OidcVerifier::refresh_loop`] for new keys.
    ///
    /// # Errors
    /// UNAUTHENTICATED: it is refused; the text says why. UNAVAILABLE: there are no keys yet.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<(Principal, u64)> {
        let header = Jwt::parse(token).map(|jwt| jwt.header).ok_or_else(|| self.refused("it is malformed"))?;
        let algorithm = permitted_algorithm(&header).map_err(|why| self.refused(why))?;
        let keys = self.keys.load_full().ok_or_else(|| {
            Error::unavailable(format!(
                "this member has not got the keys of the OIDC issuer {} yet: retry in some seconds, or at another member",
                self.settings.issuer
            ))
        })?;
        let key = match keys.find(header.kid.as_deref(), algorithm) {
            KeyLookup::Found(key) => key,
            KeyLookup::UnknownId => {
                self.refresh_requested.notify_one();
                return Err(self.refused(
                    "its issuer does not publish the key that it names; if that key is new, retry in a minute; otherwise",
                ));
            }
            KeyLookup::Unsuitable => return Err(self.refused("its issuer has no key for the algorithm that it names")),
            KeyLookup::Ambiguous => return Err(self.refused("it names none of the several keys of its issuer")),
        };
        let claims = self.verified_claims(token, key, algorithm).map_err(|why| self.refused(&why))?;
        let expires_ms = claims::check_times(&claims, now_ms).map_err(|why| self.refused(&why))?;
        let principal = claims::principal_of(&claims, &self.settings).map_err(|why| self.refused(&why))?;
        Ok((principal, expires_ms))
    }

    /// The claims of a token with a good signature, of this issuer and for this audience. Times are left to
    /// [`claims::check_times`]: the library reads a clock of its own.
    fn verified_claims(
        &self,
        token: &str,
        key: &IssuerKey,
        algorithm: Algorithm,
    ) -> Result<Map<String, Value>, String> {
        let mut rules = Validation::new(algorithm);
        rules.set_issuer(&[&self.settings.issuer]);
        rules.set_audience(&[&self.settings.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        rules.validate_exp = false;
        rules.validate_nbf = false;
        let other_issuer = || format!("its issuer is not {}", self.settings.issuer);
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, key.decoding_key(), &rules);
        let claims = token.map(|token| token.claims).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => "its signature is not that of its issuer's key".to_string(),
            ErrorKind::InvalidIssuer => other_issuer(),
            ErrorKind::InvalidAudience => format!("its audience is not {}", self.settings.audience),
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                format!("it has no claim {claim} that can be used")
            }
            _ => "it is malformed".into(),
        })?;
        // The library also accepts a list that contains the issuer.
        let is_own = claims.get("iss").and_then(Value::as_str) == Some(self.settings.issuer.as_str());
        if is_own { Ok(claims) } else { Err(other_issuer()) }
    }

    fn refused(&self, why: &str) -> Error {
        Error::unauthenticated(format!(
            "the OIDC token is refused, because {why}: log in again at {}",
            self.settings.issuer
        ))
    }

    /// Gets the keys until `stop`: those of a URL every hour, those of a file every minute, and in between when a token names a key
    /// that is not among them, but with a minute between two attempts. A failure keeps the old keys and is logged.
    pub async fn refresh_loop(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.refresh_forever()).await;
    }

    async fn refresh_forever(&self) {
        let mut is_current = self.keys.load().is_some();
        let mut pause = if is_current { MIN_REFRESH } else { Duration::ZERO };
        loop {
            tokio::time::sleep(pause).await;
            if is_current {
                let rest = self.source.refresh_interval().saturating_sub(MIN_REFRESH);
                // Either way it is time.
                let _ = tokio::time::timeout(rest, self.refresh_requested.notified()).await;
            }
            is_current = self.refresh().await;
            pause = if self.keys.load().is_some() { MIN_REFRESH } else { FIRST_RETRY };
        }
    }

    /// Gets the keys once. Returns whether it succeeded.
    async fn refresh(&self) -> bool {
        let (issuer, source) = (&self.settings.issuer, &self.source);
        match source.fetch().await {
            Ok(keys) => {
                let had_keys = self.keys.swap(Some(Arc::new(keys))).is_some();
                let had_failed = self.failure.lock().take().is_some();
                if had_failed || !had_keys {
                    tracing::info!(%issuer, %source, "got the keys of the OIDC issuer");
                }
                true
            }
            Err(error) => {
                let failed_before = self.failure.lock().replace(error.message.clone());
                if failed_before.as_ref() != Some(&error.message) {
                    tracing::warn!(%issuer, %error, "cannot get the keys of the OIDC issuer; those from before stay in use");
                }
                false
            }
        }
    }
}

/// The algorithm that a token names. It is one of [`ALGORITHMS`], and the header demands nothing else that would have to be known.
fn permitted_algorithm(header: &JwtHeader) -> Result<Algorithm, &'static str> {
    if header.crit.is_some() {
        return Err("its header demands an extension");
    }
    if let Some(found) = &header.typ {
        let short = found.strip_prefix("application/").unwrap_or(found);
        if TYPES.iter().all(|accepted| !accepted.eq_ignore_ascii_case(short)) {
            return Err("its type is neither that of an ID token nor that of an access token");
        }
    }
    let found = ALGORITHMS.iter().find(|(name, _)| *name == header.alg);
    found
        .map(|(_, algorithm)| *algorithm)
        .ok_or("its algorithm is none of RS, PS and ES with 256 or 384, RS512, PS512, EdDSA")
}
