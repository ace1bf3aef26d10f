//! What the versions of the coordinators know: a command that one of them does not know is not proposed, because its catalog
//! would then differ from those of the others. What a command can do without is left out of it until all know it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, TableSpec};
use volley_common::wire::{
    FENCED_WRITE_FEATURES, IDENTITY_FEATURES, PART_STATISTICS_FEATURES, QUERY_RESULT_FEATURES, STATS_COLUMNS_FEATURES,
    TABLE_TTL_FEATURES, TRANSACTION_FEATURES,
};
use volley_common::{Error, Result};

use super::context::RaftContext;
use super::membership::peer_identity::query_all;
use crate::catalog::{Catalog, features_of};

/// How long a command waits to learn what the other coordinators know, if it can do without that.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What only later versions know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogFeature {
    /// Users, service tokens, grants, signing keys and quotas.
    Identities,
    /// Transactions.
    Transactions,
    /// Statistics of parts.
    PartStatistics,
    /// Staged writes into which nothing gets that was meant for an earlier write of their ids.
    FencedWrites,
    /// Results of queries.
    QueryResults,
    /// Tables that expire.
    TableTtl,
    /// Tables that name the columns of their statistics.
    StatsColumns,
}

impl CatalogFeature {
    /// All of them, the oldest first: who knows one knows those before it.
    pub const ALL: [CatalogFeature; 7] = [
        CatalogFeature::Identities,
        CatalogFeature::Transactions,
        CatalogFeature::PartStatistics,
        CatalogFeature::FencedWrites,
        CatalogFeature::QueryResults,
        CatalogFeature::TableTtl,
        CatalogFeature::StatsColumns,
    ];

    /// What a command needs. Those that remove such rows change nothing where there are none.
    fn needed_by(op: &Op) -> Option<Self> {
        match op {
            Op::PutUser(_)
            | Op::CreateToken(_)
            | Op::PutGrant(_)
            | Op::AddSigningKey(_)
            | Op::SetQuota(_)
            | Op::ResetAdministrator(_)
            | Op::RotateTicketKey(_) => Some(CatalogFeature::Identities),
            Op::BeginWrite(begin) => Self::needed_by_write(begin),
            Op::CreateTable(create) => Self::needed_by_table(create.spec.as_ref()),
            Op::EndTransaction(_) => Some(CatalogFeature::Transactions),
            _ => None,
        }
    }

    /// The newest one that a write needs.
    fn needed_by_write(begin: &BeginWrite) -> Option<Self> {
        let of_transaction = (!begin.transaction.is_empty()).then_some(CatalogFeature::Transactions);
        let of_result = begin.query_result.then_some(CatalogFeature::QueryResults);
        Self::needed_by_table(begin.spec.as_ref()).or(of_result).or(of_transaction)
    }

    /// What the options of a table need.
    fn needed_by_table(spec: Option<&TableSpec>) -> Option<Self> {
        let features = features_of(spec);
        Self::ALL.into_iter().rfind(|feature| feature.least() == features)
    }

    /// Whether a catalog has had such commands: then every coordinator knows them, and every new one must.
    pub fn is_in(self, catalog: &Catalog) -> bool {
        match self {
            CatalogFeature::Identities => catalog.identity_epoch() != 0,
            CatalogFeature::Transactions => catalog.has_had_transactions(),
            CatalogFeature::PartStatistics => catalog.has_part_statistics(),
            CatalogFeature::FencedWrites => catalog.has_had_fenced_writes(),
            CatalogFeature::QueryResults => catalog.required_features() >= QUERY_RESULT_FEATURES,
            CatalogFeature::TableTtl => catalog.required_features() >= TABLE_TTL_FEATURES,
            CatalogFeature::StatsColumns => catalog.required_features() >= STATS_COLUMNS_FEATURES,
        }
    }

    /// The least number of features that a coordinator says if it knows this one.
    pub fn least(self) -> u32 {
        match self {
            CatalogFeature::Identities => IDENTITY_FEATURES,
            CatalogFeature::Transactions => TRANSACTION_FEATURES,
            CatalogFeature::PartStatistics => PART_STATISTICS_FEATURES,
            CatalogFeature::FencedWrites => FENCED_WRITE_FEATURES,
            CatalogFeature::QueryResults => QUERY_RESULT_FEATURES,
            CatalogFeature::TableTtl => TABLE_TTL_FEATURES,
            CatalogFeature::StatsColumns => STATS_COLUMNS_FEATURES,
        }
    }

