//! Where `volley top` has its figures from: the coordinators, and the metrics of the nodes.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Result;
use volley_common::listen::{host_port, join_host_port, split_host_port};
use volley_common::net::Connector;
use volley_common::tls::ClientTls;

use super::snapshot::{NodeActivity, TopSnapshot};
use crate::args::top::TopArgs;
use crate::http_get;

/// How long a node may take to answer with its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of the metrics of a node: some hundred series.
const MAX_METRICS: u64 = 4 << 20;

/// Looks at a cluster.
pub struct TopSource {
    client: Client,
    connector: Connector,
    http_port: u16,
    prefix: String,
}

impl TopSource {
    /// Metrics are read by TLS if the client connected by TLS.
    ///
    /// # Errors
    /// The files of `tls` cannot be used.
    pub fn new(client: Client, tls: &ClientTls, top: &TopArgs) -> Result<Self> {
        let connector = http_get::connector(client.is_tls(), tls)?;
        Ok(TopSource { client, connector, http_port: top.http_port, prefix: top.prefix.clone() })
    }

    /// The cluster as it is now. Metrics that cannot be read are left out, and so are tables that are not listed: the snapshot
    /// says why.
    ///
    /// # Errors
    /// The client's: no member answers, or the user may not see the state of the cluster.
    pub async fn read(&self) -> Result<TopSnapshot> {
        let body = json!({ "prefix": self.prefix });
        let (status, tables) = tokio::join!(self.client.status(), self.client.action_any("list_tables", &body));
        let status = status?;
        let tables = tables.map(|mut reply| match reply.get_mut("tables").map(Value::take) {
            Some(Value::Array(tables)) => tables,
            _ => Vec::new(),
        });
        let (activity, remark) = self.activity(&status).await;
        Ok(TopSnapshot { at: Instant::now(), status, tables: tables.map_err(|e| e.to_string()), activity, remark })
    }

    /// What the nodes do, by their ids; and why that is not known of some.
    async fn activity(&self, status: &Value) -> (HashMap<String, NodeActivity>, Option<String>) {
        let (hosts, mut reasons) = hosts(status);
        let calls = hosts.into_iter().map(|(host, node)| async move {
            let address = join_host_port(&host, self.http_port);
            let scheme = self.connector.scheme();
            let answer = http_get::get(&self.connector, &address, "/metrics", METRICS_TIMEOUT, MAX_METRICS).await;
            let found = match answer {
                Ok((200, text)) => NodeActivity::parse(&text).ok_or_else(|| "these are no metrics of a node".into()),
                Ok((code, text)) => Err(format!("HTTP {code}: {}", text.trim())),
                Err(error) => Err(error.to_string()),
            };
            (node, found.map_err(|why| format!("{scheme}://{address}/metrics: {why}")))
        });
        let mut activity = HashMap::new();
        for (node, found) in join_all(calls).await {
            match found {
                Ok(found) => {
                    activity.insert(node, found);
                }
                Err(why) => reasons.push(why),
            }
        }
        (activity, reasons.into_iter().next())
    }
}

/// The hosts that have one node, with its id: all nodes have the same HTTP port, so that of several on a host none is known. The
/// second value says so.
fn hosts(status: &Value) -> (Vec<(String, String)>, Vec<String>) {
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in status["nodes"].as_array().into_iter().flatten() {
        let (Some(id), Some(flight)) = (node["id"].as_str(), node["flight"].as_str()) else { continue };
        if let Ok((host, _)) = split_host_port(host_port(flight)) {
            nodes.entry(host.to_string()).or_default().push(id.to_string());
        }
    }
    let (mut alone, mut reasons) = (Vec::new(), Vec::new());
    for (host, ids) in nodes {
        match <[String; 1]>::try_from(ids) {
            Ok([id]) => alone.push((host, id)),
            Err(ids) => reasons.push(format!("{host} has {} nodes, and one port --http-port", ids.len())),
        }
    }
    (alone, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_of_hosts_with_one_node() {
        let node = |id: &str, flight: &str| json!({ "id": id, "flight": flight });
        let status = json!({ "nodes": [
            node("a", "grpc+tcp://10.0.0.1:8816"), node("b", "grpc+tls://[::1]:8816"), node("c", "grpc+tcp://h:1"),
            node("d", "grpc+tcp://h:2"), node("e", "no address"),
        ] });
        let (alone, reasons) = hosts(&status);
        assert_eq!(alone, [("10.0.0.1".to_string(), "a".to_string()), ("::1".to_string(), "b".to_string())]);
        assert_eq!(reasons, ["h has 2 nodes, and one port --http-port"]);
        assert_eq!(hosts(&json!({})), (Vec::new(), Vec::new()));
    }
}
