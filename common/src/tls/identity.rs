//! Whom a certificate names: a member or a client.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::{Error, Result};

/// The scheme of the names that Volley gives.
const SCHEME: &str = "volley://";
/// A user's certificate of `volley certs` names its user by a URI that begins with this.
const USER_URI: &str = "volley://user/";
/// The longest name of a node or a client, bytes.
const MAX_NAME: usize = 255;

/// Who is at the other end of a connection, as its TLS handshake proved. An extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The connection has no TLS.
    Plaintext,
    /// TLS without a client certificate.
    Anonymous,
    /// A client with a certificate.
    Client(Arc<ClientIdentity>),
    /// A member of the cluster.
    Member(Arc<MemberIdentity>),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Plaintext => f.write_str("a caller without TLS"),
            Caller::Anonymous => f.write_str("a caller without a certificate"),
            Caller::Client(client) => write!(f, "the client {}", client.name),
            Caller::Member(member) => write!(f, "the member {member}"),
        }
    }
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// It holds the catalog.
    Coordinator,
    /// It stores parts.
    Node,
}

impl MemberRole {
    /// The role as it is in a certificate.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberRole::Coordinator => "coordinator",
            MemberRole::Node => "node",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The member that a certificate names, by its only URI `volley://coordinator/ID` or `volley://node/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIdentity {
    /// What it is.
    pub role: MemberRole,
    /// A coordinator's id, decimal; a node's name.
    pub name: String,
}

impl MemberIdentity {
    /// The id of a coordinator.
    pub fn coordinator_id(&self) -> Option<u64> {
        (self.role == MemberRole::Coordinator).then(|| self.name.parse().ok()).flatten()
    }

    /// The member that a certificate names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it names none, or more than one.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self> {
        let parsed = parse(certificate)?;
        let names = alternative_names(&parsed);
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => uri.parse(),
            (None, _) => Err(Error::invalid(format!(
                "the certificate of {} is no member's: it has no URI volley://coordinator/ID or volley://node/NAME",
                subject_of(certificate)
            ))),
            (Some(first), Some(second)) => Err(Error::invalid(format!(
                "the certificate of {} names several members, {first} and {second}: a member's certificate names one",
                subject_of(certificate)
            ))),
        }
    }
}

impl fmt::Display for MemberIdentity {
    /// The URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role, self.name)
    }
}

impl FromStr for MemberIdentity {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "{uri:?} names no member: a member's certificate has the URI volley://coordinator/ID or volley://node/NAME"
            ))
        };
        let (role, name) = uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let role = match role {
            "coordinator" => MemberRole::Coordinator,
            "node" => MemberRole::Node,
            _ => return Err(bad()),
        };
        let is_valid = match role {
            // The one spelling of a number, so that one id has one identity.
            MemberRole::Coordinator => name.parse::<u64>().is_ok_and(|id| id > 0 && id.to_string() == name),
            MemberRole::Node => is_node_name(name),
        };
        if !is_valid {
            return Err(bad());
        }
        Ok(MemberIdentity { role, name: name.into() })
    }
}

fn is_node_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(allowed)
}

/// The client that a certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIdentity {
    /// The user of a URI `volley://user/NAME`; else the first email address, URI or DNS name; else the common name.
    pub name: String,
    /// The SHA-256 of the certificate, 64 hexadecimal digits.
    pub fingerprint: String,
}

impl ClientIdentity {
    /// The client that a certificate names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it has neither such a name nor a common name.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self> {
        let parsed = parse(certificate)?;
        let names = alternative_names(&parsed);
        let user = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(USER_URI),
            _ => None,
        });
        let email =
            || names.iter().find_map(|name| if let GeneralName::RFC822Name(text) = name { Some(*text) } else { None });
        let uri = || names.iter().find_map(|name| if let GeneralName::URI(text) = name { Some(*text) } else { None });
        let dns =
            || names.iter().find_map(|name| if let GeneralName::DNSName(text) = name { Some(*text) } else { None });
        let name = user.or_else(email).or_else(uri).or_else(dns).or_else(|| common_name(&parsed));
        match name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)) {
            Some(name) => Ok(ClientIdentity { name: name.into(), fingerprint: fingerprint_of(certificate) }),
            None => Err(Error::invalid(format!(
                "the certificate of {} names no client: it needs a common name, or an email address, URI or DNS name of 1 to {MAX_NAME} bytes",
                subject_of(certificate)
            ))),
        }
    }
}

