//! What a file of certificates says: subjects, names, uses and validity, for people.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use volley_common::{Error, Result};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

/// What one certificate says. Nothing in it is verified.
#[derive(Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The subject: its common name if that is all.
    pub subject: String,
    /// The subject of the authority that signed it.
    pub issuer: String,
    /// The subject alternative names: host names, addresses, URIs.
    pub names: Vec<String>,
    /// What its holder may be: `authority`, `server`, `client`.
    pub uses: Vec<&'static str>,
    /// The end of its validity, milliseconds since 1970.
    pub not_after_ms: u64,
}

/// The certificates of a PEM file, in its order.
///
/// # Errors
/// INVALID_ARGUMENT: there is none, or one cannot be read; the message says what the file contains instead.
pub fn summaries(pem: &[u8]) -> Result<Vec<CertificateSummary>> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|e| Error::invalid(format!("the file is not PEM or is cut off ({e})")))?;
        if block.label != "CERTIFICATE" {
            others.push(block.label);
            continue;
        }
        let certificate = block
            .parse_x509()
            .map_err(|e| Error::invalid(format!("certificate {} of the file cannot be read: {e}", found.len() + 1)))?;
        found.push(summary(&certificate));
    }
    match (found.is_empty(), others.first()) {
        (false, _) => Ok(found),
        (true, Some(label)) => {
            Err(Error::invalid(format!("the file contains no certificate but a {label}: give the .crt file")))
        }
        (true, None) => Err(Error::invalid("the file contains no certificate in PEM")),
    }
}

fn summary(certificate: &X509Certificate<'_>) -> CertificateSummary {
    let names = certificate.subject_alternative_name().ok().flatten();
    let usage = certificate.extended_key_usage().ok().flatten();
    let uses = [
        ("authority", certificate.is_ca()),
        ("server", usage.as_ref().is_some_and(|usage| usage.value.server_auth)),
        ("client", usage.as_ref().is_some_and(|usage| usage.value.client_auth)),
    ];
    CertificateSummary {
        subject: short_name(&certificate.subject().to_string()),
        issuer: short_name(&certificate.issuer().to_string()),
        names: names.map_or_else(Vec::new, |names| names.value.general_names.iter().map(name_text).collect()),
        uses: uses.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
        not_after_ms: timestamp_ms(certificate.validity().not_after),
    }
}

/// `CN=n1` without its label; a longer name whole.
fn short_name(name: &str) -> String {
    name.strip_prefix("CN=").filter(|name| !name.contains(['=', ','])).unwrap_or(name).to_string()
}

fn name_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => (*text).to_string(),
        GeneralName::IPAddress(bytes) => ip_address(bytes).map_or_else(|| format!("{bytes:?}"), |ip| ip.to_string()),
        other => other.to_string(),
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// Milliseconds since 1970; 0 for earlier times.
pub(super) fn timestamp_ms(time: ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000)
}
