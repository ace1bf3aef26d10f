//! On whose behalf a member calls another one: a signed header that replaces the client's credentials.
//!
//! The member that a client calls identifies it. What that member calls because of it, for example a coordinator that plans a
//! put, needs no credentials, only the assertion: it is signed with the cluster's ticket key, names the path of one method, and
//! is valid for a minute. The called member looks up the rights itself.

use std::net::IpAddr;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::access::Access;
use super::access::rights::PrincipalRights;
use super::credentials::AUTH_TOKEN_HEADER;
use super::principal::{LoginMethod, Principal};
use crate::ticket::TicketKey;
use crate::wire::cluster::Assertion;
use crate::{Error, Result, clock};

/// The header of an assertion: binary metadata of gRPC, in base64.
pub const ASSERTION_HEADER: &str = "x-volley-assertion-bin";
/// How long an assertion is valid. More than the clocks of members differ, and little for one that was stolen.
const ASSERTION_MS: u64 = 60_000;
/// More bytes of groups are not asserted whole: the header must leave room in the 64 KiB that all headers of a call may have.
const MAX_GROUP_BYTES: usize = 8 << 10;
/// gRPC's senders leave out the padding, and receivers accept both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Access {
    /// The value of the header by which a call to another member, of the method `path`, is made on behalf of this principal.
    /// None of an access without principal: such a call carries no assertion.
    pub fn assertion(&self, key: &TicketKey, path: &str, now_ms: u64) -> Option<HeaderValue> {
        let rights = self.rights()?;
        let principal = rights.principal();
        let assertion = Assertion {
            principal: principal.name.clone(),
            groups: asserted_groups(rights),
            method: principal.method as u32,
            credential: principal.credential.clone(),
            address: self.client_address().unwrap_or_default().to_string(),
            expires_ms: now_ms + ASSERTION_MS,
            path: path.to_string(),
        };
        sign_header(key, &assertion)
    }
}

/// The value of a header with a signed assertion.
pub fn sign_header(key: &TicketKey, assertion: &Assertion) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(BASE64.encode(key.sign_assertion(assertion))).ok()?;
    // Neither shown in logs nor kept in the compression tables of HTTP/2.
    value.set_sensitive(true);
    Some(value)
}

/// The bytes of a header of [`sign_header`], for [`TicketKey::verify_assertion`]; `None` if it is not written as one.
pub fn signed_bytes(value: &HeaderValue) -> Option<Vec<u8>> {
    BASE64.decode(value.as_bytes()).ok()
}

/// The groups to assert: all, or, if an issuer of tokens claims very many, those to which something is granted.
fn asserted_groups(rights: &PrincipalRights) -> Vec<String> {
    let groups = &rights.principal().groups;
    if groups.iter().map(String::len).sum::<usize>() <= MAX_GROUP_BYTES {
        return groups.clone();
    }
    groups.iter().filter(|group| rights.directory().has_grants_to_group(group)).cloned().collect()
}

/// Prepares the headers of a client's call for another member: removes the client's credentials, and what it may have sent as an
/// assertion, and adds the assertion of this member. In an open cluster, and without a key, it only removes.
pub fn assert_principal(headers: &mut HeaderMap, access: &Access, key: Option<&TicketKey>, path: &str) {
    headers.remove(AUTHORIZATION);
    headers.remove(AUTH_TOKEN_HEADER);
    headers.remove(ASSERTION_HEADER);
    if let Some(value) = key.and_then(|key| access.assertion(key, path, clock::now_ms())) {
        headers.insert(HeaderName::from_static(ASSERTION_HEADER), value);
    }
}

/// Whether a call carries an assertion, valid or not.
pub(super) fn has_assertion(headers: &HeaderMap) -> bool {
    headers.contains_key(ASSERTION_HEADER)
}

