//! The state of a node, as a word for programs and as text for operators.

use volley_common::clock::span;
use volley_common::wire::catalog::Node;

/// The node's state in one word: `silent` (unreachable), `draining`, `refusing` (read-only), `degraded` or `ok`. Programs
/// read these words, so they stay as they were released.
pub fn condition(node: &Node) -> &'static str {
    match () {
        () if !node.is_alive() => "silent",
        () if node.draining => "draining",
        () if !node.read_only_reason.is_empty() => "refusing",
        () if node.is_degraded() => "degraded",
        () => "ok",
    }
}

/// Everything that is unusual about the node, for operators; empty if nothing is.
pub fn condition_text(node: &Node, now_ms: u64) -> String {
    let mut texts = Vec::new();
    if !node.is_alive() {
        texts.push(match node.unreachable_since_ms {
            0 => "unreachable".into(),
            since => format!("unreachable for {}", span(now_ms.saturating_sub(since))),
        });
    }
    if node.draining {
        texts.push("draining".into());
    }
    if !node.read_only_reason.is_empty() {
        texts.push(format!("not accepting writes: {}", node.read_only_reason));
    }
    if node.is_degraded() {
        texts.push(node.degraded_reason.clone());
    }
    texts.join("; ")
}
