//! What metrics tell of the memory and disk space of queries, read at each scrape.

use super::SqlEngine;

impl SqlEngine {
    /// Sets the gauges of memory and of what is on disk.
    pub fn update_gauges(&self) {
        let runtime = self.template.runtime_env();
        let set = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
        set("volley_query_memory_bytes", runtime.memory_pool.reserved() as u64);
        set("volley_query_memory_limit_bytes", self.config.memory_bytes);
        set("volley_query_spill_bytes", runtime.disk_manager.used_disk_space());
        set("volley_query_spill_limit_bytes", self.config.spill_bytes);
    }
}
