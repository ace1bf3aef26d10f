//! A cluster at one moment, as `volley top` shows it.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::Value;

/// A metric that every node has, and no coordinator.
const OF_NODES: &str = "volley_node_is_writable";

/// The figures of a node's metrics that are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeActivity {
    /// Gets in progress.
    pub gets: f64,
    /// Puts in progress.
    pub puts: f64,
    /// Queries in progress.
    pub queries: f64,
    /// Bytes that gets have sent since the node was started.
    pub get_bytes: f64,
    /// Bytes that puts have received since the node was started.
    pub put_bytes: f64,
}

impl NodeActivity {
    /// Those of a text as `/metrics` answers. None: it is not that of a node. A counter that is missing is 0.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.lines().any(|line| value_of(line, OF_NODES).is_some()) {
            return None;
        }
        let sum = |name: &str| text.lines().filter_map(|line| value_of(line, name)).sum();
        Some(NodeActivity {
            gets: sum("volley_gets"),
            puts: sum("volley_puts"),
            queries: sum("volley_queries"),
            get_bytes: sum("volley_get_bytes_total"),
            put_bytes: sum("volley_put_bytes_total"),
        })
    }
}

/// The value of a line, if it is a sample of the metric: `NAME 1`, or `NAME{LABELS} 1`.
fn value_of(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
    rest.rsplit(' ').next()?.parse().ok()
}

/// A look at the cluster.
pub struct TopSnapshot {
    /// When.
    pub at: Instant,
    /// The answer of `cluster_status`.
    pub status: Value,
    /// The tables as `list_tables` answers, or why they are not listed.
    pub tables: Result<Vec<Value>, String>,
    /// What nodes do, by their ids.
    pub activity: HashMap<String, NodeActivity>,
    /// Why that is not known of some nodes.
    pub remark: Option<String>,
}

impl TopSnapshot {
    /// The nodes.
    pub fn nodes(&self) -> &[Value] {
        self.status["nodes"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The tables; none if they are not listed.
    pub fn tables(&self) -> &[Value] {
        self.tables.as_deref().unwrap_or_default()
    }

    /// By how much a figure has grown a second since another look. None: it was not known then, or has become less, as that of a
    /// node that was restarted, or of a table that was replaced.
    pub fn rate(&self, former: &TopSnapshot, now: f64, then: Option<f64>) -> Option<f64> {
        let (grown, seconds) = (now - then?, self.at.saturating_duration_since(former.at).as_secs_f64());
        (grown >= 0.0 && seconds > 0.0).then(|| grown / seconds)
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    /// A cluster of two nodes and two tables, `seconds` after the first look; what grows has grown by a million a second.
    pub fn snapshot(begin: Instant, seconds: u64) -> TopSnapshot {
        let grown = seconds * 1_000_000;
        let node = |id: &str, host: &str, parts: u64| {
            json!({
                "id": id, "flight": format!("grpc+tcp://{host}:8816"), "condition": "ok", "parts": parts, "bytes": 5_000_000,
                "bytes_used": 30, "bytes_total": 100, "zone": "z1",
            })
        };
        let table = |name: &str, rows: u64| json!({ "table": name, "version": 7, "rows": rows, "bytes": rows * 8 });
        let status = json!({
            "health": "green", "stale": null, "copies": { "parts": 12, "below_replicas": 0, "unreadable": 0, "being_copied": 0 },
            "nodes": [node("00ab", "10.0.0.1", 7), node("00cd", "10.0.0.2", 5)],
            "stats": { "tables": 2, "rows": 3_000, "bytes": 24_000, "open_writes": 1, "nodes": 2, "nodes_alive": 2 },
        });
        let busy = NodeActivity { gets: 3.0, puts: 1.0, queries: 2.0, get_bytes: grown as f64, put_bytes: 0.0 };
        TopSnapshot {
            at: begin + Duration::from_secs(seconds),
            status,
            tables: Ok(vec![table("sales/orders", 1_000 + grown), table("trips", 2_000)]),
            activity: HashMap::from([("00ab".to_string(), busy)]),
            remark: Some("http://10.0.0.2:8836/metrics: refused".into()),
        }
    }

    #[test]
    fn figures_of_a_node_are_read_from_its_metrics() {
        let text = "# TYPE volley_gets gauge\nvolley_gets 3\nvolley_gets_refused_total{scope=\"all\"} 9\nvolley_put_bytes_total 1.5e3\n\
            volley_get_bytes_total{a=\"b c\"} 10\nvolley_get_bytes_total{a=\"d\"} 5\nvolley_node_is_writable 1\n";
        let expected = NodeActivity { gets: 3.0, puts: 0.0, queries: 0.0, get_bytes: 15.0, put_bytes: 1_500.0 };
        assert_eq!(NodeActivity::parse(text), Some(expected));
        assert_eq!(NodeActivity::parse("volley_tables 3\n"), None, "a coordinator");
        assert_eq!(NodeActivity::parse("<html>"), None);
    }

    #[test]
    fn rate_is_what_has_grown_a_second() {
        let begin = Instant::now();
        let (then, now) = (snapshot(begin, 0), snapshot(begin, 2));
        assert_eq!(now.rate(&then, 30.0, Some(10.0)), Some(10.0));
        assert_eq!(now.rate(&then, 10.0, Some(30.0)), None, "it was started again");
        assert_eq!(now.rate(&then, 10.0, None), None);
        assert_eq!(then.rate(&then, 10.0, Some(10.0)), None, "no time has passed");
        assert_eq!((now.nodes().len(), now.tables().len()), (2, 2));
    }
}
