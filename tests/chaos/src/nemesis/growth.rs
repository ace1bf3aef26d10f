//! Nodes that are drained, replaced and forgotten, by the actions that `volley drain` and `volley remove` use.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use volley_common::client::Client;

use super::{Nemesis, Strike, Undo};
use crate::links::Member;

/// How long an action may take.
const ACTION: Duration = Duration::from_secs(20);
/// How long a drain may take.
const DRAINED: Duration = Duration::from_secs(60);

impl Nemesis {
    /// Begins a drain, which is taken back later.
    pub(super) async fn drain(&mut self, node: usize) -> Strike {
        let id = self.id_of(node).await?;
        self.action("drain_node", &json!({ "node": id })).await?;
        Ok((Member::Node(node).to_string(), Undo::Undrain(id)))
    }

    /// Drains a node to the end, removes it from the cluster, and starts a new one in its place. Nobody looks whether
    /// its copies can be spared: that is the cluster's to know.
    pub(super) async fn replace(&mut self, node: usize) -> Strike {
        let (member, id, begin) = (Member::Node(node), self.id_of(node).await?, Instant::now());
        let follow = json!({ "node": id, "begin": false });
        self.action("drain_node", &json!({ "node": id })).await?;
        while self.action("drain_node", &follow).await?["done"] != true {
            if begin.elapsed() > DRAINED {
                let left = self.action("drain_node", &follow).await?;
                self.undo(Undo::Undrain(id)).await;
                return Err(format!("{member} was not drained within {DRAINED:?}: {left}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if let Err(why) = self.action("remove_node", &json!({ "node": id })).await {
            self.undo(Undo::Undrain(id)).await;
            return Err(why);
        }
        self.site.kill(member);
        self.site.wipe(member);
        Ok((format!("{member}, {id}, drained in {:.1} s", begin.elapsed().as_secs_f64()), Undo::Start(vec![member])))
    }

    /// Removes nodes that came back under another id after their folder was wiped.
    pub(super) async fn forget(&mut self) -> Strike {
        let nodes = self.nodes().await?;
        let back = |gone: &&Value| nodes.iter().any(|node| is_alive(node) && node["flight"] == gone["flight"]);
        let gone: Vec<&str> =
            nodes.iter().filter(|node| !is_alive(node)).filter(back).filter_map(|node| node["id"].as_str()).collect();
        if gone.is_empty() {
            return Err("no node had been replaced".into());
        }
        for id in &gone {
            self.action("remove_node", &json!({ "node": id })).await?;
        }
        Ok((gone.join(" "), Undo::Nothing))
    }

    async fn nodes(&self) -> Result<Vec<Value>, String> {
        let status = self.site.status().await.ok_or("no coordinator answered")?;
        status["nodes"].as_array().cloned().ok_or("the status names no nodes".into())
    }

    /// A node's id. A wiped one comes back under another; the one before it stays, silent.
    async fn id_of(&self, node: usize) -> Result<String, String> {
        let uri = format!("grpc+tcp://{}", self.site.nodes[node].address);
        let nodes = self.nodes().await?;
        let own = nodes.iter().find(|known| known["flight"] == uri.as_str() && is_alive(known));
        own.and_then(|known| known["id"].as_str()).map(String::from).ok_or("the node was not alive".into())
    }

    /// Calls an action by the first coordinator that answers well.
    pub(super) async fn action(&self, name: &str, body: &Value) -> Result<Value, String> {
        let mut last = String::new();
        for coordinator in &self.site.coordinators {
            let asked = async { Client::connect(&coordinator.address).await?.action(name, body).await };
            match tokio::time::timeout(ACTION, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error.message,
                Err(_) => last = format!("{name} gave no answer within {ACTION:?}"),
            }
        }
        Err(last)
    }
}

fn is_alive(node: &Value) -> bool {
    node["state"] == "alive"
}
