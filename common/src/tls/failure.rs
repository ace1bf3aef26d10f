//! Why a handshake failed, in words for a user. rustls's own texts name types of the library.

use std::io;
use std::net::IpAddr;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// The error of a TLS stream, with a text that says what is wrong with which side. Other errors stay as they are. If the
/// other side refuses this side's certificate, its kind is PERMISSION_DENIED.
pub(super) fn explained(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        // In TLS 1.3 a server refuses a client's certificate after the client may have sent a request, which it then has
        // not read. The kind says so to `net::failover`: of errors, HTTP/2 passes on only the kind and the text.
        Some(Error::AlertReceived(alert)) if refuses_certificate(*alert) => {
            io::Error::new(io::ErrorKind::PermissionDenied, alert_text(*alert))
        }
        Some(cause) => io::Error::new(error.kind(), describe(cause)),
        None => error,
    }
}

fn refuses_certificate(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | UnknownCA
            | UnsupportedCertificate
    )
}

/// The same for the error of a handshake that this side began: if the connection ended, the port is the likely cause.
pub(super) fn explained_connect(error: io::Error) -> io::Error {
    ended(error, "the other side closed the connection during the TLS handshake: its port may have no TLS")
}

/// The same for a handshake that the other side began.
pub(super) fn explained_accept(error: io::Error) -> io::Error {
    ended(error, "the client closed the connection during the TLS handshake: it may not trust this certificate")
}

fn ended(error: io::Error, likely_cause: &'static str) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | BrokenPipe => io::Error::new(error.kind(), likely_cause),
        _ => explained(error),
    }
}

pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => certificate(why),
        Error::NoCertificatesPresented => "it presented no certificate, and this side demands one".into(),
        Error::AlertReceived(alert) => alert_text(*alert),
        Error::InvalidMessage(_) => "the other side does not speak TLS: its port may have no TLS".into(),
        Error::NoApplicationProtocol => "it offers no protocol that this side speaks (ALPN h2)".into(),
        // A client of TLS 1.1 at most does not know the extension.
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => "it offers no TLS version that is allowed: TLS 1.2 is the least".into(),
        other => other.to_string(),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "its certificate is not signed by a CA that this side trusts".into(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented = presented.iter().take(8).map(|name| plain_name(name)).collect::<Vec<_>>().join(", ");
            format!("its certificate is not for {}, but for {presented}", expected.to_str())
        }
        CertificateError::NotValidForName => "its certificate is for another name".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for this purpose: a server's needs the extended key usage serverAuth, a client's clientAuth, a member's both".into()
        }
        CertificateError::Other(other) => other.to_string(),
        other => format!("its certificate cannot be verified: {other:?}"),
    }
}

/// A name of a certificate as rustls prints it, `DnsName("localhost")` or `IpAddress(0::1)`, as people write it.
fn plain_name(printed: &str) -> String {
    let name = printed.split_once('(').map_or(printed, |(_, name)| name.trim_end_matches(')')).trim_matches('"');
    name.parse().map_or_else(|_| name.to_string(), |ip: IpAddr| ip.to_string())
}

fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "it demands a client certificate: give one by --tls-cert and --tls-key".into()
        }
        AlertDescription::UnknownCA => "it does not trust the CA of this side's certificate".into(),
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "it refuses this side's certificate; its log says why".into()
        }
        AlertDescription::CertificateExpired => "this side's certificate has expired".into(),
        AlertDescription::UnrecognisedName => "this port has TLS for members only: clients use it without TLS".into(),
        AlertDescription::NoApplicationProtocol => "it speaks no HTTP/2 on this port".into(),
        AlertDescription::ProtocolVersion => "it allows no TLS version that this side offers".into(),
        other => format!("it ended the TLS handshake with the alert {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_as_people_write_them() {
        let printed = ["DnsName(\"localhost\")", "IpAddress(127.0.0.1)", "IpAddress(0::1)", "other"];
        assert_eq!(printed.map(plain_name), ["localhost", "127.0.0.1", "::1", "other"]);
    }

    #[test]
    fn only_errors_of_tls_are_explained() {
        let tls = |error| explained(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        assert!(tls(Error::InvalidCertificate(CertificateError::UnknownIssuer)).contains("a CA that this side trusts"));
        assert!(tls(Error::AlertReceived(AlertDescription::CertificateRequired)).contains("--tls-cert"));
        assert_eq!(explained(io::Error::other("disk")).to_string(), "disk");
        let alert = |alert| explained(io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert))).kind();
        assert_eq!(alert(AlertDescription::CertificateRequired), io::ErrorKind::PermissionDenied);
        assert_eq!(alert(AlertDescription::UnknownCA), io::ErrorKind::PermissionDenied);
        assert_eq!(alert(AlertDescription::DecryptError), io::ErrorKind::InvalidData);
        let ended = explained_connect(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        assert!(ended.to_string().contains("may have no TLS"));
    }
}
