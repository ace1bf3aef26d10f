//! Nodes that are drained, replaced and removed, by the actions that `volley drain` and `volley remove` use.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use volley_client::Client;
use volley_tests::cluster::MemberId;

use super::{FaultUndo, InjectResult, ProcessNemesis};

/// How long an action may take.
const ACTION_LIMIT: Duration = Duration::from_secs(20);
/// How long a drain may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

impl ProcessNemesis {
    /// Begins a drain, which the undo cancels.
    pub(super) async fn drain(&mut self, node: usize) -> InjectResult {
        let id = self.id_of(node).await?;
        self.action("drain_node", &json!({ "node": id })).await?;
        Ok((MemberId::Node(node).to_string(), FaultUndo::Undrain(id)))
    }

    /// Drains a node to the end, removes it from the cluster, and starts a new one in its place. Its copies are not
    /// checked here: the cluster itself must keep the last ones.
    pub(super) async fn replace(&mut self, node: usize) -> InjectResult {
        let (member, id, begin) = (MemberId::Node(node), self.id_of(node).await?, Instant::now());
        let follow = json!({ "node": id, "begin": false });
        self.action("drain_node", &json!({ "node": id })).await?;
        while self.action("drain_node", &follow).await?["done"] != true {
            if begin.elapsed() > DRAIN_LIMIT {
                let left = self.action("drain_node", &follow).await?;
                self.undo(FaultUndo::Undrain(id)).await;
                return Err(format!("{member} was not drained within {DRAIN_LIMIT:?}: {left}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if let Err(why) = self.action("remove_node", &json!({ "node": id })).await {
            self.undo(FaultUndo::Undrain(id)).await;
            return Err(why);
        }
        self.cluster.servers.member(member).kill();
        self.cluster.wipe(member);
        Ok((
            format!("{member}, {id}, drained in {:.1} s", begin.elapsed().as_secs_f64()),
            FaultUndo::Start(vec![member]),
        ))
    }

    /// Removes the old ids of nodes that came back under another id after their folder was wiped.
    pub(super) async fn remove_replaced(&mut self) -> InjectResult {
        let gone = self.replaced().await?;
        if gone.is_empty() {
            return Err("no node had been replaced".into());
        }
        for id in &gone {
            self.action("remove_node", &json!({ "node": id })).await?;
        }
        Ok((gone.join(" "), FaultUndo::Nothing))
    }

    /// The same at the end, as an operator does whose cluster is yellow because of them. A removal is refused while copies that
    /// the node had are restored.
    ///
    /// # Errors
    /// One is still there when time is up.
    pub async fn remove_all_replaced(&mut self, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let left = match self.replaced().await {
                Ok(gone) if gone.is_empty() => return Ok(()),
                Ok(_) => self.remove_replaced().await.err(),
                Err(why) => Some(why),
            };
            match left {
                Some(why) if begin.elapsed() > limit => return Err(why),
                Some(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                None => {}
            }
        }
    }

    async fn replaced(&self) -> Result<Vec<String>, String> {
        let nodes = self.nodes().await?;
        let back = |gone: &&Value| nodes.iter().any(|node| is_alive(node) && node["flight"] == gone["flight"]);
        let gone = nodes.iter().filter(|node| !is_alive(node)).filter(back);
        Ok(gone.filter_map(|node| node["id"].as_str()).map(String::from).collect())
    }

    async fn nodes(&self) -> Result<Vec<Value>, String> {
        let status = self.cluster.servers.status().await.ok_or("no coordinator answered")?;
        status["nodes"].as_array().cloned().ok_or("the status names no nodes".into())
    }

    /// A node's id. A wiped node comes back under another one; the old id stays in the catalog, unreachable.
    async fn id_of(&self, node: usize) -> Result<String, String> {
        let uri = format!("grpc+tcp://{}", self.cluster.servers.nodes[node].address);
        let nodes = self.nodes().await?;
        let own = nodes.iter().find(|known| known["flight"] == uri.as_str() && is_alive(known));
        own.and_then(|known| known["id"].as_str()).map(String::from).ok_or("the node was not alive".into())
    }

    /// Calls an action at the first coordinator that answers without an error.
    pub(super) async fn action(&self, name: &str, body: &Value) -> Result<Value, String> {
        let mut last = String::new();
        for coordinator in &self.cluster.servers.coordinators {
            let asked = async { Client::connect(&coordinator.address).await?.action(name, body).await };
            match tokio::time::timeout(ACTION_LIMIT, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error.message,
                Err(_) => last = format!("{name} gave no answer within {ACTION_LIMIT:?}"),
            }
        }
        Err(last)
    }
}

fn is_alive(node: &Value) -> bool {
    node["state"] == "alive"
}
