//! What a caller may claim in its messages: a coordinator's id or a node's id must be that of its certificate.
//!
//! Plaintext callers may claim any id, as in a cluster without TLS. A peer port that requires TLS refuses them before.

use tonic::{Extensions, Request};

use super::{Caller, MemberRole};
use crate::{Error, NodeId, Result};

/// The caller of a request that no listener has marked.
static UNMARKED: Caller = Caller::Plaintext;

impl Caller {
    /// The caller of a request, from the request's extensions.
    pub fn of(extensions: &Extensions) -> &Caller {
        extensions.get::<Caller>().unwrap_or(&UNMARKED)
    }

    /// The caller of a request, and its message.
    pub fn split<T>(request: Request<T>) -> (Caller, T) {
        let caller = Caller::of(request.extensions()).clone();
        (caller, request.into_inner())
    }

    /// Checks that the caller has a role.
    ///
    /// # Errors
    /// PERMISSION_DENIED: its certificate names another role, or no member.
    pub fn speaks_as(&self, role: MemberRole) -> Result<()> {
        match self {
            Caller::Plaintext => Ok(()),
            Caller::Member(member) if member.role == role => Ok(()),
            other => {
                let (name, uri) = match role {
                    MemberRole::Coordinator => ("coordinators", "volley://coordinator/ID"),
                    MemberRole::Node => ("nodes", "volley://node/NAME"),
                };
                Err(Error::denied(format!(
                    "only {name} may call this, and the caller is {other}: give it a certificate with the URI {uri}"
                )))
            }
        }
    }

    /// Checks that the caller is the coordinator that its message claims to be from.
    ///
    /// # Errors
    /// PERMISSION_DENIED: its certificate names another coordinator, a node, or no member.
    pub fn speaks_for_coordinator(&self, id: u64) -> Result<()> {
        match self {
            Caller::Plaintext => Ok(()),
            Caller::Member(member) if member.coordinator_id() == Some(id) => Ok(()),
            other => Err(Error::denied(format!(
                "the message claims to be from coordinator {id}, and the caller is {other}: give coordinator {id} a certificate with the URI volley://coordinator/{id}"
            ))),
        }
    }

    /// The name in the certificate of a node; none without TLS.
    ///
    /// # Errors
    /// PERMISSION_DENIED: the caller is not a node.
    pub fn node_name(&self) -> Result<Option<&str>> {
        self.speaks_as(MemberRole::Node)?;
        Ok(match self {
            Caller::Member(member) => Some(member.name.as_str()),
            Caller::Plaintext | Caller::Anonymous | Caller::Client(_) => None,
        })
    }

    /// Checks that the caller may speak for a node, which is bound to the name `bound`; empty: to none yet.
    ///
    /// # Errors
    /// PERMISSION_DENIED: the caller is not a node, or a node with another name.
    pub fn speaks_for_node(&self, id: NodeId, bound: &str) -> Result<()> {
        match self.node_name()? {
            Some(name) if !bound.is_empty() && name != bound => Err(Error::denied(format!(
                "the message claims to be from node {id}, which has the certificate volley://node/{bound}, and the caller is {self}: start each node with its own data folder and always the same certificate"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Code;
    use crate::tls::{ClientIdentity, MemberIdentity};

    fn member(role: MemberRole, name: &str) -> Caller {
        Caller::Member(Arc::new(MemberIdentity { role, name: name.into() }))
    }

    fn coordinator(name: &str) -> Caller {
        member(MemberRole::Coordinator, name)
    }

    fn node(name: &str) -> Caller {
        member(MemberRole::Node, name)
    }

    fn client() -> Caller {
        Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() }))
    }

    fn denial(result: Result<()>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
        error.message
    }

    #[test]
    fn coordinator_speaks_for_its_own_id_only() {
        coordinator("2").speaks_for_coordinator(2).unwrap();
        let message = denial(coordinator("2").speaks_for_coordinator(3));
        assert!(message.contains("coordinator 3") && message.contains("volley://coordinator/2"), "{message}");
        for other in [coordinator(""), node("2"), client(), Caller::Anonymous] {
            denial(other.speaks_for_coordinator(2));
        }
    }

    #[test]
    fn node_speaks_for_the_node_that_is_bound_to_its_name() {
        let id = NodeId(7);
        node("n1").speaks_for_node(id, "n1").unwrap();
        node("n1").speaks_for_node(id, "").unwrap();
        let message = denial(node("n1").speaks_for_node(id, "n2"));
        assert!(message.contains("volley://node/n1") && message.contains(&id.to_string()), "{message}");
        for other in [coordinator("1"), client(), Caller::Anonymous] {
            denial(other.speaks_for_node(id, ""));
        }
    }

    #[test]
    fn role_is_that_of_the_certificate() {
        coordinator("1").speaks_as(MemberRole::Coordinator).unwrap();
        node("n1").speaks_as(MemberRole::Node).unwrap();
        assert_eq!(node("n1").node_name().unwrap(), Some("n1"));
        denial(coordinator("1").speaks_as(MemberRole::Node));
        denial(node("n1").speaks_as(MemberRole::Coordinator));
        assert!(denial(client().speaks_as(MemberRole::Node)).contains("the client alice"));
    }

    #[test]
    fn plaintext_caller_may_claim_any_id() {
        let (unmarked, ()) = Caller::split(Request::new(()));
        assert_eq!(unmarked, Caller::Plaintext);
        unmarked.speaks_for_coordinator(3).unwrap();
        unmarked.speaks_for_node(NodeId(7), "n1").unwrap();
        unmarked.speaks_as(MemberRole::Coordinator).unwrap();
        assert_eq!(unmarked.node_name().unwrap(), None);
    }

    #[test]
    fn caller_of_a_request_is_its_extension() {
        let mut request = Request::new(5);
        request.extensions_mut().insert(node("n1"));
        assert_eq!(Caller::split(request), (node("n1"), 5));
    }
}
