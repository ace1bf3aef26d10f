//! Parts that were copied to this node and are not yet reported to the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use volley_common::PartId;
use volley_common::wire::cluster::HeldPart;

/// How long a copy for a put waits for others, to be reported with them. The commit of its write, which is sent when enough copies are made, names
/// this node as a rule: then the report has nothing new for the leader, who nevertheless reads the catalog for each.
const PUT_DELAY: Duration = Duration::from_millis(250);

/// The parts of the next report. Each is in here once, so that the disk's capacity is the bound.
#[derive(Default)]
pub struct ReceivedParts {
    state: Mutex<UnreportedParts>,
    changed: Notify,
}

#[derive(Default)]
struct UnreportedParts {
    parts: BTreeMap<PartId, HeldPart>,
    /// When they are to be reported; none if there are none.
    due: Option<Instant>,
}

impl ReceivedParts {
    /// Adds a part to the next report: at once if it is a `background` copy, which the leader has ordered.
    pub fn add(&self, part: HeldPart, background: bool) {
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        let due = Instant::now() + if background { Duration::ZERO } else { PUT_DELAY };
        {
            let mut state = self.state.lock();
            state.parts.insert(id, part);
            state.due = Some(state.due.map_or(due, |before| before.min(due)));
        }
        self.changed.notify_one();
    }

    /// Takes up to `max` parts.
    pub fn take(&self, max: usize) -> Vec<HeldPart> {
        let mut state = self.state.lock();
        let ids: Vec<PartId> = state.parts.keys().take(max).copied().collect();
        let taken = ids.iter().filter_map(|id| state.parts.remove(id)).collect();
        if state.parts.is_empty() {
            state.due = None;
        }
        taken
    }

    /// Waits until there are parts to report. Nothing is lost if the wait is given up.
    pub async fn changed(&self) {
        loop {
            let due = self.state.lock().due;
            match due {
                None => self.changed.notified().await,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => return,
                    // It may be due earlier now.
                    () = self.changed.notified() => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(id: u128) -> HeldPart {
        HeldPart { id: Some(PartId(id).into()), ..HeldPart::default() }
    }

    #[test]
    fn part_added_twice_is_reported_once() {
        let received = ReceivedParts::default();
        for id in [1, 2, 1] {
            received.add(held(id), true);
        }
        let ids =
            |parts: Vec<HeldPart>| parts.iter().filter_map(|part| Some(PartId::from(&part.id?))).collect::<Vec<_>>();
        assert_eq!(ids(received.take(1)), [PartId(1)]);
        assert_eq!(ids(received.take(10)), [PartId(2)]);
        assert!(received.take(10).is_empty());
    }

    #[tokio::test]
    async fn copies_for_puts_are_reported_together_and_others_at_once() {
        let received = ReceivedParts::default();
        let began = Instant::now();
        received.add(held(1), false);
        // A wait that is given up loses nothing.
        assert!(tokio::time::timeout(Duration::from_millis(1), received.changed()).await.is_err());
        received.add(held(2), false);
        received.changed().await;
        assert!(began.elapsed() >= PUT_DELAY, "{:?}", began.elapsed());
        assert_eq!(received.take(10).len(), 2);
        assert_eq!(received.state.lock().due, None);

        received.add(held(3), false);
        received.add(held(4), true);
        assert!(received.state.lock().due.is_some_and(|due| due <= Instant::now()));
        received.changed().await;
        assert_eq!(received.take(1).len(), 1);
        // The other one is not forgotten.
        received.changed().await;
        assert_eq!(received.take(10).len(), 1);
    }
}
