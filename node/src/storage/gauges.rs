//! What metrics tell of a node's parts and disk, read at each scrape.

use volley_common::clock;

use super::part_store::PartStore;

impl PartStore {
    /// Sets the gauges. Blocks: it asks the file system.
    pub fn update_gauges(&self) {
        let status = self.status();
        let set = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
        let parts =
            |state: &'static str, count: u64| metrics::gauge!("volley_node_parts", "state" => state).set(count as f64);
        let bytes = |state: &'static str, count: u64| {
            metrics::gauge!("volley_node_part_bytes", "state" => state).set(count as f64);
        };
        parts("held", self.digest().1);
        parts("quarantined", status.quarantined);
        parts("orphaned", status.orphans.files);
        bytes("held", status.part_bytes);
        bytes("orphaned", status.orphans.bytes);
        set("volley_disk_free_bytes", status.space.free);
        set("volley_disk_total_bytes", status.space.total);
        set("volley_node_is_writable", u64::from(status.read_only_reason.is_empty()));
        set("volley_node_is_degraded", u64::from(!status.degraded_reason.is_empty()));
        set("volley_scrub_completed_timestamp_seconds", status.last_scrub_ms / 1000);
        // Without a part none waits for its verification.
        let oldest_ms = self.0.inventory.oldest_verification_ms().unwrap_or_else(clock::now_ms);
        set("volley_scrub_oldest_verification_timestamp_seconds", oldest_ms / 1000);
        let marks = self.0.volume.watermarks();
        for (mark, percent) in [("high", marks.high), ("low", marks.low)] {
            metrics::gauge!("volley_disk_watermark_ratio", "mark" => mark).set(percent / 100.0);
        }
        let (kept, kept_bytes) = self.0.cache.kept();
        set("volley_part_cache_parts", kept as u64);
        set("volley_part_cache_bytes", kept_bytes);
    }
}
