//! The reply to the action `begin_write`.

use std::collections::HashMap;

use serde_json::{Value, json};
use volley_common::TableName;
use volley_common::wire::cluster::WritePlan;

use crate::client_listener::ClientListener;

/// What a client needs to write over several connections: the id of the write, the nodes that accept rows, and by which function a
/// row belongs to a shard, of which `placement` has the holders: indices of `nodes`, without those that the client does not reach.
pub(super) fn reply(table: &TableName, plan: &WritePlan, listener: &ClientListener) -> Value {
    let write = plan.write.clone().unwrap_or_default();
    let spec = write.spec.unwrap_or_default();
    let reached = plan.nodes.iter().filter(|node| listener.address_of(node).is_some());
    let index_of: HashMap<u64, usize> = reached.zip(0..).map(|(node, index)| (node.id, index)).collect();
    let holders = |nodes: &[u64]| nodes.iter().filter_map(|id| index_of.get(id).copied()).collect::<Vec<usize>>();
    let placement: Vec<Vec<usize>> = write.placement.iter().map(|shard| holders(&shard.nodes)).collect();
    json!({
        "write_id": write.id,
        "table": table.to_string(),
        "nodes": listener.addresses(&plan.nodes),
        "lease_ms": plan.lease_ms,
        "shards": spec.shards,
        "shard_by": spec.shard_by,
        "placement": placement,
    })
}

#[cfg(test)]
mod tests {
    use volley_common::wire::catalog::{Node, NodeListener, ShardPlacement, TableSpec, Write};

    use super::*;
    use crate::client_listener::Locations;

    fn node(id: u64, listener: &str) -> Node {
        let uri = format!("grpc+tcp://node-{id}:1");
        Node { id, listeners: vec![NodeListener { name: listener.into(), uri }], ..Node::default() }
    }

    #[test]
    fn placement_names_the_nodes_that_the_client_reaches() {
        let spec = TableSpec { shards: 2, shard_by: vec!["k".into()], ..TableSpec::default() };
        let placement = [[7, 8], [9, 8]].map(|nodes| ShardPlacement { nodes: nodes.to_vec() }).to_vec();
        let write = Write { id: "w".into(), spec: Some(spec), placement, ..Write::default() };
        let nodes = vec![node(7, "inside"), node(8, "outside"), node(9, "outside")];
        let plan = WritePlan { write: Some(write), nodes, lease_ms: 5, spreads: false };
        let listener = |locations| ClientListener {
            name: "outside".into(),
            uri: "grpc+tcp://c:1".into(),
            is_advertised: true,
            locations,
            client_tls: false,
        };
        let table = "t".parse().unwrap();
        let direct = reply(&table, &plan, &listener(Locations::Direct));
        assert_eq!(direct["nodes"], json!(["grpc+tcp://node-8:1", "grpc+tcp://node-9:1"]));
        assert_eq!(direct["placement"], json!([[0], [1, 0]]));
        assert_eq!((&direct["shards"], &direct["shard_by"]), (&json!(2), &json!(["k"])));
        let proxied = reply(&table, &plan, &listener(Locations::Proxy));
        assert_eq!(proxied["nodes"], json!(["grpc+tcp://c:1"]));
        assert_eq!(proxied["placement"], json!([[], []]));
    }
}
