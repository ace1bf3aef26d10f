//! From the claims of a verified token to a principal. An error is the reason, as the end of a sentence.

use serde_json::{Map, Value};

use super::OidcSettings;
use crate::identity::principal::{LoginMethod, Principal, is_receiver_name};

/// How much the clocks of issuer and member may differ.
const LEEWAY_MS: u64 = 60_000;

/// Checks that a token is valid now, by its claims `exp` and `nbf`. Returns when it expires, in milliseconds since 1970.
pub(super) fn check_times(claims: &Map<String, Value>, now_ms: u64) -> Result<u64, String> {
    let expires_ms = claims.get("exp").and_then(time_ms).ok_or("its claim exp is no time")?;
    if expires_ms.saturating_add(LEEWAY_MS) <= now_ms {
        return Err("it has expired".into());
    }
    if let Some(from) = claims.get("nbf").filter(|value| !value.is_null()) {
        let from_ms = time_ms(from).ok_or("its claim nbf is no time")?;
        if from_ms > now_ms.saturating_add(LEEWAY_MS) {
            return Err("it is not valid yet (compare the clocks of its issuer and of this member)".into());
        }
    }
    Ok(expires_ms)
}

/// A NumericDate, seconds since 1970 with or without a fraction, in milliseconds.
fn time_ms(value: &Value) -> Option<u64> {
    let seconds = value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|s| s as u64))?;
    Some(seconds.saturating_mul(1000))
}

/// Whom a token names. Groups whose names no grant can have are left out.
pub(super) fn principal_of(claims: &Map<String, Value>, settings: &OidcSettings) -> Result<Principal, String> {
    let claim = &settings.principal_claim;
    // An issuer that lets people enter their address must not let them enter that of another one; one that says nothing about
    // it may be such an issuer.
    if claim == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
        return Err("its claim email counts only with the claim email_verified, which is not true".into());
    }
    let name = find(claims, claim).and_then(Value::as_str);
    let name = name.ok_or_else(|| format!("it has no claim {claim} with a name"))?;
    if !is_receiver_name(name) {
        return Err(format!(
            "its claim {claim} cannot be the name of a principal, because no grant can be to it: it is empty, too long, or has control characters or blanks around it"
        ));
    }
    let mut groups = match settings.groups_claim.as_ref().and_then(|claim| find(claims, claim)) {
        Some(Value::String(group)) => vec![group.clone()],
        Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        _ => Vec::new(),
    };
    groups.retain(|group| is_receiver_name(group));
    groups.sort();
    groups.dedup();
    Ok(Principal { name: name.to_string(), groups, method: LoginMethod::Oidc, credential: settings.issuer.clone() })
}

/// The claim with a name, or, if there is none, the value that its parts between the dots lead to. Claims of some issuers are URLs,
/// which have dots.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn claims(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn settings(principal_claim: &str, groups_claim: Option<&str>) -> OidcSettings {
        OidcSettings {
            issuer: "https://id.example".into(),
            audience: "volley".into(),
            jwks: "keys.json".into(),
            principal_claim: principal_claim.into(),
            groups_claim: groups_claim.map(str::to_string),
        }
    }

    fn named(value: Value, principal_claim: &str) -> Result<String, String> {
        principal_of(&claims(value), &settings(principal_claim, None)).map(|principal| principal.name)
    }

    fn groups(value: Value, claim: &str) -> Vec<String> {
        principal_of(&claims(value), &settings("sub", Some(claim))).unwrap().groups
    }

    #[test]
    fn times_have_a_leeway_of_a_minute() {
        let at = NOW / 1000;
        let check = |value: Value| check_times(&claims(value), NOW);
        assert_eq!(check(json!({ "exp": at - 59, "nbf": at + 60 })), Ok(NOW - 59_000));
        assert_eq!(check(json!({ "exp": at as f64 + 0.5, "nbf": null })), Ok(NOW));
        assert_eq!(check(json!({ "exp": u64::MAX })), Ok(u64::MAX));
        for expired in [json!({ "exp": at - 60 }), json!({ "exp": at - 61 }), json!({ "exp": 0 })] {
            assert_eq!(check(expired), Err("it has expired".into()));
        }
        for bad in [json!({}), json!({ "exp": "never" }), json!({ "exp": -1 }), json!({ "exp": at, "nbf": "now" })] {
            assert!(check(bad).unwrap_err().contains("no time"));
        }
        assert!(check(json!({ "exp": at + 100, "nbf": at + 61 })).unwrap_err().contains("not valid yet"));
    }

    #[test]
    fn principal_is_named_by_the_chosen_claim() {
        let token = json!({ "sub": "1234", "preferred_username": "ann", "user": { "id": "a1" }, "https://x.example/u": "b", "email_verified": true });
        assert_eq!(named(token.clone(), "sub"), Ok("1234".into()));
        assert_eq!(named(token.clone(), "preferred_username"), Ok("ann".into()));
        assert_eq!(named(token.clone(), "user.id"), Ok("a1".into()));
        assert_eq!(named(token.clone(), "https://x.example/u"), Ok("b".into()));
        let account = json!({ "sub": "system:serviceaccount:jobs:etl" });
        assert_eq!(named(account, "sub"), Ok("system:serviceaccount:jobs:etl".into()));
        for missing in ["email", "user", "user.name", "sub.x", ""] {
            assert!(named(token.clone(), missing).unwrap_err().contains("no claim"), "{missing}");
        }
        for bad in [json!({ "sub": "" }), json!({ "sub": "a\nb" }), json!({ "sub": "x".repeat(1000) })] {
            assert!(named(bad, "sub").unwrap_err().contains("cannot be the name"));
        }
    }

    #[test]
    fn email_must_be_verified() {
        let token = |verified: Value| json!({ "email": "ann@example.com", "email_verified": verified });
        assert_eq!(named(token(json!(true)), "email"), Ok("ann@example.com".into()));
        for verified in [json!(false), json!("true"), json!(null)] {
            assert!(named(token(verified), "email").unwrap_err().contains("email_verified"));
        }
        let unsaid = json!({ "email": "ann@example.com" });
        assert!(named(unsaid, "email").unwrap_err().contains("email_verified"));
    }

    #[test]
    fn groups_are_a_list_or_one_name() {
        let token = json!({ "sub": "a", "groups": ["ops", "dev", "ops", "", 7, "a\nb", "org:x"], "team": "ops", "n": 1, "r": { "roles": ["x"] } });
        assert_eq!(groups(token.clone(), "groups"), ["dev", "ops", "org:x"]);
        assert_eq!(groups(token.clone(), "team"), ["ops"]);
        assert_eq!(groups(token.clone(), "r.roles"), ["x"]);
        for none in ["n", "r", "missing", "r.other"] {
            assert_eq!(groups(token.clone(), none), Vec::<String>::new(), "{none}");
        }
    }
}
