//! Options of tables that coordinators of earlier versions do not know. The catalog notes which of them it has had.

use volley_common::wire::catalog::TableSpec;
use volley_common::wire::{STATS_COLUMNS_FEATURES, TABLE_TTL_FEATURES};

use super::{Catalog, RowKey};

/// The features that a coordinator must have to know the options of a table; 0: any one knows them.
pub fn features_of(spec: Option<&TableSpec>) -> u32 {
    match spec {
        Some(spec) if !spec.stats_columns.is_empty() => STATS_COLUMNS_FEATURES,
        Some(spec) if spec.ttl_ms != 0 => TABLE_TTL_FEATURES,
        Some(_) | None => 0,
    }
}

impl Catalog {
    /// The features that every coordinator must have because of what tables and writes have had: the log may still have what no
    /// table has any more.
    pub fn required_features(&self) -> u32 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.features)
    }

    /// Notes what every coordinator must know from now on, because a table or write has these options.
    pub(super) fn note_spec(&mut self, spec: Option<&TableSpec>) {
        self.require_features(features_of(spec));
    }

    /// Notes that every coordinator must have these features from now on.
    pub(super) fn require_features(&mut self, features: u32) {
        if let Some(cluster) = self.cluster.as_mut()
            && cluster.features < features
        {
            cluster.features = features;
            self.touched.insert(RowKey::Cluster);
        }
    }
}
