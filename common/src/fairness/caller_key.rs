//! Whom a call is counted for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::Access;
use crate::ip_network::network_of;

/// Whom a call is counted for. A call that a member forwards is counted for the principal that the member asserts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// A principal that has identified itself.
    Principal(Arc<str>),
    /// The network of a client without identity, also of everybody in an open cluster.
    Network(IpAddr),
    /// The cluster itself, and members that forward calls of an open cluster: nobody in particular.
    Cluster,
}

impl CallerKey {
    /// That of a caller.
    pub fn of(access: &Access) -> Self {
        match (access.principal(), access.client_ip()) {
            (Some(principal), _) => CallerKey::Principal(principal.name.as_str().into()),
            (None, Some(ip)) => CallerKey::Network(network_of(ip)),
            (None, None) => CallerKey::Cluster,
        }
    }

    /// Whose share of a [`FairBudget`](crate::fair_budget::FairBudget) it takes; `None`: nobody's in particular.
    pub fn budget_owner(&self) -> Option<Arc<str>> {
        (*self != CallerKey::Cluster).then(|| self.to_string().into())
    }
}

impl fmt::Display for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallerKey::Principal(name) => write!(f, "{name:?}"),
            CallerKey::Network(IpAddr::V4(ip)) => write!(f, "the client {ip}"),
            CallerKey::Network(IpAddr::V6(ip)) => write!(f, "the network {ip}/64"),
            CallerKey::Cluster => f.write_str("the cluster"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::identity::{Directory, LoginMethod, Principal};

    #[test]
    fn principal_is_one_caller_from_wherever_it_calls() {
        let principal = |credential: &str| Principal {
            name: "alice".into(),
            groups: Vec::new(),
            method: LoginMethod::Password,
            credential: credential.into(),
        };
        let key = |credential| CallerKey::of(&Access::of_principal(principal(credential), Arc::new(Directory::open())));
        assert_eq!(key("one token"), key("another"));
        assert_eq!(key("").to_string(), "\"alice\"");
        assert_eq!(key("").budget_owner().as_deref(), Some("\"alice\""));
        assert_eq!(CallerKey::of(&Access::open()), CallerKey::Cluster);
        assert_eq!(CallerKey::Cluster.budget_owner(), None);
    }

    #[test]
    fn network_is_named_as_operators_write_it() {
        let named = |ip: &str| CallerKey::Network(network_of(ip.parse().unwrap())).to_string();
        assert_eq!(named("::ffff:192.0.2.1"), "the client 192.0.2.1");
        assert_eq!(named("2001:db8::7"), "the network 2001:db8::/64");
    }
}
