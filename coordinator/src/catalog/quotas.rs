//! Quotas: the largest number of tables, and of bytes, of all tables whose names begin with a prefix.
//!
//! Usage is counted as tables change. A change that does not add bytes is never refused, so that a table over its quota can
//! still shrink.

use std::collections::BTreeMap;
use std::ops::Bound;

use volley_common::wire::catalog::{Part, Quota, SetQuota, Table, WriteMode, reply};
use volley_common::{Error, Result};

use super::apply::done;
use super::grants::{check_prefix, prefix_text};
use super::{Catalog, RowKey};

/// Maximum number of quotas.
const MAX_QUOTAS: usize = 10_000;

/// A quota, and what the tables of its prefix use.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaUsage {
    /// The quota.
    pub quota: Quota,
    /// Bytes of the newest versions of the tables, without replicas.
    pub bytes: u64,
    /// The number of tables.
    pub tables: u64,
}

impl QuotaUsage {
    fn check(&self, bytes: u64, new_tables: u64) -> Result<()> {
        let prefix = prefix_text(&self.quota.prefix);
        let (most_bytes, most_tables) = (self.quota.bytes, u64::from(self.quota.tables));
        if new_tables != 0 && most_tables != 0 && self.tables + new_tables > most_tables {
            return Err(Error::exhausted(format!(
                "{prefix} has {} tables, and its quota is {most_tables}: drop one, or raise the quota",
                self.tables
            )));
        }
        if bytes != 0 && most_bytes != 0 && self.bytes.saturating_add(bytes) > most_bytes {
            return Err(Error::exhausted(format!(
                "the tables of {prefix} have {} bytes, the write adds at least {bytes}, and their quota is {most_bytes}: drop or replace tables, or raise the quota",
                self.bytes
            )));
        }
        Ok(())
    }
}

impl Catalog {
    /// All quotas and what the tables of each use, by prefix.
    pub fn quotas(&self) -> impl Iterator<Item = &QuotaUsage> {
        self.quotas.values()
    }

    /// Checks that a write may add this many bytes to a table, and create it if it is new.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, with the figures of the quota.
    pub fn check_quota(&self, table: &[String], bytes: u64, is_new: bool) -> Result<()> {
        if self.quotas.is_empty() {
            return Ok(());
        }
        let prefixes = (0..=table.len()).map(|length| &table[..length]);
        let mut quotas = prefixes.filter_map(|prefix| self.quotas.get(prefix));
        quotas
            .try_for_each(|usage| usage.check(bytes, u64::from(is_new)))
            .map_err(|e| e.at(format_args!("table {:?}", table.join("/"))))
    }

    /// Checks at the begin of a write what its commit would be refused for, whatever rows it brings.
    pub(super) fn check_quota_to_begin(&self, table: &[String], mode: WriteMode) -> Result<()> {
        let exists = self.find(table).is_some();
        match mode {
            // The rows stay the same.
            WriteMode::Compact => Ok(()),
            // The new rows may have fewer bytes than the old ones.
            WriteMode::Replace if exists => Ok(()),
            WriteMode::Replace | WriteMode::Create | WriteMode::Append => self.check_quota(table, 1, !exists),
        }
    }

    /// Checks a commit; `table` is as it will be, but without the new parts in its totals.
    pub(super) fn check_quota_to_commit(&self, table: &Table, parts: &[Part]) -> Result<()> {
        let before = self.find(&table.name).map(|old| old.bytes);
        let after = parts.iter().fold(table.bytes, |sum, part| sum.saturating_add(part.bytes));
        self.check_quota(&table.name, after.saturating_sub(before.unwrap_or_default()), before.is_none())
    }