/// The principal of a verified assertion, with the groups that it names, and the client's address.
///
/// # Errors
/// UNAUTHENTICATED: malformed, more than one, forged, expired, or for another path.
pub(super) fn verify_assertion_header(
    headers: &HeaderMap,
    key: &TicketKey,
    path: &str,
    now_ms: u64,
) -> Result<(Principal, Option<IpAddr>)> {
    let malformed = || Error::unauthenticated(format!("the header {ASSERTION_HEADER} is malformed"));
    let mut values = headers.get_all(ASSERTION_HEADER).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(malformed()) };
    let bytes = signed_bytes(value).ok_or_else(malformed)?;
    let assertion = key.verify_assertion(&bytes, now_ms)?;
    if assertion.path != path {
        return Err(Error::unauthenticated(format!(
            "the assertion of a member is for {:?}, and this call is {path:?}",
            assertion.path
        )));
    }
    let method = LoginMethod::from_number(assertion.method).filter(|_| !assertion.principal.is_empty());
    let method = method.ok_or_else(|| {
        Error::unauthenticated(
            "the assertion of a member names no principal that this version knows: upgrade this member",
        )
    })?;
    let Assertion { principal: name, groups, credential, address, .. } = assertion;
    Ok((Principal { name, groups, method, credential }, address.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::super::access::testing::{access, directory, grant, principal};
    use super::*;
    use crate::Code;
    use crate::wire::catalog::Role;

    const PATH: &str = "/volley.cluster.v1.Coordinator/BeginWrite";

    fn key() -> TicketKey {
        TicketKey::new(&[7; 32])
    }

    fn headers(value: HeaderValue) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(ASSERTION_HEADER), value)])
    }

    fn message(result: Result<(Principal, Option<IpAddr>)>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated, "{error}");
        error.message
    }

    #[test]
    fn assertion_names_the_principal_and_its_client() {
        let asserted = Principal {
            name: "ann".into(),
            groups: vec!["a".into(), "b".into()],
            method: LoginMethod::Oidc,
            credential: "key-1".into(),
        };
        let access = Access::of_principal(asserted.clone(), directory(3, &[]));
        let ip: IpAddr = "10.1.2.3".parse().unwrap();
        let value = access.for_client(Some(ip), false).assertion(&key(), PATH, 1_000).unwrap();
        assert!(value.is_sensitive() && !value.as_bytes().contains(&b'='), "{:?}", value.as_bytes());
        let found = verify_assertion_header(&headers(value), &key(), PATH, 1_000).unwrap();
        assert_eq!(found, (asserted, Some(ip)));
    }

    #[test]
    fn assertion_is_bound_to_its_path_and_expires() {
        let value = access(&directory(3, &[]), "ann").assertion(&key(), PATH, 1_000).unwrap();
        let headers = headers(value);
        let verified = |path, now_ms| verify_assertion_header(&headers, &key(), path, now_ms);
        assert_eq!(verified(PATH, 60_999).unwrap(), (principal("ann", &[]), None));
        assert!(message(verified(PATH, 61_000)).contains("expired"));
        let other = "/volley.cluster.v1.Coordinator/PlanRead";
        assert!(message(verified(other, 1_000)).contains(other));
    }

    #[test]
    fn forged_repeated_or_malformed_assertion_is_refused() {
        let access = access(&directory(3, &[]), "ann");
        let verified = |headers: &HeaderMap| verify_assertion_header(headers, &key(), PATH, 1_000);
        let forged = access.assertion(&TicketKey::new(&[8; 32]), PATH, 1_000).unwrap();
        assert!(message(verified(&headers(forged))).contains("signature"));
        let valid = access.assertion(&key(), PATH, 1_000).unwrap();
        for garbage in ["", "!", "AVZPTExFWUE", "eA=="] {
            message(verified(&headers(HeaderValue::from_static(garbage))));
        }
        let mut twice = headers(valid.clone());
        twice.append(HeaderName::from_static(ASSERTION_HEADER), valid);
        message(verified(&twice));
    }

    #[test]
    fn assertion_of_an_unknown_method_or_nobody_is_refused() {
        let signed = |principal: &str, method| {
            let assertion = Assertion {
                principal: principal.into(),
                method,
                path: PATH.into(),
                expires_ms: 2_000,
                ..Assertion::default()
            };
            // With padding, as some senders of binary metadata have it.
            let value = base64::prelude::BASE64_STANDARD.encode(key().sign_assertion(&assertion));
            verify_assertion_header(&headers(value.parse().unwrap()), &key(), PATH, 1_000)
        };
        assert_eq!(signed("ann", 1).unwrap().0.name, "ann");
        assert!(message(signed("ann", 99)).contains("upgrade"));
        message(signed("ann", 0));
        message(signed("", 1));
    }

    #[test]
    fn very_many_groups_are_reduced_to_those_with_grants() {
        let directory = directory(3, &[grant("group:group-7", Role::Reader, "a")]);
        let asserted = |groups: usize| {
            let groups = (0..groups).map(|at| format!("group-{at}")).collect();
            let principal = Principal { groups, ..principal("ann", &[]) };
            let access = Access::of_principal(principal, directory.clone());
            let headers = headers(access.assertion(&key(), PATH, 1_000).unwrap());
            verify_assertion_header(&headers, &key(), PATH, 1_000).unwrap().0.groups
        };
        assert_eq!(asserted(100).len(), 100);
        assert_eq!(asserted(10_000), ["group-7"]);
    }

    #[test]
    fn credentials_of_a_client_are_not_forwarded() {
        let mut sent = headers(HeaderValue::from_static("forged"));
        sent.append(HeaderName::from_static(ASSERTION_HEADER), HeaderValue::from_static("again"));
        sent.insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        sent.append(AUTHORIZATION, HeaderValue::from_static("Basic secret"));
        sent.insert(AUTH_TOKEN_HEADER, HeaderValue::from_static("secret"));
        sent.insert("x-request-id", HeaderValue::from_static("7"));
        for (access, key) in [
            (Access::open(), Some(&key())),
            (Access::anonymous(), Some(&key())),
            (access(&directory(3, &[]), "ann"), None),
        ] {
            let mut headers = sent.clone();
            assert_principal(&mut headers, &access, key, PATH);
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
        }
        let mut headers = sent;
        assert_principal(&mut headers, &access(&directory(3, &[]), "ann"), Some(&key()), PATH);
        assert_eq!(headers.len(), 2);
        let (found, _) = verify_assertion_header(&headers, &key(), PATH, clock::now_ms()).unwrap();
        assert_eq!(found.name, "ann");
    }
}