/// Whether a certificate says what it is for, and a client is not among that.
pub(super) fn is_not_for_clients(certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = parse(certificate) else { return false };
    // What cannot be read is left to the server.
    let usage = parsed.extended_key_usage().ok().flatten();
    usage.is_some_and(|usage| !usage.value.client_auth && !usage.value.any)
}

fn fingerprint_of(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(e) => Err(Error::invalid(format!("a certificate cannot be read: {e}"))),
    }
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> &'a [GeneralName<'a>] {
    match certificate.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        // Names that cannot be read are none.
        Ok(None) | Err(_) => &[],
    }
}

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok())
}

/// The subject of a certificate, for logs and errors; what it is not able to say if it cannot be read.
pub(super) fn subject_of(certificate: &CertificateDer<'_>) -> String {
    /// Longer subjects are cut.
    const MAX_CHARS: usize = 200;
    let Ok(parsed) = parse(certificate) else { return "unreadable".into() };
    let names = alternative_names(&parsed).iter().filter_map(|name| match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) | GeneralName::RFC822Name(text) => Some(*text),
        _ => None,
    });
    let text =
        std::iter::once(parsed.subject().to_string()).chain(names.map(String::from)).collect::<Vec<_>>().join(", ");
    let printable = text.chars().map(|c| if c.is_control() { '?' } else { c });
    let text: String = printable.take(MAX_CHARS).collect();
    format!("{:?}", text.trim_start_matches(", "))
}

/// From when until when a certificate is valid, seconds since 1970.
pub(super) fn validity_of(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let parsed = parse(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::TestCa;
    use super::*;

    #[test]
    fn member_uri_is_parsed_and_displayed() {
        for (uri, role, name) in [
            ("volley://coordinator/1", MemberRole::Coordinator, "1"),
            ("volley://node/n1", MemberRole::Node, "n1"),
            ("volley://node/volley-node-0.volley", MemberRole::Node, "volley-node-0.volley"),
        ] {
            let identity: MemberIdentity = uri.parse().unwrap();
            assert_eq!((identity.role, identity.name.as_str()), (role, name));
            assert_eq!(identity.to_string(), uri);
        }
        assert_eq!("volley://coordinator/7".parse::<MemberIdentity>().unwrap().coordinator_id(), Some(7));
        assert_eq!("volley://node/7".parse::<MemberIdentity>().unwrap().coordinator_id(), None);
    }

    #[test]
    fn uri_that_names_no_member_is_refused() {
        for uri in [
            "volley://coordinator/0",
            "volley://coordinator/01",
            "volley://coordinator/+1",
            "volley://coordinator/x",
            "volley://coordinator/",
            "volley://node/",
            "volley://node/a/b",
            "volley://node/a b",
            "volley://user/a",
            "https://node/a",
            "",
        ] {
            assert!(uri.parse::<MemberIdentity>().is_err(), "{uri}");
        }
    }

    #[test]
    fn certificate_names_exactly_one_member() {
        let ca = TestCa::new("ca");
        let named = |uris: &[&str]| MemberIdentity::of_certificate(ca.issue_named("x", uris).der());
        assert_eq!(named(&["volley://node/a"]).unwrap().to_string(), "volley://node/a");
        assert_eq!(named(&["spiffe://other", "volley://node/a"]).unwrap().name, "a");
        assert!(named(&[]).unwrap_err().message.contains("no member's"));
        assert!(named(&["volley://node/a", "volley://coordinator/1"]).unwrap_err().message.contains("several"));
        assert!(named(&["volley://user/a"]).is_err());
    }

    #[test]
    fn client_is_named_by_user_uri_then_other_names() {
        let ca = TestCa::new("ca");
        let name =
            |cn: &str, uris: &[&str]| ClientIdentity::of_certificate(ca.issue_named(cn, uris).der()).map(|c| c.name);
        assert_eq!(name("cn", &["spiffe://x", "volley://user/ann"]).unwrap(), "ann");
        assert_eq!(name("cn", &["spiffe://x"]).unwrap(), "spiffe://x");
        assert_eq!(name("cn", &[]).unwrap(), "cn");
        assert!(name("", &[]).is_err());
        assert_eq!(ClientIdentity::of_certificate(ca.issue_server(&["host"]).der()).unwrap().name, "host");
        let fingerprint = |cn: &str| ClientIdentity::of_certificate(ca.issue_named(cn, &[]).der()).unwrap().fingerprint;
        assert!(fingerprint("a").len() == 64 && fingerprint("a") != fingerprint("a"), "each certificate has its own");
    }
}
