//! Parts that were copied to this node and are not yet reported to the leader.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::Notify;
use volley_common::PartId;
use volley_common::wire::cluster::HeldPart;

/// The parts of the next report. Each is in here once, so that the disk's capacity is the bound.
#[derive(Default)]
pub struct ReceivedParts {
    parts: Mutex<BTreeMap<PartId, HeldPart>>,
    changed: Notify,
}

impl ReceivedParts {
    /// Adds a part to the next report.
    pub fn add(&self, part: HeldPart) {
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        self.parts.lock().insert(id, part);
        self.changed.notify_one();
    }

    /// Takes up to `max` parts.
    pub fn take(&self, max: usize) -> Vec<HeldPart> {
        let mut parts = self.parts.lock();
        let ids: Vec<PartId> = parts.keys().take(max).copied().collect();
        ids.iter().filter_map(|id| parts.remove(id)).collect()
    }

    /// Waits until there may be parts to report.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_added_twice_is_reported_once() {
        let received = ReceivedParts::default();
        for id in [1, 2, 1] {
            received.add(HeldPart { id: Some(PartId(id).into()), ..HeldPart::default() });
        }
        let ids =
            |parts: Vec<HeldPart>| parts.iter().filter_map(|part| Some(PartId::from(&part.id?))).collect::<Vec<_>>();
        assert_eq!(ids(received.take(1)), [PartId(1)]);
        assert_eq!(ids(received.take(10)), [PartId(2)]);
        assert!(received.take(10).is_empty());
    }
}
