//! What metrics tell of a node, read at each scrape.

use crate::context::NodeContext;

/// Sets the gauges. Blocks: it asks the file system.
pub fn update(context: &NodeContext) {
    context.store.update_gauges();
    context.pool.update_gauges();
    context.sql.resources.update_gauges();
    let (taken, limit) = context.get.memory.usage();
    metrics::gauge!("volley_get_memory_bytes").set(taken as f64);
    metrics::gauge!("volley_get_memory_limit_bytes").set(limit as f64);
    metrics::gauge!("volley_put_messages_waiting").set(context.put.resources.memory.waiting() as f64);
    // It is there, and 0, before the first session.
    metrics::gauge!("volley_in_session").increment(0.0);
}
