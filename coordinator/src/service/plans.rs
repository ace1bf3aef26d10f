//! Plans of large tables, kept for as long as they are true.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use volley_common::Result;
use volley_common::wire::catalog::Table;

use super::read::live_ids;
use crate::catalog::{Catalog, Stamp};
use crate::plan::{self, Plan};

/// Plans of fewer parts are made as fast as they are found, however many endpoints they have.
const WORTH: usize = 16;
/// Bytes that all kept plans may weigh together.
const ROOM: usize = 32 << 20;

/// What a plan is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    listener: Arc<str>,
    table: u64,
    version: u64,
    most: usize,
    limit: Option<u64>,
}

/// A plan, and of which state of parts and nodes.
struct Kept {
    plan: Arc<Plan>,
    stamps: (Stamp, Stamp),
    /// When it was last asked for, in calls.
    used: u64,
}

/// The kept plans: those asked for last, as many as there is room for.
#[derive(Default)]
pub struct Plans(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    kept: HashMap<Key, Kept>,
    weight: usize,
    calls: u64,
}

impl Plans {
    /// As [`plan::plan`], with the nodes that are alive.
    ///
    /// # Errors
    /// As [`plan::plan`].
    pub fn plan(
        &self,
        catalog: &Catalog,
        table: &Table,
        version: u64,
        most: usize,
        limit: Option<u64>,
        listener: &Arc<str>,
    ) -> Result<Arc<Plan>> {
        let key = Key { listener: listener.clone(), table: table.id, version, most, limit };
        let stamps = catalog.stamps(table.id);
        if let Some(plan) = self.0.lock().find(&key, stamps) {
            return Ok(plan);
        }
        let plan = Arc::new(plan::plan(catalog, table, version, most, limit, &live_ids(catalog), listener)?);
        let parts: usize = plan.endpoints.iter().map(|endpoint| endpoint.parts).sum();
        if parts >= WORTH && plan.weight() <= ROOM {
            self.0.lock().keep(key, stamps, plan.clone());
        }
        Ok(plan)
    }
}

impl Inner {
    fn find(&mut self, key: &Key, stamps: (Stamp, Stamp)) -> Option<Arc<Plan>> {
        self.calls += 1;
        let kept = self.kept.get_mut(key).filter(|kept| kept.stamps == stamps)?;
        kept.used = self.calls;
        Some(kept.plan.clone())
    }

