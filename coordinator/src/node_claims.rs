//! Which node a caller may speak for. The catalog binds a node to the name in the certificate with which it first registered.
//!
//! A node that has registered without TLS only is not bound: any node may speak for it, as while a cluster changes to TLS.
//! Callers without TLS may speak for every node; the peer port refuses them once all members have certificates.

use volley_common::tls::Caller;
use volley_common::wire::catalog::WriteState;
use volley_common::{Error, NodeId, Result};

use crate::catalog::Catalog;

/// Checks that the caller may speak for a node.
///
/// # Errors
/// PERMISSION_DENIED: it is not a node, or its certificate has another name than the node is bound to.
pub fn check_node(catalog: &Catalog, caller: &Caller, node: NodeId) -> Result<()> {
    let bound = catalog.node(node).map_or("", |node| node.certificate_name.as_str());
    caller.speaks_for_node(node, bound)
}

/// Checks that a node may register with the caller's certificate. One certificate is for one node at a time: otherwise its
/// holder could join any number of nodes. A node that lost its data folder joins as another node once the earlier one is
/// unreachable.
///
/// # Errors
/// As [`check_node`]. UNAVAILABLE: another node that is alive has the same certificate.
pub fn check_registration(catalog: &Catalog, caller: &Caller, node: NodeId) -> Result<()> {
    check_node(catalog, caller, node)?;
    let Some(name) = caller.node_name()? else { return Ok(()) };
    let other = catalog.live_nodes().find(|other| other.id != node.0 && other.certificate_name == name);
    match other {
        None => Ok(()),
        Some(other) => Err(Error::unavailable(format!(
            "node {node} has the certificate volley://node/{name}, and so has node {} at {}, which is alive: give each node a certificate of its own, or stop that node",
            NodeId(other.id),
            other.peer_addr
        ))),
    }
}

/// Checks that the caller may speak for the node that writes an open put or compaction. `attempt` 0 means any attempt; an
/// attempt that is not the open one has no effect, and neither has a write that is not open: the catalog decides about both.
/// A staged write belongs to no node.
///
/// # Errors
/// PERMISSION_DENIED, naming the write: as [`check_node`].
pub fn check_writer(catalog: &Catalog, caller: &Caller, write: &str, attempt: u64) -> Result<()> {
    caller.node_name()?;
    let open = catalog.write(write).filter(|known| known.state() == WriteState::Open && !known.staged);
    match open.filter(|known| attempt == 0 || attempt == known.attempt) {
        Some(known) => {
            check_node(catalog, caller, NodeId(known.writer)).map_err(|e| e.at(format_args!("write {write:?}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use volley_common::Code;
    use volley_common::tls::{MemberIdentity, MemberRole};
    use volley_common::wire::catalog::{Node, NodeState, Row, Write, row};

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::Member(Arc::new(MemberIdentity { role: MemberRole::Node, name: name.into() }))
    }

    /// Nodes 1 and 2 are bound to n1 and n2, node 3 to none. Node 2 is unreachable.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (id, name, state) in
            [(1, "n1", NodeState::Alive), (2, "n2", NodeState::Unreachable), (3, "", NodeState::Alive)]
        {
            let node = Node { id, state: state.into(), certificate_name: name.into(), ..Node::default() };
            catalog.insert_row(Row { row: Some(row::Row::Node(node)) });
        }
        for (id, staged) in [("put", false), ("staged", true)] {
            let write = Write { id: id.into(), writer: 1, attempt: 5, staged, ..Write::default() };
            catalog.insert_row(Row { row: Some(row::Row::Write(write)) });
        }
        catalog
    }

    fn code(result: Result<()>) -> Code {
        result.map_or_else(|error| error.code, |()| Code::Ok)
    }

    #[test]
    fn bound_node_accepts_its_own_certificate_only() {
        let catalog = catalog();
        for (name, id, expected) in [
            ("n1", 1, Code::Ok),
            ("n1", 2, Code::PermissionDenied),
            ("n1", 3, Code::Ok),
            ("n1", 9, Code::Ok),
            ("n2", 1, Code::PermissionDenied),
        ] {
            assert_eq!(code(check_node(&catalog, &caller(name), NodeId(id))), expected, "{name} {id}");
        }
        check_node(&catalog, &Caller::Plaintext, NodeId(1)).unwrap();
    }

    #[test]
    fn certificate_registers_one_live_node() {
        let catalog = catalog();
        for (name, id, expected) in [
            ("n1", 1, Code::Ok),
            ("n1", 3, Code::Unavailable),
            ("n1", 9, Code::Unavailable),
            ("n3", 3, Code::Ok),
            ("n2", 9, Code::Ok),
            ("n3", 1, Code::PermissionDenied),
        ] {
            assert_eq!(code(check_registration(&catalog, &caller(name), NodeId(id))), expected, "{name} {id}");
        }
        check_registration(&catalog, &Caller::Plaintext, NodeId(9)).unwrap();
        let coordinator = MemberIdentity { role: MemberRole::Coordinator, name: "1".into() };
        let coordinator = Caller::Member(Arc::new(coordinator));
        assert_eq!(code(check_registration(&catalog, &coordinator, NodeId(9))), Code::PermissionDenied);
    }

    #[test]
    fn open_put_belongs_to_its_writer() {
        let catalog = catalog();
        for (name, write, attempt, expected) in [
            ("n1", "put", 5, Code::Ok),
            ("n2", "put", 5, Code::PermissionDenied),
            ("n2", "put", 0, Code::PermissionDenied),
            ("n2", "put", 6, Code::Ok),
            ("n2", "staged", 0, Code::Ok),
            ("n2", "unknown", 5, Code::Ok),
        ] {
            let result = check_writer(&catalog, &caller(name), write, attempt);
            assert_eq!(code(result), expected, "{name} {write} {attempt}");
        }
        check_writer(&catalog, &Caller::Plaintext, "put", 5).unwrap();
        let message = check_writer(&catalog, &caller("n2"), "put", 5).unwrap_err().message;
        assert!(message.contains("write \"put\"") && message.contains("volley://node/n2"), "{message}");
    }
}