    /// Its name, for errors.
    pub fn name(self) -> &'static str {
        match self {
            CatalogFeature::Identities => "users, grants and quotas",
            CatalogFeature::Transactions => "transactions",
            CatalogFeature::PartStatistics => "statistics of parts",
            CatalogFeature::FencedWrites => "fenced staged writes",
            CatalogFeature::QueryResults => "results of queries",
            CatalogFeature::TableTtl => "tables that expire (ttl_s)",
            CatalogFeature::StatsColumns => "columns of statistics (stats_columns)",
        }
    }
}

impl RaftContext {
    /// Checks that every coordinator knows a command. Asks those that have not said it yet.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, naming the coordinator to upgrade, or to start.
    pub async fn check_features(&self, op: &Op) -> Result<()> {
        if self.check_known_features(op).is_ok() {
            return Ok(());
        }
        query_all(self).await;
        self.check_known_features(op)
    }

    /// The same by what the coordinators said last: each is asked once a second.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, naming the coordinator to upgrade, or to start.
    pub fn check_known_features(&self, op: &Op) -> Result<()> {
        CatalogFeature::needed_by(op).map_or(Ok(()), |feature| self.check_known(feature))
    }

    /// Removes from a command what it can do without, unless every coordinator is known to know it: as a follower, one that does not
    /// would store the entry without it. Parts without statistics are never left out of a read, and a write that is not fenced is
    /// what it was in earlier versions.
    pub async fn remove_unknown(&self, op: &mut Op) {
        remove_statistics_unless(op, || self.check_known(CatalogFeature::PartStatistics).is_ok());
        if let Op::BeginWrite(begin) = op
            && begin.fenced
        {
            begin.fenced = self.knows_fenced_writes().await;
        }
    }

    /// Whether every coordinator is known to know fenced writes. Right after its start this one may not have heard from the others
    /// yet: then it asks them.
    async fn knows_fenced_writes(&self) -> bool {
        let is_known = || self.check_known(CatalogFeature::FencedWrites).is_ok();
        if is_known() {
            return true;
        }
        if !self.has_heard_from_all() {
            // Boxed: the futures around it nest as deep as the compiler allows.
            let _ = tokio::time::timeout(ASK_TIMEOUT, query_all(self).boxed()).await;
        }
        is_known()
    }

    /// Whether every other coordinator has said what it knows.
    fn has_heard_from_all(&self) -> bool {
        let peers = self.peers();
        let features = self.features.lock();
        peers.keys().all(|id| *id == self.config.id || features.contains_key(id))
    }

    /// Checks that every coordinator has said that it knows something, or that the catalog has it.
    fn check_known(&self, feature: CatalogFeature) -> Result<()> {
        if feature.is_in(&self.view()) {
            return Ok(());
        }
        let peers = self.peers();
        check(feature, &peers, self.config.id, &self.features.lock())
    }
}

/// Removes the statistics of a command's parts, if it has some and they are not known.
fn remove_statistics_unless(op: &mut Op, are_known: impl FnOnce() -> bool) {
    let parts = match op {
        Op::CommitWrite(commit) => &mut commit.parts,
        Op::StageParts(stage) => &mut stage.parts,
        _ => return,
    };
    let has_statistics = parts.iter().any(|part| !part.statistics.is_empty());
    if has_statistics && !are_known() {
        parts.iter_mut().for_each(|part| part.statistics = Bytes::new());
    }
}

