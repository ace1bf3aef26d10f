//! The identities that certificates name.

use std::fmt;
use std::sync::Arc;

/// What a member of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// It replicates the catalog.
    Coordinator,
    /// It stores parts.
    Node,
}

/// The member that a certificate names, by its SAN URI `volley://coordinator/ID` or `volley://node/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Its role.
    pub role: MemberRole,
    /// A coordinator's id, in decimal digits, or a node's name.
    pub name: String,
}

impl MemberIdentity {
    /// The id of a coordinator.
    pub fn coordinator_id(&self) -> Option<u64> {
        (self.role == MemberRole::Coordinator).then(|| self.name.parse().ok()).flatten()
    }
}

impl fmt::Display for MemberIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            MemberRole::Coordinator => "coordinator",
            MemberRole::Node => "node",
        };
        write!(f, "volley://{role}/{}", self.name)
    }
}

/// The client that a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The SAN or the CN of its certificate.
    pub name: String,
}

/// Who is at the other end of a connection, as its TLS handshake proved. An extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The connection has no TLS.
    Plaintext,
    /// The connection has TLS, and the caller sent no certificate.
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
