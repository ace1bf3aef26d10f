//! Which node a caller may speak for. The catalog binds a node to the name in the certificate with which it first registered.
//!
//! A node that has registered without TLS only is not bound: any node may speak for it, as while a cluster changes to TLS.
//! Callers without TLS may speak for every node; the peer port refuses them once all members have certificates.

use volley_common::tls::Caller;
use volley_common::wire::catalog::{Node, WriteState};
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

/// Whether the catalog has a name that a node is bound to. It never changes, so that a catalog that lags decides as well.
pub fn is_bound(catalog: &Catalog, node: NodeId) -> bool {
    catalog.node(node).is_some_and(|node| !node.certificate_name.is_empty())
}

/// Checks that a node may register with the caller's certificate. One certificate is for one node at a time: otherwise its
/// holder could join any number of nodes, if each ended its session before the next one registers. A node that lost its
/// data folder joins as another node once the earlier one has been unreachable for as long as its parts are waited for.
///
/// # Errors
/// As [`check_node`]. UNAVAILABLE: another node that was not removed has the same certificate, and is alive, or was until
/// less than `repair_delay_ms` before `now_ms`.
pub fn check_registration(
    catalog: &Catalog,
    caller: &Caller,
    node: NodeId,
    now_ms: u64,
    repair_delay_ms: u64,
) -> Result<()> {
    check_node(catalog, caller, node)?;
    let Some(name) = caller.node_name()? else { return Ok(()) };
    let conflicts = |other: &&Node| {
        let may_return = other.is_alive() || missed_ms(other, now_ms) < repair_delay_ms;
        other.id != node.0 && other.certificate_name == name && may_return
    };
    let Some(other) = catalog.nodes().find(conflicts) else { return Ok(()) };
    let (id, addr) = (NodeId(other.id), &other.peer_addr);
    let remedy = match other.is_alive() {
        true => "which is alive: give each node a certificate of its own, or stop and remove that node".into(),
        false => format!(
            "which became unreachable a moment ago: give each node a certificate of its own, or, if this node replaces that one, remove that one or wait {} s",
            repair_delay_ms.saturating_sub(missed_ms(other, now_ms)).div_ceil(1000)
        ),
    };
    Err(Error::unavailable(format!(
        "node {node} has the certificate volley://node/{name}, and so has node {id} at {addr}, {remedy}"
    )))
}

/// For how long a node has been unreachable, milliseconds; 0 if it is alive.
fn missed_ms(node: &Node, now_ms: u64) -> u64 {
    if node.is_alive() { 0 } else { now_ms.saturating_sub(node.unreachable_since_ms) }
}

/// Whether the catalog has the put or compaction of this attempt, and the name that its writer is bound to: then a catalog
/// that lags decides as well about [`check_writer`].
pub fn is_writer_bound(catalog: &Catalog, write: &str, attempt: u64) -> bool {
    writer_of(catalog, write, attempt).is_some_and(|writer| is_bound(catalog, writer))
}

/// The node that writes an open put or compaction.
fn writer_of(catalog: &Catalog, write: &str, attempt: u64) -> Option<NodeId> {
    let open = catalog.write(write).filter(|known| known.state() == WriteState::Open && !known.staged)?;
    (attempt == 0 || attempt == open.attempt).then_some(NodeId(open.writer))
}

/// Checks that the caller may speak for the node that writes an open put or compaction. `attempt` 0 means any attempt; an
/// attempt that is not the open one has no effect, and neither has a write that is not open: the catalog decides about both.
/// A staged write belongs to no node.
///
/// # Errors
/// PERMISSION_DENIED, naming the write: as [`check_node`].
pub fn check_writer(catalog: &Catalog, caller: &Caller, write: &str, attempt: u64) -> Result<()> {
    caller.node_name()?;
    match writer_of(catalog, write, attempt) {
        Some(writer) => check_node(catalog, caller, writer).map_err(|e| e.at(format_args!("write {write:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use volley_common::Code;
    use volley_common::tls::{MemberIdentity, MemberRole};
    use volley_common::wire::catalog::{NodeState, Row, Write, row};

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::Member(Arc::new(MemberIdentity { role: MemberRole::Node, name: name.into() }))
    }

    /// For how long a node that is unreachable may come back, milliseconds.
    const DELAY: u64 = 500;

    /// Nodes 1 and 2 are bound to n1 and n2, node 3 to none. Node 2 is unreachable since the time 1000.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (id, name, state) in
            [(1, "n1", NodeState::Alive), (2, "n2", NodeState::Unreachable), (3, "", NodeState::Alive)]
        {
            let unreachable_since_ms = if state == NodeState::Unreachable { 1000 } else { 0 };
            let (state, certificate_name) = (state.into(), name.into());
            let node = Node { id, state, unreachable_since_ms, certificate_name, ..Node::default() };
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
    fn certificate_registers_one_node_at_a_time() {
        let catalog = catalog();
        let check = |caller: &Caller, id, now_ms| check_registration(&catalog, caller, NodeId(id), now_ms, DELAY);
        for (name, id, now_ms, expected) in [
            ("n1", 1, 9000, Code::Ok),
            ("n1", 3, 9000, Code::Unavailable),
            ("n1", 9, 9000, Code::Unavailable),
            ("n3", 3, 9000, Code::Ok),
            ("n2", 2, 1499, Code::Ok),
            ("n2", 9, 900, Code::Unavailable),
            ("n2", 9, 1000, Code::Unavailable),
            ("n2", 9, 1499, Code::Unavailable),
            ("n2", 9, 1500, Code::Ok),
            ("n3", 1, 9000, Code::PermissionDenied),
        ] {
            assert_eq!(code(check(&caller(name), id, now_ms)), expected, "{name} {id} {now_ms}");
        }
        let message = check(&caller("n2"), 9, 1499).unwrap_err().message;
        assert!(message.contains("remove that one or wait 1 s"), "{message}");
        check(&Caller::Plaintext, 9, 9000).unwrap();
        let coordinator = MemberIdentity { role: MemberRole::Coordinator, name: "1".into() };
        let coordinator = Caller::Member(Arc::new(coordinator));
        assert_eq!(code(check(&coordinator, 9, 9000)), Code::PermissionDenied);
    }

    #[test]
    fn lagging_catalog_decides_only_about_what_never_changes() {
        let catalog = catalog();
        for (id, expected) in [(1, true), (2, true), (3, false), (9, false)] {
            assert_eq!(is_bound(&catalog, NodeId(id)), expected, "{id}");
        }
        for (write, attempt, expected) in
            [("put", 5, true), ("put", 0, true), ("put", 6, false), ("staged", 0, false), ("unknown", 5, false)]
        {
            assert_eq!(is_writer_bound(&catalog, write, attempt), expected, "{write} {attempt}");
        }
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