/// `peers`: the addresses of all coordinators, by id. `own`: the id of this one. `features`: what the others said.
fn check(
    feature: CatalogFeature,
    peers: &BTreeMap<u64, String>,
    own: u64,
    features: &BTreeMap<u64, u32>,
) -> Result<()> {
    let name = feature.name();
    for (id, addr) in peers.iter().filter(|(id, _)| **id != own) {
        let why = match features.get(id) {
            Some(known) if *known >= feature.least() => continue,
            Some(_) => format!("is of a version that does not know {name}: upgrade it first"),
            None => format!("has not yet said whether it knows {name}: start it if it is down, or remove it"),
        };
        return Err(Error::precondition(format!("coordinator {id} at {addr} {why}")));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{Clear, CommitWrite, CreateTable, EndTransaction, Part, PutUser, StageParts};

    use super::*;

    #[test]
    fn coordinator_without_a_feature_is_named() {
        let peers: BTreeMap<u64, String> = (1..=3).map(|id| (id, format!("c{id}:1"))).collect();
        for feature in CatalogFeature::ALL {
            let check = |features: &[(u64, u32)]| super::check(feature, &peers, 1, &features.iter().copied().collect());
            let least = feature.least();
            let error = check(&[(2, least), (3, least - 1)]).unwrap_err();
            assert_eq!(error.code, Code::FailedPrecondition);
            assert!(error.message.contains("coordinator 3 at c3:1") && error.message.contains("upgrade it"), "{error}");
            assert!(error.message.contains(feature.name()), "{error}");
            let error = check(&[(3, least)]).unwrap_err();
            assert!(error.message.contains("coordinator 2 at c2:1") && error.message.contains("start it"), "{error}");
            check(&[(2, least), (3, least + 1)]).unwrap();
        }
    }

    #[test]
    fn statistics_are_removed_while_a_coordinator_does_not_know_them() {
        let part = |statistics: &'static [u8]| Part { rows: 7, statistics: statistics.into(), ..Part::default() };
        let commit = |parts| Op::CommitWrite(CommitWrite { write: "w".into(), parts, attempt: 1 });
        let stage = |parts| Op::StageParts(StageParts { write: "w".into(), parts, ..StageParts::default() });
        let without = |mut op: Op, are_known: bool| {
            remove_statistics_unless(&mut op, || are_known);
            op
        };
        for parts in [vec![part(b"a"), part(b"")], vec![part(b"")], Vec::new()] {
            let removed: Vec<Part> = parts.iter().map(|_| part(b"")).collect();
            assert_eq!(without(commit(parts.clone()), false), commit(removed.clone()));
            assert_eq!(without(stage(parts.clone()), false), stage(removed));
            assert_eq!(without(commit(parts.clone()), true), commit(parts));
        }
        assert_eq!(without(Op::Clear(Clear {}), false), Op::Clear(Clear {}));
    }

    #[test]
    fn commands_of_earlier_versions_need_no_features() {
        let needed = |op: Op| CatalogFeature::needed_by(&op);
        assert_eq!(needed(Op::PutUser(PutUser::default())), Some(CatalogFeature::Identities));
        assert_eq!(needed(Op::EndTransaction(EndTransaction::default())), Some(CatalogFeature::Transactions));
        let begin =
            |transaction: &str| Op::BeginWrite(BeginWrite { transaction: transaction.into(), ..Default::default() });
        assert_eq!((needed(begin("tx")), needed(begin(""))), (Some(CatalogFeature::Transactions), None));
        let result = BeginWrite { query_result: true, ..BeginWrite::default() };
        assert_eq!(needed(Op::BeginWrite(result)), Some(CatalogFeature::QueryResults));
        let spec = |ttl_ms| Some(TableSpec { shards: 1, ttl_ms, ..TableSpec::default() });
        let create = |ttl_ms| Op::CreateTable(CreateTable { spec: spec(ttl_ms), ..CreateTable::default() });
        assert_eq!((needed(create(1)), needed(create(0))), (Some(CatalogFeature::TableTtl), None));
        let begin = BeginWrite { transaction: "tx".into(), spec: spec(1), ..BeginWrite::default() };
        assert_eq!(needed(Op::BeginWrite(begin)), Some(CatalogFeature::TableTtl), "the newest one");
        let spec = TableSpec { ttl_ms: 1, stats_columns: vec!["a".into()], ..TableSpec::default() };
        let both = CreateTable { spec: Some(spec), ..CreateTable::default() };
        assert_eq!(needed(Op::CreateTable(both)), Some(CatalogFeature::StatsColumns));
        assert_eq!(needed(Op::Clear(Clear {})), None);
    }
}
