//! Commands about versions and holders.

use rand::Rng;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{HolderChange, PinVersion, UpdateHolders};
use volley_coordinator::catalog::PartRow;

use super::SimClient;

impl SimClient {
    pub(super) fn pin(&mut self) -> Op {
        let until_ms = self.cluster.now_ms() + self.rng.random_range(0..3000);
        let (table, version) = (self.rng.random_range(1..8), self.rng.random_range(1..6));
        Op::PinVersion(PinVersion { table, version, until_ms })
    }

    fn random_part(&mut self, wanted: impl Fn(&PartRow) -> bool) -> Option<PartRow> {
        let process = self.cluster.any_running(&mut self.rng)?;
        let view = process.handle.view();
        let parts: Vec<&PartRow> = view.all_parts().filter(|part| wanted(part)).collect();
        let at = self.rng.random_range(0..parts.len().max(1));
        parts.get(at).map(|part| (*part).clone())
    }

    fn update_holder(&self, part: Option<volley_common::PartId>, node: u64, held: bool) -> Op {
        let changes = part.map(|part| HolderChange { part: Some(part.into()), node, held });
        Op::UpdateHolders(UpdateHolders { changes: changes.into_iter().collect() })
    }

    pub(super) fn add_holder(&mut self, node: u64) -> Op {
        let part = self.random_part(|_| true);
        self.update_holder(part.map(|part| part.part_id()), node, true)
    }

    /// Removes one holder of a part. Only client 0 does this, and once for each part, so that a holder is left.
    pub(super) fn remove_holder(&mut self) -> Op {
        let parts_reduced = std::mem::take(&mut self.parts_reduced);
        let part = self.random_part(|part| part.holders.len() > 1 && !parts_reduced.contains(&part.part_id()));
        self.parts_reduced = parts_reduced;
        let part = part.filter(|_| self.number == 0);
        self.parts_reduced.extend(part.as_ref().map(PartRow::part_id));
        let node = part.as_ref().map_or(0, |part| part.holders[0]);
        self.update_holder(part.map(|part| part.part_id()), node, false)
    }
}
