//! To whom a certificate is issued, and the names in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use volley_common::{Error, Result};

/// Characters of a name: those of a common name in X.509 (RFC 5280, `ub-common-name`).
const MAX_NAME: usize = 64;
/// Characters of a host name, and of each of its labels (RFC 1035).
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// The holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSubject {
    /// The coordinator with this id.
    Coordinator(u64),
    /// The node with this name.
    Node(String),
    /// A server for clients, at this host name or IPv4 address.
    Server(String),
    /// A user with this name.
    User(String),
}

impl CertificateSubject {
    /// `coordinator/ID` or `node/NAME`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: neither of them, or their errors.
    pub fn member(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some(("coordinator", id)) => Self::coordinator(id),
            Some(("node", name)) => Self::node(name),
            _ => Err(Error::invalid("must be coordinator/ID or node/NAME, as in coordinator/1 or node/n1")),
        }
    }

    /// A coordinator, by its id.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: no number, or 0.
    pub fn coordinator(text: &str) -> Result<Self> {
        match text.parse::<u64>() {
            // `+1` and `01` are numbers, but not the id as members write it.
            Ok(id) if id > 0 && text == id.to_string() => Ok(CertificateSubject::Coordinator(id)),
            _ => Err(Error::invalid("must be the coordinator's id, a whole number from 1 on, as in its setting `id`")),
        }
    }

    /// A node, by its name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an empty or long name, or a character other than letters, digits and `.-_`.
    pub fn node(text: &str) -> Result<Self> {
        checked_name(text, ".-_").map(CertificateSubject::Node)
    }

    /// A server, by its host name or IPv4 address.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the name is neither, or is longer than the name of a file and of a subject should be.
    pub fn server(text: &str) -> Result<Self> {
        if text.contains(['*', ':']) {
            return Err(Error::invalid(
                "must be a host name or an IPv4 address, because it names files: add wildcards and IPv6 addresses with --san",
            ));
        }
        let name = checked_name(text, ".-_")?;
        name.parse::<AltName>()?;
        Ok(CertificateSubject::Server(name))
    }

    /// A user, by its name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an empty or long name, or a character other than letters, digits and `.-_@+`.
    pub fn user(text: &str) -> Result<Self> {
        checked_name(text, ".-_@+").map(CertificateSubject::User)
    }

    /// The names of the certificate's files without extension. Two subjects with the same one need two folders.
    pub fn file_stem(&self) -> String {
        match self {
            CertificateSubject::Coordinator(id) => format!("coordinator-{id}"),
            CertificateSubject::Node(name) => format!("node-{name}"),
            CertificateSubject::Server(name) | CertificateSubject::User(name) => name.clone(),
        }
    }

    /// The subject's common name. Members are recognized by [`Self::uri`] only.
    pub fn common_name(&self) -> String {
        match self {
            CertificateSubject::Coordinator(id) => format!("coordinator-{id}"),
            CertificateSubject::Node(name) | CertificateSubject::Server(name) | CertificateSubject::User(name) => {
                name.clone()
            }
        }
    }

    /// The URI that other members verify; servers have none.
    pub fn uri(&self) -> Option<String> {
        match self {
            CertificateSubject::Coordinator(id) => Some(format!("volley://coordinator/{id}")),
            CertificateSubject::Node(name) => Some(format!("volley://node/{name}")),
            CertificateSubject::Server(_) => None,
            CertificateSubject::User(name) => Some(format!("volley://user/{name}")),
        }
    }

    /// The addresses in every certificate of this subject. Those of a server include loopback, for health checks and tools
    /// on its own machine.
    pub fn own_names(&self) -> Vec<AltName> {
        match self {
            CertificateSubject::Server(name) => vec![
                name.parse().unwrap_or_else(|_| AltName::Dns(name.clone())),
                AltName::Dns("localhost".into()),
                AltName::Ip(Ipv4Addr::LOCALHOST.into()),
                AltName::Ip(Ipv6Addr::LOCALHOST.into()),
            ],
            _ => Vec::new(),
        }
    }
}

/// A name that can be a part of a path, a URI and a subject as it is.
fn checked_name(text: &str, punctuation: &str) -> Result<String> {
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(Error::invalid(format!(
            "a name must have 1 to {MAX_NAME} characters, and this one has {}",
            text.chars().count()
        )));
    }
    if let Some(other) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !punctuation.contains(*c)) {
        return Err(Error::invalid(format!("a name has only ASCII letters, digits and {punctuation}, not {other:?}")));
    }
    if text.starts_with(['.', '-']) {
        return Err(Error::invalid("a name must not begin with . or -"));
    }
    if text.eq_ignore_ascii_case("ca") {
        return Err(Error::invalid("the name ca is taken: ca.crt and ca.key are the authority's files"));
    }
    Ok(text.into())
}

/// An address that a certificate is valid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltName {
    /// A host name; its first label may be `*`.
    Dns(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
}

impl FromStr for AltName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = unbracketed.unwrap_or(text).parse() {
            return Ok(AltName::Ip(address));
        }
        let labels: Vec<&str> = text.strip_prefix("*.").unwrap_or(text).split('.').collect();
        // The last label of a name is never a number (RFC 1123): 10.0.0.256 is an address with a mistake.
        let numeric = labels.last().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if text.len() > MAX_HOST || numeric || !labels.iter().copied().all(is_label) {
            return Err(Error::invalid(format!(
                "{text:?} is neither a host name nor an IP address: give it without scheme and port, as in volley.example or 10.0.0.7"
            )));
        }
        Ok(AltName::Dns(text.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AltName::Dns(name) => f.write_str(name),
            AltName::Ip(address) => address.fmt(f),
        }
    }
}
