//! A cache of the plans of large tables. A plan is valid while neither the table's parts nor the nodes change.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use volley_common::Result;
use volley_common::wire::catalog::Table;

use crate::catalog::{Catalog, Revision};
use crate::planner::endpoints::{VersionPlan, plan_endpoints};

/// Plans of fewer parts are not cached: they are computed as fast as they are found, however many endpoints they have.
const MIN_PARTS: usize = 16;
/// Maximum bytes of memory of all cached plans.
const MAX_WEIGHT: usize = 32 << 20;

/// The arguments of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PlanKey {
    listener: Arc<str>,
    table: u64,
    version: u64,
    max_endpoints: usize,
    limit: Option<u64>,
}

struct CachedPlan {
    plan: Arc<VersionPlan>,
    /// The revisions of parts and nodes that the plan was computed from.
    revisions: (Revision, Revision),
    /// The number of the call that last used the plan.
    last_used: u64,
}

/// The most recently used plans, within `MAX_WEIGHT`.
#[derive(Default)]
pub struct PlanCache(Mutex<CachedPlans>);

#[derive(Default)]
struct CachedPlans {
    plans: HashMap<PlanKey, CachedPlan>,
    weight: usize,
    calls: u64,
}

impl PlanCache {
    /// As [`plan_endpoints`], on the nodes that are alive.
    ///
    /// # Errors
    /// As [`plan_endpoints`].
    pub fn plan(
        &self,
        catalog: &Catalog,
        table: &Table,
        version: u64,
        max_endpoints: usize,
        limit: Option<u64>,
        listener: &Arc<str>,
    ) -> Result<Arc<VersionPlan>> {
        let key = PlanKey { listener: listener.clone(), table: table.id, version, max_endpoints, limit };
        let revisions = catalog.revisions(table.id);
        if let Some(plan) = self.0.lock().find(&key, revisions) {
            return Ok(plan);
        }
        let alive = catalog.live_node_ids();
        let plan = Arc::new(plan_endpoints(catalog, table, version, max_endpoints, limit, alive, listener)?);
        let parts: usize = plan.endpoints.iter().map(|endpoint| endpoint.parts).sum();
        if parts >= MIN_PARTS && plan.weight() <= MAX_WEIGHT {
            self.0.lock().insert(key, revisions, plan.clone());
        }
        Ok(plan)
    }
}

impl CachedPlans {
    fn find(&mut self, key: &PlanKey, revisions: (Revision, Revision)) -> Option<Arc<VersionPlan>> {
        self.calls += 1;
        let cached = self.plans.get_mut(key).filter(|cached| cached.revisions == revisions)?;
        cached.last_used = self.calls;
        Some(cached.plan.clone())
    }

    fn insert(&mut self, key: PlanKey, revisions: (Revision, Revision), plan: Arc<VersionPlan>) {
        self.weight += plan.weight();
        let cached = CachedPlan { plan, revisions, last_used: self.calls };
        if let Some(old) = self.plans.insert(key, cached) {
            self.weight -= old.plan.weight();
        }
        while self.weight > MAX_WEIGHT {
            let oldest = self.plans.iter().min_by_key(|(_, cached)| cached.last_used).map(|(key, _)| key.clone());
            let Some(evicted) = oldest.and_then(|key| self.plans.remove(&key)) else { return };
            self.weight -= evicted.plan.weight();
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
    use crate::planner::endpoints::EndpointPlan;

    /// Two nodes, and a table with just enough parts on both to be cached.
    fn cluster() -> (Catalog, Table) {
        let mut catalog = Catalog::default();
        let mut put = |row| catalog.insert_row(Row { row: Some(row) });
        for id in [1, 2] {
            let (flight_uri, state) = (format!("grpc+tcp://n{id}:1"), NodeState::Alive as i32);
            put(row::Row::Node(Node { id, flight_uri, state, ..Node::default() }));
        }
        let table = Table { id: 1, name: vec!["t".into()], version: 1, oldest: 1, ..Table::default() };
        put(row::Row::Table(table.clone()));
        for seq in 0..MIN_PARTS as u64 {
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
    fn plan_is_computed_once_while_nothing_changes() {
        let ((catalog, table), plans) = (cluster(), PlanCache::default());
        let plan = |most, limit| plans.plan(&catalog, &table, 1, most, limit, &"".into()).unwrap();
        let first = plan(99, None);
        assert!(Arc::ptr_eq(&first, &plan(99, None)));
        let whole = plan(1, None);
        assert_eq!((whole.endpoints.len(), whole.endpoints[0].parts), (1, MIN_PARTS));
        assert!(Arc::ptr_eq(&whole, &plan(1, None)));
        let few = plan(99, Some(3));
        assert_eq!(few.rows, 3);
        assert!(!Arc::ptr_eq(&few, &plan(99, Some(3))), "too few parts");
        assert!(Arc::ptr_eq(&first, &plan(99, None)));
    }

    #[test]
    fn lost_copy_and_unreachable_node_leave_the_plan_at_once() {
        let ((mut catalog, table), plans) = (cluster(), PlanCache::default());
        let uris = |catalog: &Catalog, at: usize| {
            let plan = plans.plan(catalog, &table, 1, 99, None, &"".into())?;
            Ok::<_, volley_common::Error>(plan.locations(at, 0).map(|uri| plan.uris[uri].clone()).collect::<Vec<_>>())
        };
        assert_eq!(uris(&catalog, 3).unwrap().len(), 2);
        apply(&mut catalog, drop_copy(3, 1));
        assert_eq!(uris(&catalog, 3).unwrap(), ["grpc+tcp://n2:1"]);
        let unreachable = SetNodeState { node: 2, state: NodeState::Unreachable as i32, boot: 0 };
        apply(&mut catalog, Op::SetNodeState(unreachable));
        assert_eq!(uris(&catalog, 0).unwrap_err().code, Code::Unavailable);
        let back = SetNodeState { node: 2, state: NodeState::Alive as i32, boot: 0 };
        apply(&mut catalog, Op::SetNodeState(back));
        assert_eq!(uris(&catalog, 0).unwrap().len(), 2);
    }

    #[test]
    fn plan_of_another_catalog_is_not_reused() {
        let plans = PlanCache::default();
        let (first, table) = cluster();
        let plan = plans.plan(&first, &table, 1, 99, None, &"".into()).unwrap();
        let (second, _) = cluster();
        assert!(!Arc::ptr_eq(&plan, &plans.plan(&second, &table, 1, 99, None, &"".into()).unwrap()));
    }

    #[test]
    fn least_recently_used_plans_are_evicted() {
        let mut cached = CachedPlans::default();
        let mut endpoint = EndpointPlan::default();
        endpoint.ticket_suffix = vec![0; MAX_WEIGHT / 3].into();
        let plan = Arc::new(VersionPlan { endpoints: vec![endpoint], ..VersionPlan::default() });
        let key = |table| PlanKey { listener: "".into(), table, version: 1, max_endpoints: 1, limit: None };
        cached.insert(key(1), (1, 1), plan.clone());
        cached.insert(key(2), (1, 1), plan.clone());
        assert!(cached.find(&key(1), (1, 1)).is_some());
        cached.insert(key(3), (1, 1), plan.clone());
        assert!(cached.find(&key(2), (1, 1)).is_none() && cached.find(&key(1), (1, 1)).is_some());
        cached.insert(key(3), (2, 1), plan.clone());
        assert_eq!((cached.plans.len(), cached.weight), (2, 2 * plan.weight()));
        assert!(cached.find(&key(3), (1, 1)).is_none(), "an earlier revision");
    }
}