    /// Checks that several tables can be committed at once, each as [`Catalog::check_quota_to_commit`] has it. Where one becomes
    /// smaller, another may grow.
    pub(super) fn check_quotas_to_commit<'a>(
        &self,
        commits: impl Iterator<Item = (&'a Table, &'a [Part])>,
    ) -> Result<()> {
        if self.quotas.is_empty() {
            return Ok(());
        }
        let mut growth = BTreeMap::<&[String], (i128, u64)>::new();
        for (table, parts) in commits {
            let before = self.find(&table.name).map(|old| old.bytes);
            let after = parts.iter().fold(table.bytes, |sum, part| sum.saturating_add(part.bytes));
            for length in 0..=table.name.len() {
                let (bytes, tables) = growth.entry(&table.name[..length]).or_default();
                *bytes += i128::from(after) - i128::from(before.unwrap_or_default());
                *tables += u64::from(before.is_none());
            }
        }
        for (prefix, (bytes, tables)) in growth {
            if let Some(usage) = self.quotas.get(prefix) {
                usage.check(u64::try_from(bytes.max(0)).unwrap_or(u64::MAX), tables)?;
            }
        }
        Ok(())
    }

    /// Checks that an old version of a table, which may be dropped, can be its newest one.
    pub(super) fn check_quota_to_restore(&self, table: &Table, version: u64) -> Result<()> {
        if self.quotas.is_empty() {
            return Ok(());
        }
        let is_dropped = table.dropped_ms != 0;
        let before = if is_dropped { 0 } else { table.bytes };
        let after = self.part_rows_at(table.id, version).map(|part| part.bytes).sum::<u64>();
        self.check_quota(&table.name, after.saturating_sub(before), is_dropped)
    }

    pub(super) fn set_quota(&mut self, op: &SetQuota) -> Result<reply::Reply> {
        let quota = op.quota.as_ref().ok_or_else(|| Error::invalid("the command has no quota"))?;
        check_prefix(&quota.prefix)?;
        let exists = self.quotas.contains_key(&quota.prefix);
        match (quota.bytes, quota.tables) {
            (0, 0) if !exists => return Ok(done()),
            (0, 0) => self.unindex_quota(&quota.prefix),
            _ if !exists && self.quotas.len() >= MAX_QUOTAS => {
                return Err(Error::exhausted(format!(
                    "the cluster has {MAX_QUOTAS} quotas, which is the limit: remove some"
                )));
            }
            _ => self.index_quota(quota.clone()),
        }
        self.touched.insert(RowKey::Quota(quota.prefix.clone()));
        Ok(done())
    }

    pub(super) fn index_quota(&mut self, quota: Quota) {
        let from = (Bound::Included(quota.prefix.as_slice()), Bound::Unbounded);
        let names = self.names.range::<[String], _>(from).take_while(|(name, _)| name.starts_with(&quota.prefix));
        let (mut bytes, mut tables) = (0u64, 0u64);
        for table in names.filter_map(|(_, id)| self.tables.get(id)) {
            (bytes, tables) = (bytes + table.bytes, tables + 1);
        }
        self.quotas.insert(quota.prefix.clone(), QuotaUsage { quota, bytes, tables });
    }

    pub(super) fn unindex_quota(&mut self, prefix: &[String]) {
        self.quotas.remove(prefix);
    }

    /// Counts an existing table in the quotas of its prefixes.
    pub(super) fn count_in_quotas(&mut self, table: &Table) {
        self.change_quota_usage(table, |usage| {
            usage.tables += 1;
            usage.bytes += table.bytes;
        });
    }

    /// Undoes [`Catalog::count_in_quotas`].
    pub(super) fn uncount_in_quotas(&mut self, table: &Table) {
        self.change_quota_usage(table, |usage| {
            usage.tables -= 1;
            usage.bytes -= table.bytes;
        });
    }

    fn change_quota_usage(&mut self, table: &Table, change: impl Fn(&mut QuotaUsage)) {
        if self.quotas.is_empty() {
            return;
        }
        for length in 0..=table.name.len() {
            if let Some(usage) = self.quotas.get_mut(&table.name[..length]) {
                change(usage);
            }
        }
    }
}