    fn keep(&mut self, key: Key, stamps: (Stamp, Stamp), plan: Arc<Plan>) {
        self.weight += plan.weight();
        let kept = Kept { plan, stamps, used: self.calls };
        if let Some(old) = self.kept.insert(key, kept) {
            self.weight -= old.plan.weight();
        }
        while self.weight > ROOM {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| self.kept.remove(&key)) else { return };
            self.weight -= gone.plan.weight();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::catalog::command::Op;
    use volley_common::wire::catalog::{
        Command, HolderChange, Node, NodeState, Part, PartId as WirePartId, Row, SetNodeState, UpdateHolders, row,
    };
    use volley_common::{Code, PartId};

    use super::*;

    /// Two nodes, and a table of as many parts on both as are worth being kept.
    fn world() -> (Catalog, Table) {
        let mut catalog = Catalog::default();
        let mut put = |row| catalog.insert_row(Row { row: Some(row) });
        for id in [1, 2] {
            let (flight_uri, state) = (format!("grpc+tcp://n{id}:1"), NodeState::Alive as i32);
            put(row::Row::Node(Node { id, flight_uri, state, ..Node::default() }));
        }
        let table = Table { id: 1, name: vec!["t".into()], version: 1, oldest: 1, ..Table::default() };
        put(row::Row::Table(table.clone()));
        for seq in 0..WORTH as u64 {
            let id = Some(WirePartId::from(PartId(u128::from(seq) + 1)));
            let holders = vec![1, 2];
            put(row::Row::Part(Part { id, table: 1, seq, added: 1, rows: 1, holders, ..Part::default() }));
        }
        (catalog, table)
    }

    fn apply(catalog: &mut Catalog, op: Op) {
        catalog.apply(&Command { now_ms: 1, op: Some(op) });
    }

    fn drop_copy(seq: u64, node: u64) -> Op {
        let part = Some(WirePartId::from(PartId(u128::from(seq) + 1)));
        Op::UpdateHolders(UpdateHolders { changes: vec![HolderChange { part, node, held: false }] })
    }

    #[test]
    fn a_plan_is_made_once_while_nothing_changes() {
        let ((catalog, table), plans) = (world(), Plans::default());
        let plan = |most, limit| plans.plan(&catalog, &table, 1, most, limit, &"".into()).unwrap();
        let first = plan(99, None);
        assert!(Arc::ptr_eq(&first, &plan(99, None)));
        let whole = plan(1, None);
        assert_eq!((whole.endpoints.len(), whole.endpoints[0].parts), (1, WORTH));
        assert!(Arc::ptr_eq(&whole, &plan(1, None)));
        let few = plan(99, Some(3));
        assert_eq!(few.rows, 3);
        assert!(!Arc::ptr_eq(&few, &plan(99, Some(3))), "not worth it");
        assert!(Arc::ptr_eq(&first, &plan(99, None)));
    }

    #[test]
    fn a_copy_that_is_gone_and_a_silent_node_leave_the_answer_at_once() {
        let ((mut catalog, table), plans) = (world(), Plans::default());
        let uris = |catalog: &Catalog, at: usize| {
            let plan = plans.plan(catalog, &table, 1, 99, None, &"".into())?;
            Ok::<_, volley_common::Error>(plan.locations(at, 0).map(|uri| plan.uris[uri].clone()).collect::<Vec<_>>())
        };
        assert_eq!(uris(&catalog, 3).unwrap().len(), 2);
        apply(&mut catalog, drop_copy(3, 1));
        assert_eq!(uris(&catalog, 3).unwrap(), ["grpc+tcp://n2:1"]);
        let silent = SetNodeState { node: 2, state: NodeState::Unreachable as i32, boot: 0 };
        apply(&mut catalog, Op::SetNodeState(silent));
        assert_eq!(uris(&catalog, 0).unwrap_err().code, Code::Unavailable);
        let back = SetNodeState { node: 2, state: NodeState::Alive as i32, boot: 0 };
        apply(&mut catalog, Op::SetNodeState(back));
        assert_eq!(uris(&catalog, 0).unwrap().len(), 2);
    }

    #[test]
    fn another_catalog_is_never_taken_for_this_one() {
        let plans = Plans::default();
        let (first, table) = world();
        let plan = plans.plan(&first, &table, 1, 99, None, &"".into()).unwrap();
        let (second, _) = world();
        assert!(!Arc::ptr_eq(&plan, &plans.plan(&second, &table, 1, 99, None, &"".into()).unwrap()));
    }

    #[test]
    fn the_least_used_go_when_there_is_no_room() {
        let mut inner = Inner::default();
        let mut endpoint = plan::EndpointPlan::default();
        endpoint.tail = vec![0; ROOM / 3].into();
        let plan = Arc::new(Plan { endpoints: vec![endpoint], ..Plan::default() });
        let key = |table| Key { listener: "".into(), table, version: 1, most: 1, limit: None };
        inner.keep(key(1), (1, 1), plan.clone());
        inner.keep(key(2), (1, 1), plan.clone());
        assert!(inner.find(&key(1), (1, 1)).is_some());
        inner.keep(key(3), (1, 1), plan.clone());
        assert!(inner.find(&key(2), (1, 1)).is_none() && inner.find(&key(1), (1, 1)).is_some());
        inner.keep(key(3), (2, 1), plan.clone());
        assert_eq!((inner.kept.len(), inner.weight), (2, 2 * plan.weight()));
        assert!(inner.find(&key(3), (1, 1)).is_none(), "of an earlier state");
    }
}
